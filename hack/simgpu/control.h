/* The commands of `simgpu`. Each gets the words after its name and returns an exit status. */
#ifndef SIMGPU_CONTROL_H
#define SIMGPU_CONTROL_H

#include "rules.h"

struct words {
    int count;
    char **values;
};

enum { EXIT_DONE = 0, EXIT_REFUSED = 1, EXIT_USAGE = 2 };

/* The word after `name`, or NULL. */
const char *option(const struct words *words, const char *name);
bool has_flag(const struct words *words, const char *name);
/* A whole number in 0..4294967295; ends the program with a message when it is none. */
unsigned int number(const char *text, const char *what);
__attribute__((format(printf, 1, 2))) int refuse(const char *format, ...);
__attribute__((format(printf, 1, 2))) int misuse(const char *format, ...);

/* A GPU or MIG UUID; `compute` and `instance` are NULL for a GPU. */
bool find_device(const char *uuid, struct mig_device *found);
/* Ends the program with a message when the option is missing or names nothing. */
struct gpu *required_gpu(const struct words *words);
struct mig_device required_device(const struct words *words);

int command_init(const char *state_path, const struct words *words);
int command_show(const struct words *words);
int command_log(const struct words *words);
int command_counters(const struct words *words);
int command_proc(const struct words *words);
int command_util(const struct words *words);
int command_fault(const struct words *words);
int command_latency(const struct words *words);
int command_lost(const struct words *words);
int command_reset(const struct words *words);
int command_reboot(const struct words *words);
int command_boot_id(const struct words *words);

void print_processes_json(void);

#endif
