#include "instances.h"

#include <string.h>

#include "events.h"
#include "lookup.h"
#include "usage.h"

/* Ids are positions in a heap over the board; see "gi_id" where the geometry was gathered. */
static uint32_t heap_position(const struct gpu *gpu, const struct gpu_profile *profile, unsigned int start)
{
    return model_of(gpu)->memory_slices / profile->size - 1 + start / profile->size;
}

struct gpu_instance *create_instance(struct gpu *gpu, const struct gpu_profile *profile, unsigned int start)
{
    for (int i = 0; i < MAX_GPU_INSTANCES; i++) {
        struct gpu_instance *slot = &gpu->instances[i];
        if (slot->serial != 0)
            continue;
        memset(slot, 0, sizeof *slot);
        slot->id = heap_position(gpu, profile, start);
        slot->profile = (uint32_t)(profile - model_of(gpu)->profiles);
        slot->start = start;
        slot->size = profile->size;
        __atomic_store_n(&slot->serial, next_serial(), __ATOMIC_RELEASE);
        tell_mig_change(gpu);
        return slot;
    }
    return NULL;
}

static uint32_t lowest_free_compute_id(const struct gpu_instance *instance)
{
    uint32_t id = 0;
    for (int i = 0; i < MAX_COMPUTE_INSTANCES; i++)
        if (instance->compute[i].serial != 0 && instance->compute[i].id == id) {
            id++;
            i = -1;
        }
    return id;
}

struct compute_instance *create_compute(struct gpu *gpu, struct gpu_instance *instance,
                                        const struct compute_profile *profile, unsigned int start)
{
    for (int i = 0; i < MAX_COMPUTE_INSTANCES; i++) {
        struct compute_instance *slot = &instance->compute[i];
        if (slot->serial != 0)
            continue;
        slot->id = lowest_free_compute_id(instance);
        slot->profile = (uint32_t)(profile - profile_of(gpu, instance)->compute);
        slot->start = start;
        slot->size = profile->slices;
        __atomic_store_n(&slot->serial, next_serial(), __ATOMIC_RELEASE);
        tell_mig_change(gpu);
        return slot;
    }
    return NULL;
}

void destroy_instance(struct gpu *gpu, struct gpu_instance *instance)
{
    __atomic_store_n(&instance->serial, 0, __ATOMIC_RELEASE);
    tell_mig_change(gpu);
    refresh_gpu_utilization(gpu);
}

void destroy_compute(struct gpu *gpu, struct compute_instance *compute)
{
    __atomic_store_n(&compute->serial, 0, __ATOMIC_RELEASE);
    tell_mig_change(gpu);
}

void clear_instances(struct gpu *gpu)
{
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (state->processes[i].gpu == index_of_gpu(gpu) && state->processes[i].gpu_instance != 0)
            state->processes[i].identity.pid = 0;
    for (int i = 0; i < MAX_GPU_INSTANCES; i++)
        __atomic_store_n(&gpu->instances[i].serial, 0, __ATOMIC_RELEASE);
    tell_mig_change(gpu);
    refresh_gpu_utilization(gpu);
}
