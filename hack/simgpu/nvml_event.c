/* Events: changes of the MIG configuration and Xid errors, per physical device. */
#include <string.h>

#include "call.h"
#include "events.h"

enum { MAX_EVENT_SETS = 16, POLL_MS = 5 };

static const unsigned long long TYPES[EVENT_KINDS] = {
    [EVENT_MIG_CHANGE] = nvmlEventMigConfigChange,
    [EVENT_XID] = nvmlEventTypeXidCriticalError,
};
static const unsigned long long ALL_TYPES = nvmlEventMigConfigChange | nvmlEventTypeXidCriticalError;

/* A set is its own handle; the table keeps a freed one from being followed. */
struct nvmlEventSet_st {
    bool live;
    bool registered[MAX_GPUS][EVENT_KINDS];
    uint64_t since[MAX_GPUS][EVENT_KINDS]; /* the state's count then: what came before is not the set's */
    uint64_t heard;                        /* of the state's count */
};

static struct nvmlEventSet_st sets[MAX_EVENT_SETS];

static bool is_set(nvmlEventSet_t set)
{
    for (int i = 0; i < MAX_EVENT_SETS; i++)
        if (set == &sets[i])
            return set->live;
    return false;
}

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
    NVML_CALL();
    if (set == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < MAX_EVENT_SETS; i++)
        if (!sets[i].live) {
            memset(&sets[i], 0, sizeof sets[i]);
            sets[i].live = true;
            sets[i].heard = state->event_count;
            *set = &sets[i];
            return NVML_SUCCESS;
        }
    return NVML_ERROR_MEMORY;
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
    NVML_CALL();
    if (!is_set(set))
        return NVML_ERROR_INVALID_ARGUMENT;
    set->live = false;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (types == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *types = ALL_TYPES;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (!is_set(set) || types == 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((types & ~ALL_TYPES) != 0)
        return NVML_ERROR_NOT_SUPPORTED;
    for (int kind = 0; kind < EVENT_KINDS; kind++) {
        bool *registered = &set->registered[index_of_gpu(gpu)][kind];
        if (*registered || (types & TYPES[kind]) == 0)
            continue;
        *registered = true;
        set->since[index_of_gpu(gpu)][kind] = state->event_count;
    }
    return NVML_SUCCESS;
}

static bool is_for(nvmlEventSet_t set, const struct event *event)
{
    return set->registered[event->gpu][event->kind] && set->heard > set->since[event->gpu][event->kind];
}

/* One at a time and none merged, in the order in which they came; what nobody registered is passed over. */
static bool take_event(nvmlEventSet_t set, nvmlEventData_t *data)
{
    const struct event *event;
    while ((event = next_event(&set->heard)) != NULL) {
        if (!is_for(set, event))
            continue;
        *data = (nvmlEventData_t){
            .device = handle_of_gpu(&state->gpus[event->gpu]),
            .eventType = TYPES[event->kind],
            .eventData = event->number,
            .gpuInstanceId = event->gpu_instance,
            .computeInstanceId = event->compute_instance,
        };
        return true;
    }
    return false;
}

/* nvml.h has GPU_IS_LOST among the answers of a wait: what came before is told first. */
static bool listens_to_a_lost_gpu(nvmlEventSet_t set)
{
    for (int gpu = 0; gpu < MAX_GPUS; gpu++)
        for (int kind = 0; kind < EVENT_KINDS; kind++)
            if (set->registered[gpu][kind] && state->gpus[gpu].lost)
                return true;
    return false;
}

/* The lock is let go between looks. */
static nvmlReturn_t wait_for_event(struct call *call, nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    give_way(call);
    int64_t deadline = monotonic_ns() + (int64_t)timeout_ms * 1000000;
    for (;;) {
        if (state == NULL)
            return NVML_ERROR_UNINITIALIZED;
        if (!is_set(set) || data == NULL)
            return NVML_ERROR_INVALID_ARGUMENT;
        if (take_event(set, data))
            return NVML_SUCCESS;
        if (listens_to_a_lost_gpu(set))
            return NVML_ERROR_GPU_IS_LOST;
        if (monotonic_ns() >= deadline)
            return NVML_ERROR_TIMEOUT;
        state_unlock();
        sleep_ms(POLL_MS);
        state_lock();
    }
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    NVML_CALL();
    return wait_for_event(&call, set, data, timeout_ms);
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    NVML_CALL();
    return wait_for_event(&call, set, data, timeout_ms);
}
