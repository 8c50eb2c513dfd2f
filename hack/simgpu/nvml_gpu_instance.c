/* GPU instances: profiles, placements, create, list, destroy. */
#include <stdio.h>

#include "call.h"
#include "driver.h"
#include "holders.h"
#include "instances.h"
#include "rules.h"

static nvmlReturn_t find_enumerator(const struct gpu *gpu, unsigned int enumerator, const struct gpu_profile **profile)
{
    if (enumerator >= driver()->gpu_instance_enums)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!driver()->profiles_without_mig && gpu->mig_current != NVML_DEVICE_MIG_ENABLE)
        return NVML_ERROR_NOT_SUPPORTED;
    const struct gpu_model *model = model_of(gpu);
    for (unsigned int i = 0; i < model->profile_count; i++)
        if (model->profiles[i].enumerator == enumerator) {
            *profile = &model->profiles[i];
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_SUPPORTED;
}

/* With MIG off a GPU has no GPU instances, and that is no error: capacity, lists and ids are answered all the same (seen on
 * H100 and H200 with driver 580.159.04). */

/* The three versions of the struct share these fields by name, not by offset. */
#define FILL_PROFILE(info, profile)                                                                                    \
    do {                                                                                                               \
        (info)->id = (profile)->id;                                                                                    \
        (info)->sliceCount = (profile)->slices;                                                                        \
        (info)->instanceCount = (profile)->reported_instances;                                                         \
        (info)->multiprocessorCount = (profile)->multiprocessors;                                                      \
        (info)->copyEngineCount = (profile)->copy_engines;                                                             \
        (info)->decoderCount = (profile)->decoders;                                                                    \
        (info)->encoderCount = (profile)->encoders;                                                                    \
        (info)->jpegCount = (profile)->jpeg;                                                                           \
        (info)->ofaCount = (profile)->ofa;                                                                             \
        (info)->memorySizeMB = (profile)->memory_mib;                                                                  \
    } while (0)

/* The driver gives the struct back without its version, and version 3 without a name (seen as above). */
static nvmlReturn_t fill_versioned(const struct gpu_profile *profile, nvmlGpuInstanceProfileInfo_v2_t *info)
{
    if (driver()->profile_info_version < 2)
        return NVML_ERROR_FUNCTION_NOT_FOUND;
    if (info->version == nvmlGpuInstanceProfileInfo_v2) {
        *info = (nvmlGpuInstanceProfileInfo_v2_t){0};
        FILL_PROFILE(info, profile);
        snprintf(info->name, sizeof info->name, "MIG %s", profile->name);
        return NVML_SUCCESS;
    }
    if (info->version == nvmlGpuInstanceProfileInfo_v3 && driver()->profile_info_version >= 3) {
        nvmlGpuInstanceProfileInfo_v3_t *info3 = (void *)info;
        *info3 = (nvmlGpuInstanceProfileInfo_v3_t){0};
        FILL_PROFILE(info3, profile);
        info3->capabilities = profile->graphics ? NVML_GPU_INSTANCE_PROFILE_CAPS_GFX : 0;
        return NVML_SUCCESS;
    }
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned int profile,
                                                 nvmlGpuInstanceProfileInfo_t *info)
{
    NVML_CALL();
    struct gpu *gpu;
    const struct gpu_profile *found;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    RETURN_IF_FAILED(find_enumerator(gpu, profile, &found));
    FILL_PROFILE(info, found);
    info->isP2pSupported = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, unsigned int profile,
                                                  nvmlGpuInstanceProfileInfo_v2_t *info)
{
    NVML_CALL();
    struct gpu *gpu;
    const struct gpu_profile *found;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (driver()->profile_info_version < 2)
        return NVML_ERROR_FUNCTION_NOT_FOUND;
    RETURN_IF_FAILED(find_enumerator(gpu, profile, &found));
    return fill_versioned(found, info);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoByIdV(nvmlDevice_t device, unsigned int profile_id,
                                                      nvmlGpuInstanceProfileInfo_v2_t *info)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    const struct gpu_profile *found = profile_with_id(gpu, profile_id);
    return found == NULL || info == NULL ? NVML_ERROR_INVALID_ARGUMENT : fill_versioned(found, info);
}

