#include "holders.h"

#include "lookup.h"

bool is_held(const struct gpu_process *process) { return is_alive(&process->identity); }

bool gpu_has_processes(const struct gpu *gpu)
{
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (state->processes[i].gpu == index_of_gpu(gpu) && is_held(&state->processes[i]))
            return true;
    return false;
}

bool gpu_has_processes_outside_mig(const struct gpu *gpu)
{
    for (int i = 0; i < MAX_PROCESSES; i++) {
        const struct gpu_process *process = &state->processes[i];
        if (process->gpu == index_of_gpu(gpu) && process->gpu_instance == 0 && is_held(process))
            return true;
    }
    return false;
}

bool instance_has_processes(const struct gpu_instance *instance)
{
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (state->processes[i].gpu_instance == instance->serial && is_held(&state->processes[i]))
            return true;
    return false;
}

bool compute_has_processes(const struct compute_instance *compute)
{
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (state->processes[i].compute_instance == compute->serial && is_held(&state->processes[i]))
            return true;
    return false;
}
