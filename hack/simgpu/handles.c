#include "call.h"

enum handle_kind { HANDLE_GPU = 0x51, HANDLE_MIG = 0x52, HANDLE_INSTANCE = 0x53, HANDLE_COMPUTE = 0x54 };

enum { KIND_SHIFT = 56, GPU_SHIFT = 48 };
#define SERIAL_MASK ((1ULL << GPU_SHIFT) - 1)

static void *encode(enum handle_kind kind, const struct gpu *gpu, uint64_t serial)
{
    uint64_t number = (uint64_t)kind << KIND_SHIFT | (uint64_t)index_of_gpu(gpu) << GPU_SHIFT | (serial & SERIAL_MASK);
    return (void *)(uintptr_t)number;
}

static bool is_kind(const void *handle, enum handle_kind kind)
{
    return (uint64_t)(uintptr_t)handle >> KIND_SHIFT == (uint64_t)kind;
}

static uint64_t serial_of(const void *handle) { return (uint64_t)(uintptr_t)handle & SERIAL_MASK; }

static struct gpu *gpu_in(const void *handle)
{
    uint64_t index = (uint64_t)(uintptr_t)handle >> GPU_SHIFT & 0xff;
    return index < state->gpu_count ? &state->gpus[index] : NULL;
}

const struct gpu *gpu_of_handle(const void *handle)
{
    bool known = is_kind(handle, HANDLE_GPU) || is_kind(handle, HANDLE_MIG) || is_kind(handle, HANDLE_INSTANCE) ||
                 is_kind(handle, HANDLE_COMPUTE);
    return known ? gpu_in(handle) : NULL;
}

static nvmlReturn_t decode_gpu(const void *handle, struct gpu **gpu)
{
    *gpu = gpu_in(handle);
    if (*gpu == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    return (*gpu)->lost ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
}

nvmlDevice_t handle_of_gpu(const struct gpu *gpu) { return encode(HANDLE_GPU, gpu, 0); }

nvmlDevice_t handle_of_mig_device(const struct mig_device *device)
{
    return encode(HANDLE_MIG, device->gpu, device->compute->serial);
}

nvmlGpuInstance_t handle_of_instance(const struct gpu *gpu, const struct gpu_instance *instance)
{
    return encode(HANDLE_INSTANCE, gpu, instance->serial);
}

nvmlComputeInstance_t handle_of_compute(const struct gpu *gpu, const struct compute_instance *compute)
{
    return encode(HANDLE_COMPUTE, gpu, compute->serial);
}

nvmlReturn_t find_gpu(nvmlDevice_t device, struct gpu **gpu)
{
    return is_kind(device, HANDLE_GPU) ? decode_gpu(device, gpu) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t find_mig_gpu(nvmlDevice_t device, struct gpu **gpu)
{
    RETURN_IF_FAILED(find_gpu(device, gpu));
    return (*gpu)->mig_current == NVML_DEVICE_MIG_ENABLE ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t find_by_compute_serial(const void *handle, struct mig_device *found)
{
    struct gpu *gpu;
    RETURN_IF_FAILED(decode_gpu(handle, &gpu));
    for (int i = 0; i < MAX_GPU_INSTANCES; i++) {
        struct gpu_instance *instance = &gpu->instances[i];
        for (int k = 0; instance->serial != 0 && k < MAX_COMPUTE_INSTANCES; k++)
            if (instance->compute[k].serial != 0 && instance->compute[k].serial == serial_of(handle)) {
                *found = (struct mig_device){gpu, instance, &instance->compute[k]};
                return NVML_SUCCESS;
            }
    }
    return NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t find_mig_device(nvmlDevice_t device, struct mig_device *found)
{
    return is_kind(device, HANDLE_MIG) ? find_by_compute_serial(device, found) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t find_any(nvmlDevice_t device, struct mig_device *found)
{
    if (is_kind(device, HANDLE_MIG))
        return find_by_compute_serial(device, found);
    *found = (struct mig_device){0};
    return find_gpu(device, &found->gpu);
}

nvmlReturn_t find_instance(nvmlGpuInstance_t handle, struct gpu **gpu, struct gpu_instance **instance)
{
    if (!is_kind(handle, HANDLE_INSTANCE))
        return NVML_ERROR_INVALID_ARGUMENT;
    RETURN_IF_FAILED(decode_gpu(handle, gpu));
    for (int i = 0; i < MAX_GPU_INSTANCES; i++)
        if ((*gpu)->instances[i].serial != 0 && (*gpu)->instances[i].serial == serial_of(handle)) {
            *instance = &(*gpu)->instances[i];
            return NVML_SUCCESS;
        }
    return NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t find_compute(nvmlComputeInstance_t handle, struct mig_device *found)
{
    return is_kind(handle, HANDLE_COMPUTE) ? find_by_compute_serial(handle, found) : NVML_ERROR_INVALID_ARGUMENT;
}
