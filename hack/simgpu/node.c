#include "node.h"

#include <stdio.h>
#include <unistd.h>

#include "instances.h"
#include "nvml_api.h"
#include "uuid.h"

void reset_gpu(struct gpu *gpu)
{
    clear_instances(gpu);
    gpu->mig_current = gpu->mig_pending;
}

void new_boot_id(struct state *target)
{
    char name[96];
    snprintf(name, sizeof name, "%lld/%d", (long long)wall_ns(), (int)getpid());
    uuid_of_name(name, target->boot_id, sizeof target->boot_id);
}

void reboot_node(void)
{
    for (int i = 0; i < MAX_PROCESSES; i++)
        state->processes[i].identity.pid = 0;
    for (unsigned int i = 0; i < state->gpu_count; i++) {
        struct gpu *gpu = &state->gpus[i];
        if (!model_of(gpu)->mode_survives_reboot)
            gpu->mig_pending = NVML_DEVICE_MIG_DISABLE;
        reset_gpu(gpu);
        gpu->lost = 0;
    }
    new_boot_id(state);
}
