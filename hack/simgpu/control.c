/* simgpu: makes and steers the simulated node. */
#include "control.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: simgpu [--state FILE] COMMAND            FILE defaults to $SIMGPU_STATE\n"
    "  init --gpu MODEL[:COUNT]... [--mig] [--seed TEXT] [--fresh-mig-uuids]\n"
    "  show [--json]                                what is there\n"
    "  log [--json]                                 every mutation, successful or not\n"
    "  counters                                     calls per NVML function, as JSON\n"
    "  proc attach --device UUID --pid PID [--memory-mib N] | detach --pid PID | list\n"
    "  util --device UUID [--graphics R] [--sm R] [--occupancy R] [--tensor R] [--dram R]     R in 0..1\n"
    "  fault add --function NAME [--after N] [--count N] [--code NAME|INT] [--delay-ms N] [--hang] [--die before|after]\n"
    "  fault list | clear\n"
    "  latency --function NAME --ms N               every call of it; 0 takes it back\n"
    "  lost --gpu UUID                              falls off the bus until the next reboot\n"
    "  reset --gpu UUID                             instances go, the pending MIG mode comes into force\n"
    "  reboot                                       new boot id; instances and processes go, the mode by generation\n"
    "  boot-id\n";

const char *option(const struct words *words, const char *name)
{
    for (int i = 0; i + 1 < words->count; i++)
        if (strcmp(words->values[i], name) == 0)
            return words->values[i + 1];
    return NULL;
}

bool has_flag(const struct words *words, const char *name)
{
    for (int i = 0; i < words->count; i++)
        if (strcmp(words->values[i], name) == 0)
            return true;
    return false;
}

int refuse(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("simgpu: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return EXIT_REFUSED;
}

int misuse(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("simgpu: ", stderr);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n%s", USAGE);
    va_end(arguments);
    return EXIT_USAGE;
}

unsigned int number(const char *text, const char *what)
{
    char *end = NULL;
    unsigned long value = text == NULL ? 0 : strtoul(text, &end, 10);
    if (end == NULL || end == text || *end != '\0' || text[0] == '-' || value > 0xFFFFFFFF)
        exit(misuse("%s needs a whole number", what));
    return (unsigned int)value;
}

bool find_device(const char *uuid, struct mig_device *found)
{
    *found = (struct mig_device){.gpu = find_gpu_uuid(uuid)};
    return found->gpu != NULL || find_mig_uuid(uuid, found);
}

struct gpu *required_gpu(const struct words *words)
{
    const char *uuid = option(words, "--gpu");
    if (uuid == NULL)
        exit(misuse("--gpu UUID is missing"));
    struct gpu *gpu = find_gpu_uuid(uuid);
    if (gpu == NULL)
        exit(refuse("no GPU %s", uuid));
    return gpu;
}

struct mig_device required_device(const struct words *words)
{
    const char *uuid = option(words, "--device");
    struct mig_device found;
    if (uuid == NULL)
        exit(misuse("--device UUID is missing"));
    if (!find_device(uuid, &found))
        exit(refuse("no device %s", uuid));
    return found;
}

static const struct {
    const char *name;
    int (*run)(const struct words *words);
} COMMANDS[] = {
    {"show", command_show},       {"log", command_log},     {"counters", command_counters}, {"proc", command_proc},
    {"util", command_util},       {"fault", command_fault}, {"latency", command_latency},   {"lost", command_lost},
    {"reset", command_reset},     {"reboot", command_reboot}, {"boot-id", command_boot_id},
};

static int open_state(const char *path)
{
    switch (path == NULL ? STATE_MISSING : state_map(path)) {
    case STATE_OK:
        return EXIT_DONE;
    case STATE_MISSING:
        return refuse("no state at %s: run simgpu init", path == NULL ? "$SIMGPU_STATE (unset)" : path);
    case STATE_FOREIGN:
        return refuse("%s was made by another build: run simgpu init", path);
    case STATE_SYSTEM:
        break;
    }
    return refuse("cannot open %s", path);
}

static int run(const char *path, const char *name, const struct words *words)
{
    if (strcmp(name, "init") == 0)
        return path == NULL ? misuse("--state FILE or SIMGPU_STATE is missing") : command_init(path, words);
    for (size_t i = 0; i < sizeof COMMANDS / sizeof COMMANDS[0]; i++) {
        if (strcmp(COMMANDS[i].name, name) != 0)
            continue;
        int status = open_state(path);
        if (status != EXIT_DONE)
            return status;
        state_lock();
        status = COMMANDS[i].run(words);
        state_unlock();
        return status;
    }
    return misuse("unknown command %s", name);
}

int main(int count, char **values)
{
    const char *path = getenv("SIMGPU_STATE");
    int at = 1;
    if (count > 2 && strcmp(values[1], "--state") == 0) {
        path = values[2];
        at = 3;
    }
    if (at >= count)
        return misuse("which command?");
    if (strcmp(values[at], "--help") == 0 || strcmp(values[at], "-h") == 0) {
        fputs(USAGE, stdout);
        return EXIT_DONE;
    }
    struct words words = {count - at - 1, values + at + 1};
    return run(path, values[at], &words);
}
