/* simgpu permission, virtualization, parallel, nvswitch: what the system around the driver allows. */
#include <string.h>

#include "control_commands.h"

static int position(const char *word, const char *const *names, int count)
{
    for (int i = 0; word != NULL && i < count; i++)
        if (strcmp(word, names[i]) == 0)
            return i;
    return -1;
}

static const char *first(const struct words *words) { return words->count > 0 ? words->values[0] : NULL; }

int command_permission(const struct words *words)
{
    static const char *const NAMES[] = {[PERMIT_ALL] = "all", [PERMIT_ROOT] = "root", [PERMIT_NOBODY] = "nobody"};
    int found = position(first(words), NAMES, 3);
    if (found < 0)
        return misuse("permission all, root or nobody?");
    state->permission = (uint32_t)found;
    return EXIT_DONE;
}

int command_virtualization(const struct words *words)
{
    static const char *const NAMES[] = {
        [BARE_METAL] = "none", [PASSTHROUGH] = "passthrough", [VIRTUAL_MACHINE] = "vm", [VGPU_GUEST] = "vgpu"};
    struct gpu *gpu = required_gpu(words);
    int found = position(option(words, "--kind"), NAMES, 4);
    if (found < 0)
        return misuse("--kind none, passthrough, vm or vgpu?");
    gpu->virtualization = (uint32_t)found;
    return EXIT_DONE;
}

int command_parallel(const struct words *words)
{
    static const char *const NAMES[] = {"on", "off"};
    int found = position(first(words), NAMES, 2);
    if (found < 0)
        return misuse("parallel on or off?");
    state->one_call_at_a_time = (uint32_t)found;
    return EXIT_DONE;
}

static const char *const NVSWITCH_WORDS[] = {
    [NVSWITCH_NONE] = "none", [NVSWITCH_MANAGED] = "managed", [NVSWITCH_UNMANAGED] = "unmanaged"};

const char *nvswitch_word(void) { return NVSWITCH_WORDS[state->nvswitch % 3]; }

int command_nvswitch(const struct words *words)
{
    int found = position(first(words), NVSWITCH_WORDS, 3);
    if (found < 0)
        return misuse("nvswitch none, managed or unmanaged?");
    state->nvswitch = (uint32_t)found;
    return EXIT_DONE;
}