/* All placements, whatever the MIG mode and whatever is occupied. */
static nvmlReturn_t list_placements(nvmlDevice_t device, unsigned int profile_id, nvmlGpuInstancePlacement_t *placements,
                                    unsigned int *count)
{
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    const struct gpu_profile *profile = profile_with_id(gpu, profile_id);
    if (profile == NULL || count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    RETURN_IF_FAILED(check_permission());
    for (unsigned int i = 0; placements != NULL && i < profile->start_count; i++)
        placements[i] = (nvmlGpuInstancePlacement_t){profile->starts[i], profile->size};
    *count = profile->start_count;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements(nvmlDevice_t device, unsigned int profile_id,
                                                        nvmlGpuInstancePlacement_t *placements, unsigned int *count)
{
    NVML_CALL();
    return list_placements(device, profile_id, placements, count);
}

nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device, unsigned int profile_id,
                                                           nvmlGpuInstancePlacement_t *placements, unsigned int *count)
{
    NVML_CALL();
    return list_placements(device, profile_id, placements, count);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceRemainingCapacity(nvmlDevice_t device, unsigned int profile_id, unsigned int *count)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    const struct gpu_profile *profile = profile_with_id(gpu, profile_id);
    if (profile == NULL || count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    RETURN_IF_FAILED(check_permission());
    *count = remaining_capacity(gpu, profile);
    return NVML_SUCCESS;
}

static nvmlReturn_t create_at(struct gpu *gpu, const struct gpu_profile *profile, unsigned int start,
                              nvmlGpuInstance_t *handle, struct log_entry *entry)
{
    struct gpu_instance *created = create_instance(gpu, profile, start);
    if (created == NULL)
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    entry->gi = (int32_t)created->id;
    *handle = handle_of_instance(gpu, created);
    return NVML_SUCCESS;
}

/* `placement` NULL leaves the choice to the driver. */
static nvmlReturn_t create(nvmlDevice_t device, unsigned int profile_id, const nvmlGpuInstancePlacement_t *placement,
                           nvmlGpuInstance_t *handle, struct log_entry *entry)
{
    struct gpu *gpu;
    RETURN_IF_FAILED(find_mig_gpu(device, &gpu));
    const struct gpu_profile *profile = profile_with_id(gpu, profile_id);
    if (profile == NULL || handle == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    snprintf(entry->profile, sizeof entry->profile, "%s", profile->name);
    RETURN_IF_FAILED(check_permission());
    if (gpu_has_processes_outside_mig(gpu))
        return NVML_ERROR_IN_USE;
    int start = placement == NULL ? choose_start(gpu, profile) : (int)placement->start;
    if (start == NO_VALUE)
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    unsigned int size = placement == NULL ? profile->size : placement->size;
    entry->start = start;
    entry->size = (int32_t)size;
    RETURN_IF_FAILED(check_placement(gpu, profile, (unsigned int)start, size));
    return create_at(gpu, profile, (unsigned int)start, handle, entry);
}

static nvmlReturn_t create_logged(const struct call *call, nvmlDevice_t device, unsigned int profile_id,
                                  const nvmlGpuInstancePlacement_t *placement, nvmlGpuInstance_t *handle)
{
    struct gpu *gpu = NULL;
    if (state == NULL)
        return call->refusal;
    (void)find_gpu(device, &gpu);
    struct log_entry *entry = log_change(call, gpu);
    nvmlReturn_t result = call->refusal;
    if (result == NVML_SUCCESS)
        result = create(device, profile_id, placement, handle, entry);
    log_end(entry, (int32_t)result);
    return result;
}

nvmlReturn_t nvmlDeviceCreateGpuInstance(nvmlDevice_t device, unsigned int profile_id, nvmlGpuInstance_t *handle)
{
    NVML_CHANGE(device);
    return create_logged(&call, device, profile_id, NULL, handle);
}

nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t device, unsigned int profile_id,
                                                      const nvmlGpuInstancePlacement_t *placement,
                                                      nvmlGpuInstance_t *handle)
{
    NVML_CHANGE(device);
    if (call.refusal == NVML_SUCCESS && placement == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    return create_logged(&call, device, profile_id, placement, handle);
}

static nvmlReturn_t destroy(struct gpu *gpu, struct gpu_instance *instance)
{
    RETURN_IF_FAILED(check_permission());
    if (has_compute(instance) || instance_has_processes(instance))
        return NVML_ERROR_IN_USE;
    destroy_instance(gpu, instance);
    return NVML_SUCCESS;
}

static void describe(struct log_entry *entry, const struct gpu *gpu, const struct gpu_instance *instance)
{
    snprintf(entry->profile, sizeof entry->profile, "%s", profile_of(gpu, instance)->name);
    entry->start = (int32_t)instance->start;
    entry->size = (int32_t)instance->size;
    entry->gi = (int32_t)instance->id;
}

nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t handle)
{
    NVML_CHANGE(handle);
    if (state == NULL)
        return call.refusal;
    struct gpu *gpu = NULL;
    struct gpu_instance *instance = NULL;
    nvmlReturn_t result = find_instance(handle, &gpu, &instance);
    struct log_entry *entry = log_change(&call, gpu);
    if (result == NVML_SUCCESS)
        describe(entry, gpu, instance);
    if (call.refusal != NVML_SUCCESS)
        result = call.refusal;
    else if (result == NVML_SUCCESS)
        result = destroy(gpu, instance);
    log_end(entry, (int32_t)result);
    return result;
}

nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned int profile_id, nvmlGpuInstance_t *handles,
                                       unsigned int *count)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    const struct gpu_profile *profile = profile_with_id(gpu, profile_id);
    if (profile == NULL || handles == NULL || count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    RETURN_IF_FAILED(check_permission());
    unsigned int found = 0;
    for (int i = 0; i < MAX_GPU_INSTANCES; i++) {
        const struct gpu_instance *instance = &gpu->instances[i];
        if (instance->serial != 0 && profile_of(gpu, instance) == profile)
            handles[found++] = handle_of_instance(gpu, instance);
    }
    *count = found;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *handle)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (handle == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    RETURN_IF_FAILED(check_permission());
    for (int i = 0; i < MAX_GPU_INSTANCES; i++)
        if (gpu->instances[i].serial != 0 && gpu->instances[i].id == id) {
            *handle = handle_of_instance(gpu, &gpu->instances[i]);
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t handle, nvmlGpuInstanceInfo_t *info)
{
    NVML_CALL();
    struct gpu *gpu;
    struct gpu_instance *instance;
    RETURN_IF_FAILED(find_instance(handle, &gpu, &instance));
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *info = (nvmlGpuInstanceInfo_t){
        .device = handle_of_gpu(gpu),
        .id = instance->id,
        .profileId = profile_of(gpu, instance)->id,
        .placement = {instance->start, instance->size},
    };
    return NVML_SUCCESS;
}
