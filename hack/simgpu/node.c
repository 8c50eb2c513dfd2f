/* Who holds what, which MIG devices there are, and what a reset or a reboot leaves. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "rules.h"
#include "usage.h"
#include "uuid.h"

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

static bool comes_before(const struct mig_device *a, const struct mig_device *b)
{
    if (a->instance->id != b->instance->id)
        return a->instance->id < b->instance->id;
    return a->compute != NULL && b->compute != NULL && a->compute->id < b->compute->id;
}

static void insert_sorted(struct mig_device *devices, unsigned int *count, struct mig_device device)
{
    unsigned int at = (*count)++;
    for (; at > 0 && comes_before(&device, &devices[at - 1]); at--)
        devices[at] = devices[at - 1];
    devices[at] = device;
}

unsigned int list_mig_devices(struct gpu *gpu, struct mig_device devices[MAX_MIG_DEVICES])
{
    unsigned int count = 0;
    for (int i = 0; i < MAX_GPU_INSTANCES; i++) {
        struct gpu_instance *instance = &gpu->instances[i];
        if (instance->serial == 0)
            continue;
        if (!has_compute(instance))
            insert_sorted(devices, &count, (struct mig_device){gpu, instance, NULL});
        for (int k = 0; k < MAX_COMPUTE_INSTANCES; k++)
            if (instance->compute[k].serial != 0)
                insert_sorted(devices, &count, (struct mig_device){gpu, instance, &instance->compute[k]});
    }
    return count;
}

void mig_uuid(const struct mig_device *device, char text[UUID_TEXT])
{
    char name[160];
    unsigned long long serial = state->fresh_mig_uuids ? (unsigned long long)device->compute->serial : 0;
    snprintf(name, sizeof name, "%s/%u/%u/%llu", device->gpu->uuid, device->instance->id, device->compute->id, serial);
    memcpy(text, "MIG-", 4);
    uuid_of_name(name, text + 4, UUID_TEXT - 4);
}

bool find_mig_uuid(const char *uuid, struct mig_device *device)
{
    struct mig_device devices[MAX_MIG_DEVICES];
    for (unsigned int g = 0; g < state->gpu_count; g++) {
        unsigned int count = list_mig_devices(&state->gpus[g], devices);
        for (unsigned int i = 0; i < count; i++) {
            char text[UUID_TEXT];
            if (devices[i].compute == NULL)
                continue;
            mig_uuid(&devices[i], text);
            if (strcmp(text, uuid) == 0) {
                *device = devices[i];
                return true;
            }
        }
    }
    return false;
}

struct gpu *find_gpu_uuid(const char *uuid)
{
    for (unsigned int i = 0; i < state->gpu_count; i++)
        if (strcmp(state->gpus[i].uuid, uuid) == 0)
            return &state->gpus[i];
    return NULL;
}

void clear_instances(struct gpu *gpu)
{
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (state->processes[i].gpu == index_of_gpu(gpu) && state->processes[i].gpu_instance != 0)
            state->processes[i].identity.pid = 0;
    for (int i = 0; i < MAX_GPU_INSTANCES; i++)
        __atomic_store_n(&gpu->instances[i].serial, 0, __ATOMIC_RELEASE);
    gpu->mig_changes++;
    refresh_gpu_utilization(gpu);
}

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
