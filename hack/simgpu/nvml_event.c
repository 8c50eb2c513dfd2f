/* Events: changes of the MIG configuration and Xid errors, per physical device. */
#include <string.h>

#include "call.h"

enum { MAX_EVENT_SETS = 16, POLL_MS = 5 };

static const unsigned int NONE = 0xFFFFFFFF;

/* A set is its own handle; the table keeps a freed one from being followed. */
struct nvmlEventSet_st {
    bool live;
    bool registered[MAX_GPUS];
    uint64_t changes_told[MAX_GPUS];
    bool wants_xids[MAX_GPUS];
    uint64_t xids_told; /* of the state's count */
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
            sets[i].xids_told = state->xid_count;
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
    *types = nvmlEventMigConfigChange | nvmlEventTypeXidCriticalError;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (!is_set(set) || types == 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    if ((types & ~(nvmlEventMigConfigChange | nvmlEventTypeXidCriticalError)) != 0)
        return NVML_ERROR_NOT_SUPPORTED;
    if ((types & nvmlEventMigConfigChange) != 0) {
        set->registered[index_of_gpu(gpu)] = true;
        set->changes_told[index_of_gpu(gpu)] = gpu->mig_changes;
    }
    if ((types & nvmlEventTypeXidCriticalError) != 0)
        set->wants_xids[index_of_gpu(gpu)] = true;
    return NVML_SUCCESS;
}

/* In the order in which they came; those of GPUs that nobody registered are passed over. */
static bool take_xid(nvmlEventSet_t set, nvmlEventData_t *data)
{
    while (set->xids_told < state->xid_count) {
        const struct xid *xid = &state->xids[set->xids_told++ % MAX_XIDS];
        if (!set->wants_xids[xid->gpu])
            continue;
        *data = (nvmlEventData_t){
            .device = handle_of_gpu(&state->gpus[xid->gpu]),
            .eventType = nvmlEventTypeXidCriticalError,
            .eventData = xid->number,
            .gpuInstanceId = xid->gpu_instance,
            .computeInstanceId = xid->compute_instance,
        };
        return true;
    }
    return false;
}

static bool take_change(nvmlEventSet_t set, nvmlEventData_t *data)
{
    for (unsigned int i = 0; i < state->gpu_count; i++) {
        const struct gpu *gpu = &state->gpus[i];
        if (!set->registered[i] || set->changes_told[i] == gpu->mig_changes)
            continue;
        set->changes_told[i] = gpu->mig_changes;
        *data = (nvmlEventData_t){
            .device = handle_of_gpu(gpu),
            .eventType = nvmlEventMigConfigChange,
            .gpuInstanceId = NONE,
            .computeInstanceId = NONE,
        };
        return true;
    }
    return false;
}

/* The lock is let go between looks. */
static nvmlReturn_t wait_for_event(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    int64_t deadline = monotonic_ns() + (int64_t)timeout_ms * 1000000;
    for (;;) {
        if (state == NULL)
            return NVML_ERROR_UNINITIALIZED;
        if (!is_set(set) || data == NULL)
            return NVML_ERROR_INVALID_ARGUMENT;
        if (take_xid(set, data) || take_change(set, data))
            return NVML_SUCCESS;
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
    return wait_for_event(set, data, timeout_ms);
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeout_ms)
{
    NVML_CALL();
    return wait_for_event(set, data, timeout_ms);
}
