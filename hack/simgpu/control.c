/* simgpu: makes and steers the simulated node. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control_commands.h"

static const struct {
    const char *name;
    int (*run)(const struct words *words);
} COMMANDS[] = {
    {"show", command_show},       {"log", command_log},     {"counters", command_counters}, {"proc", command_proc},
    {"util", command_util},       {"fault", command_fault}, {"latency", command_latency},   {"lost", command_lost},
    {"reset", command_reset},     {"reboot", command_reboot}, {"boot-id", command_boot_id},
    {"xid", command_xid},         {"permission", command_permission}, {"virtualization", command_virtualization},
    {"parallel", command_parallel}, {"nvswitch", command_nvswitch}, {"pass", command_pass},
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
