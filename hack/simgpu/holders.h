/* Who holds what. A process that has ended holds nothing. */
#ifndef SIMGPU_HOLDERS_H
#define SIMGPU_HOLDERS_H

#include "state.h"

bool is_held(const struct gpu_process *process);
bool gpu_has_processes(const struct gpu *gpu);
bool gpu_has_processes_outside_mig(const struct gpu *gpu);
bool instance_has_processes(const struct gpu_instance *instance);
bool compute_has_processes(const struct compute_instance *compute);

#endif
