/* MIG mode and MIG device handles. */
#include "call.h"
#include "events.h"
#include "holders.h"

nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (current == NULL || pending == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *current = gpu->mig_current;
    *pending = gpu->mig_pending;
    return NVML_SUCCESS;
}

/* Ampere resets the GPU to switch, which any other client prevents; later generations only mind work on the GPU.
 * Disabling over instances is undocumented; here it waits for them to be destroyed, as for any client. */
static bool is_switch_prevented(const struct gpu *gpu)
{
    if (gpu_has_processes(gpu) || has_instances(gpu))
        return true;
    return !model_of(gpu)->resetless_mig && count_other_sessions() > 0;
}

static nvmlReturn_t activate(struct gpu *gpu, unsigned int mode)
{
    gpu->mig_pending = mode;
    if (gpu->mig_current == mode)
        return NVML_SUCCESS;
    if (gpu->virtualization != BARE_METAL && !model_of(gpu)->resetless_mig)
        return gpu->virtualization == PASSTHROUGH ? NVML_ERROR_RESET_REQUIRED : NVML_ERROR_NOT_SUPPORTED;
    if (is_switch_prevented(gpu))
        return NVML_ERROR_IN_USE;
    gpu->mig_current = mode;
    tell_mig_change(gpu);
    return NVML_SUCCESS;
}

/* Two results: the return tells whether the wish was accepted, `activation` whether it is in force. */
nvmlReturn_t nvmlDeviceSetMigMode(nvmlDevice_t device, unsigned int mode, nvmlReturn_t *activation)
{
    NVML_CHANGE(device);
    if (state == NULL)
        return call.refusal;
    struct gpu *gpu = NULL;
    nvmlReturn_t result = find_gpu(device, &gpu);
    struct log_entry *entry = log_change(&call, gpu);
    entry->mode = (int32_t)mode;
    if (call.refusal != NVML_SUCCESS)
        result = call.refusal;
    else if (result == NVML_SUCCESS && (activation == NULL || mode > NVML_DEVICE_MIG_ENABLE))
        result = NVML_ERROR_INVALID_ARGUMENT;
    else if (result == NVML_SUCCESS && gpu->virtualization == VGPU_GUEST)
        result = NVML_ERROR_NOT_SUPPORTED;
    else if (result == NVML_SUCCESS && check_permission() != NVML_SUCCESS)
        result = NVML_ERROR_NO_PERMISSION;
    else if (result == NVML_SUCCESS)
        *activation = activate(gpu, mode);
    log_end(entry, result == NVML_SUCCESS ? (int32_t)*activation : (int32_t)result);
    return result;
}

nvmlReturn_t nvmlDeviceIsMigDeviceHandle(nvmlDevice_t device, unsigned int *is_mig)
{
    NVML_CALL();
    struct mig_device found;
    RETURN_IF_FAILED(find_any(device, &found));
    if (is_mig == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *is_mig = found.compute != NULL;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *count)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = gpu->mig_current == NVML_DEVICE_MIG_ENABLE ? model_of(gpu)->max_mig_devices : 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *mig_device)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (mig_device == NULL || index >= model_of(gpu)->max_mig_devices)
        return NVML_ERROR_INVALID_ARGUMENT;
    struct mig_device devices[MAX_MIG_DEVICES];
    unsigned int count = list_mig_devices(gpu, devices);
    if (index >= count || devices[index].compute == NULL)
        return NVML_ERROR_NOT_FOUND;
    *mig_device = handle_of_mig_device(&devices[index]);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetDeviceHandleFromMigDeviceHandle(nvmlDevice_t mig_device, nvmlDevice_t *device)
{
    NVML_CALL();
    struct mig_device found;
    RETURN_IF_FAILED(find_mig_device(mig_device, &found));
    if (device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *device = handle_of_gpu(found.gpu);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned int *id)
{
    NVML_CALL();
    struct mig_device found;
    RETURN_IF_FAILED(find_any(device, &found));
    if (id == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (found.compute == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *id = found.instance->id;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned int *id)
{
    NVML_CALL();
    struct mig_device found;
    RETURN_IF_FAILED(find_any(device, &found));
    if (id == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (found.compute == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *id = found.compute->id;
    return NVML_SUCCESS;
}
