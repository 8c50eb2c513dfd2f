/* The commands of `simgpu`. Each gets the words after its name and returns an exit status. */
#ifndef SIMGPU_CONTROL_COMMANDS_H
#define SIMGPU_CONTROL_COMMANDS_H

#include "control_words.h"

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
int command_xid(const struct words *words);
int command_permission(const struct words *words);
int command_virtualization(const struct words *words);
int command_parallel(const struct words *words);
int command_nvswitch(const struct words *words);
int command_pass(const struct words *words);

void print_processes_json(void);
const char *nvswitch_word(void);

#endif
