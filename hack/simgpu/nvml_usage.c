/* Memory, processes and utilization rates. */
#include "call.h"
#include "holders.h"
#include "usage.h"

static const unsigned int NONE = 0xFFFFFFFF;

static struct memory_use memory_of(const struct mig_device *found)
{
    return found->compute == NULL ? memory_of_gpu(found->gpu) : memory_of_instance(found->gpu, found->instance);
}

static unsigned long long left(struct memory_use use)
{
    unsigned long long taken = use.reserved + use.used;
    return taken < use.total ? use.total - taken : 0;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
    NVML_CALL();
    struct mig_device found;
    RETURN_IF_FAILED(find_any(device, &found));
    if (memory == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    struct memory_use use = memory_of(&found);
    *memory = (nvmlMemory_t){.total = use.total, .free = left(use), .used = use.total - left(use)};
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
    NVML_CALL();
    struct mig_device found;
    RETURN_IF_FAILED(find_any(device, &found));
    if (memory == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (memory->version != nvmlMemory_v2)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    struct memory_use use = memory_of(&found);
    memory->total = use.total;
    memory->reserved = use.reserved;
    memory->free = left(use);
    memory->used = use.used;
    return NVML_SUCCESS;
}

/* Ids of the instances a process runs in, when they still exist. */
static void locate(const struct gpu *gpu, const struct gpu_process *process, unsigned int *gi, unsigned int *ci)
{
    *gi = *ci = NONE;
    for (int i = 0; process->gpu_instance != 0 && i < MAX_GPU_INSTANCES; i++) {
        const struct gpu_instance *instance = &gpu->instances[i];
        if (instance->serial != process->gpu_instance)
            continue;
        *gi = instance->id;
        for (int k = 0; k < MAX_COMPUTE_INSTANCES; k++)
            if (instance->compute[k].serial == process->compute_instance)
                *ci = instance->compute[k].id;
    }
}

static bool runs_on(const struct gpu_process *process, const struct mig_device *device)
{
    if (process->identity.pid == 0 || process->gpu != index_of_gpu(device->gpu))
        return false;
    if (device->compute != NULL && process->compute_instance != device->compute->serial)
        return false;
    return is_held(process);
}

/* `infos` NULL asks for the count. INSUFFICIENT_SIZE leaves the needed count behind. */
static nvmlReturn_t list_processes(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos)
{
    struct mig_device found;
    RETURN_IF_FAILED(find_any(device, &found));
    if (count == NULL || (infos == NULL && *count != 0))
        return NVML_ERROR_INVALID_ARGUMENT;
    unsigned int room = *count;
    unsigned int held = 0;
    for (int i = 0; i < MAX_PROCESSES; i++) {
        const struct gpu_process *process = &state->processes[i];
        if (!runs_on(process, &found))
            continue;
        if (held < room) {
            nvmlProcessInfo_t *info = &infos[held];
            info->pid = (unsigned int)process->identity.pid;
            info->usedGpuMemory = process->memory_bytes;
            locate(found.gpu, process, &info->gpuInstanceId, &info->computeInstanceId);
        }
        held++;
    }
    *count = held;
    return held > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_v2_t *infos)
{
    NVML_CALL();
    return list_processes(device, count, infos);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos)
{
    NVML_CALL();
    return list_processes(device, count, infos);
}

/* Only compute processes are simulated. */
static nvmlReturn_t list_nothing(nvmlDevice_t device, unsigned int *count)
{
    struct mig_device found;
    RETURN_IF_FAILED(find_any(device, &found));
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos)
{
    NVML_CALL();
    (void)infos;
    return list_nothing(device, count);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos)
{
    NVML_CALL();
    (void)infos;
    return list_nothing(device, count);
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *rates)
{
    NVML_CALL();
    struct mig_device found;
    RETURN_IF_FAILED(find_any(device, &found));
    if (rates == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (found.compute != NULL || found.gpu->mig_current == NVML_DEVICE_MIG_ENABLE)
        return NVML_ERROR_NOT_SUPPORTED;
    rates->gpu = (unsigned int)(100 * current_ratio(&found.gpu->utilization, UTIL_GRAPHICS) + 0.5);
    rates->memory = (unsigned int)(100 * current_ratio(&found.gpu->utilization, UTIL_DRAM) + 0.5);
    return NVML_SUCCESS;
}
