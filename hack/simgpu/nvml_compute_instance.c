/* Compute instances: the same verbs within one GPU instance. */
#include <stdio.h>

#include "call.h"
#include "driver.h"
#include "holders.h"
#include "instances.h"
#include "rules.h"

struct place {
    struct gpu *gpu;
    struct gpu_instance *instance;
    const struct gpu_profile *profile;
};

static nvmlReturn_t find_place(nvmlGpuInstance_t handle, struct place *place)
{
    RETURN_IF_FAILED(find_instance(handle, &place->gpu, &place->instance));
    place->profile = profile_of(place->gpu, place->instance);
    return NVML_SUCCESS;
}

static const struct compute_profile *compute_with_id(const struct gpu_profile *profile, unsigned int id)
{
    for (unsigned int i = 0; i < profile->compute_count; i++)
        if (profile->compute[i].id == id)
            return &profile->compute[i];
    return NULL;
}

static nvmlReturn_t find_enumerator(const struct gpu_profile *profile, unsigned int enumerator, unsigned int engines,
                                    const struct compute_profile **found)
{
    if (enumerator >= NVML_COMPUTE_INSTANCE_PROFILE_COUNT || engines >= NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned int i = 0; i < profile->compute_count; i++)
        if (profile->compute[i].enumerator == enumerator) {
            *found = &profile->compute[i];
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_SUPPORTED;
}

#define FILL_COMPUTE(info, place, compute)                                                                             \
    do {                                                                                                               \
        (info)->id = (compute)->id;                                                                                    \
        (info)->sliceCount = (compute)->slices;                                                                        \
        (info)->instanceCount = (compute)->max_instances;                                                              \
        (info)->multiprocessorCount = (compute)->multiprocessors;                                                      \
        (info)->sharedCopyEngineCount = (place)->profile->copy_engines;                                                \
        (info)->sharedDecoderCount = (place)->profile->decoders;                                                       \
        (info)->sharedEncoderCount = (place)->profile->encoders;                                                       \
        (info)->sharedJpegCount = (place)->profile->jpeg;                                                              \
        (info)->sharedOfaCount = (place)->profile->ofa;                                                                \
    } while (0)

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t handle, unsigned int profile,
                                                          unsigned int engines, nvmlComputeInstanceProfileInfo_t *info)
{
    NVML_CALL();
    struct place place;
    const struct compute_profile *found;
    RETURN_IF_FAILED(find_place(handle, &place));
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    RETURN_IF_FAILED(find_enumerator(place.profile, profile, engines, &found));
    FILL_COMPUTE(info, &place, found);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t handle, unsigned int profile,
                                                           unsigned int engines,
                                                           nvmlComputeInstanceProfileInfo_v2_t *info)
{
    NVML_CALL();
    struct place place;
    const struct compute_profile *found;
    RETURN_IF_FAILED(find_place(handle, &place));
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    RETURN_IF_FAILED(find_enumerator(place.profile, profile, engines, &found));
    if (driver()->profile_info_version < 2)
        return NVML_ERROR_FUNCTION_NOT_FOUND;
    if (info->version == nvmlComputeInstanceProfileInfo_v2) {
        FILL_COMPUTE(info, &place, found);
        snprintf(info->name, sizeof info->name, "MIG %s", found->name);
        return NVML_SUCCESS;
    }
    if (info->version == nvmlComputeInstanceProfileInfo_v3 && driver()->profile_info_version >= 3) {
        nvmlComputeInstanceProfileInfo_v3_t *info3 = (void *)info;
        FILL_COMPUTE(info3, &place, found);
        info3->capabilities = place.profile->graphics ? NVML_COMPUTE_INSTANCE_PROFILE_CAPS_GFX : 0;
        snprintf(info3->name, sizeof info3->name, "MIG %s", found->name);
        return NVML_SUCCESS;
    }
    return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvmlGpuInstance_t handle, unsigned int profile_id,
                                                                unsigned int *count)
{
    NVML_CALL();
    struct place place;
    RETURN_IF_FAILED(find_place(handle, &place));
    const struct compute_profile *profile = compute_with_id(place.profile, profile_id);
    if (profile == NULL || count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    RETURN_IF_FAILED(check_permission());
    *count = remaining_compute_capacity(place.instance, profile);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstancePossiblePlacements(nvmlGpuInstance_t handle, unsigned int profile_id,
                                                                 nvmlComputeInstancePlacement_t *placements,
                                                                 unsigned int *count)
{
    NVML_CALL();
    struct place place;
    RETURN_IF_FAILED(find_place(handle, &place));
    const struct compute_profile *profile = compute_with_id(place.profile, profile_id);
    if (profile == NULL || count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    RETURN_IF_FAILED(check_permission());
    for (unsigned int i = 0; placements != NULL && i < profile->start_count; i++)
        placements[i] = (nvmlComputeInstancePlacement_t){profile->starts[i], profile->slices};
    *count = profile->start_count;
    return NVML_SUCCESS;
}

static void describe(struct log_entry *entry, const struct place *place)
{
    snprintf(entry->profile, sizeof entry->profile, "%s", place->profile->name);
    entry->gi = (int32_t)place->instance->id;
}

static nvmlReturn_t create(const struct place *place, unsigned int profile_id,
                           const nvmlComputeInstancePlacement_t *placement, nvmlComputeInstance_t *handle,
                           struct log_entry *entry)
{
    const struct compute_profile *profile = compute_with_id(place->profile, profile_id);
    if (handle == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (profile == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    snprintf(entry->profile, sizeof entry->profile, "%s", profile->name);
    RETURN_IF_FAILED(check_permission());
    int start = placement == NULL ? choose_compute_start(place->instance, profile) : (int)placement->start;
    if (start == NO_VALUE)
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    unsigned int size = placement == NULL ? profile->slices : placement->size;
    entry->start = start;
    entry->size = (int32_t)size;
    RETURN_IF_FAILED(check_compute_placement(place->instance, profile, (unsigned int)start, size));
    struct compute_instance *created = create_compute(place->gpu, place->instance, profile, (unsigned int)start);
    if (created == NULL)
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    entry->ci = (int32_t)created->id;
    *handle = handle_of_compute(place->gpu, created);
    return NVML_SUCCESS;
}

static nvmlReturn_t create_logged(const struct call *call, nvmlGpuInstance_t instance, unsigned int profile_id,
                                  const nvmlComputeInstancePlacement_t *placement, nvmlComputeInstance_t *handle)
{
    if (state == NULL)
        return call->refusal;
    struct place place = {0};
    nvmlReturn_t result = find_place(instance, &place);
    struct log_entry *entry = log_change(call, place.gpu);
    if (result == NVML_SUCCESS)
        describe(entry, &place);
    if (call->refusal != NVML_SUCCESS)
        result = call->refusal;
    else if (result == NVML_SUCCESS)
        result = create(&place, profile_id, placement, handle, entry);
    log_end(entry, (int32_t)result);
    return result;
}

nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t instance, unsigned int profile_id,
                                                  nvmlComputeInstance_t *handle)
{
    NVML_CHANGE(instance);
    return create_logged(&call, instance, profile_id, NULL, handle);
}

nvmlReturn_t nvmlGpuInstanceCreateComputeInstanceWithPlacement(nvmlGpuInstance_t instance, unsigned int profile_id,
                                                               const nvmlComputeInstancePlacement_t *placement,
                                                               nvmlComputeInstance_t *handle)
{
    NVML_CHANGE(instance);
    if (call.refusal == NVML_SUCCESS && placement == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    return create_logged(&call, instance, profile_id, placement, handle);
}

static void describe_compute(struct log_entry *entry, const struct mig_device *device)
{
    snprintf(entry->profile, sizeof entry->profile, "%s",
             compute_profile_of(device->gpu, device->instance, device->compute)->name);
    entry->start = (int32_t)device->compute->start;
    entry->size = (int32_t)device->compute->size;
    entry->gi = (int32_t)device->instance->id;
    entry->ci = (int32_t)device->compute->id;
}

static nvmlReturn_t destroy(const struct mig_device *device)
{
    RETURN_IF_FAILED(check_permission());
    if (compute_has_processes(device->compute))
        return NVML_ERROR_IN_USE;
    destroy_compute(device->gpu, device->compute);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t handle)
{
    NVML_CHANGE(handle);
    if (state == NULL)
        return call.refusal;
    struct mig_device device = {0};
    nvmlReturn_t result = find_compute(handle, &device);
    struct log_entry *entry = log_change(&call, device.gpu);
    if (result == NVML_SUCCESS)
        describe_compute(entry, &device);
    if (call.refusal != NVML_SUCCESS)
        result = call.refusal;
    else if (result == NVML_SUCCESS)
        result = destroy(&device);
    log_end(entry, (int32_t)result);
    return result;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t instance, unsigned int profile_id,
                                                nvmlComputeInstance_t *handles, unsigned int *count)
{
    NVML_CALL();
    struct place place;
    RETURN_IF_FAILED(find_place(instance, &place));
    const struct compute_profile *profile = compute_with_id(place.profile, profile_id);
    if (handles == NULL || count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (profile == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    RETURN_IF_FAILED(check_permission());
    unsigned int found = 0;
    for (int i = 0; i < MAX_COMPUTE_INSTANCES; i++) {
        const struct compute_instance *compute = &place.instance->compute[i];
        if (compute->serial != 0 && &place.profile->compute[compute->profile] == profile)
            handles[found++] = handle_of_compute(place.gpu, compute);
    }
    *count = found;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t instance, unsigned int id,
                                                   nvmlComputeInstance_t *handle)
{
    NVML_CALL();
    struct place place;
    RETURN_IF_FAILED(find_place(instance, &place));
    if (handle == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    RETURN_IF_FAILED(check_permission());
    for (int i = 0; i < MAX_COMPUTE_INSTANCES; i++)
        if (place.instance->compute[i].serial != 0 && place.instance->compute[i].id == id) {
            *handle = handle_of_compute(place.gpu, &place.instance->compute[i]);
            return NVML_SUCCESS;
        }
    return NVML_ERROR_NOT_FOUND;
}

/* `device` is the MIG device, whatever the header says: so it is on hardware. */
static nvmlReturn_t fill_info(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *info)
{
    struct mig_device found;
    RETURN_IF_FAILED(find_compute(handle, &found));
    if (info == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *info = (nvmlComputeInstanceInfo_t){
        .device = handle_of_mig_device(&found),
        .gpuInstance = handle_of_instance(found.gpu, found.instance),
        .id = found.compute->id,
        .profileId = compute_profile_of(found.gpu, found.instance, found.compute)->id,
        .placement = {found.compute->start, found.compute->size},
    };
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlComputeInstanceGetInfo(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *info)
{
    NVML_CALL();
    return fill_info(handle, info);
}

nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t handle, nvmlComputeInstanceInfo_t *info)
{
    NVML_CALL();
    return fill_info(handle, info);
}
