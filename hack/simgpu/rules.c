#include "rules.h"

#include "lookup.h"

static bool overlap(unsigned int a, unsigned int a_size, unsigned int b, unsigned int b_size)
{
    return a < b + b_size && b < a + a_size;
}

static bool is_free(const struct gpu *gpu, unsigned int start, unsigned int size)
{
    for (int i = 0; i < MAX_GPU_INSTANCES; i++) {
        const struct gpu_instance *other = &gpu->instances[i];
        if (other->serial != 0 && overlap(start, size, other->start, other->size))
            return false;
    }
    return true;
}

static bool takes_extension(enum media_engines media) { return media == MEDIA_EXTENSION || media == MEDIA_ALL; }

/* One +me per GPU; +me.all tolerates only -me beside it. */
static bool media_agree(enum media_engines wanted, enum media_engines present)
{
    if (takes_extension(wanted) && takes_extension(present))
        return false;
    if (wanted == MEDIA_ALL)
        return present == MEDIA_NONE;
    if (present == MEDIA_ALL)
        return wanted == MEDIA_NONE;
    return true;
}

static unsigned int count_allowed(const struct gpu *gpu, const struct gpu_profile *profile)
{
    unsigned int present = 0;
    for (int i = 0; i < MAX_GPU_INSTANCES; i++) {
        const struct gpu_instance *other = &gpu->instances[i];
        if (other->serial == 0)
            continue;
        const struct gpu_profile *others = profile_of(gpu, other);
        if (!media_agree(profile->media, others->media))
            return 0;
        present += others == profile;
    }
    return present < profile->max_instances ? profile->max_instances - present : 0;
}

unsigned int remaining_capacity(const struct gpu *gpu, const struct gpu_profile *profile)
{
    unsigned int fits = 0;
    unsigned int next = 0;
    for (unsigned int i = 0; i < profile->start_count; i++) {
        unsigned int start = profile->starts[i];
        if (start >= next && is_free(gpu, start, profile->size)) {
            fits++;
            next = start + profile->size;
        }
    }
    unsigned int allowed = count_allowed(gpu, profile);
    return fits < allowed ? fits : allowed;
}

/* (profile, placement) pairs that stay free when `start:size` is taken as well. */
static int count_free_pairs(const struct gpu *gpu, unsigned int start, unsigned int size)
{
    const struct gpu_model *model = model_of(gpu);
    int pairs = 0;
    for (unsigned int i = 0; i < model->profile_count; i++) {
        const struct gpu_profile *profile = &model->profiles[i];
        for (unsigned int k = 0; k < profile->start_count; k++)
            pairs += !overlap(profile->starts[k], profile->size, start, size) &&
                     is_free(gpu, profile->starts[k], profile->size);
    }
    return pairs;
}

int choose_start(const struct gpu *gpu, const struct gpu_profile *profile)
{
    if (count_allowed(gpu, profile) == 0)
        return NO_VALUE;
    int chosen = NO_VALUE;
    int most = -1;
    for (unsigned int i = 0; i < profile->start_count; i++) {
        unsigned int start = profile->starts[i];
        if (!is_free(gpu, start, profile->size))
            continue;
        int pairs = count_free_pairs(gpu, start, profile->size);
        if (pairs > most) {
            most = pairs;
            chosen = (int)start;
        }
    }
    return chosen;
}

static bool is_legal(const unsigned int *starts, unsigned int count, unsigned int start)
{
    for (unsigned int i = 0; i < count; i++)
        if (starts[i] == start)
            return true;
    return false;
}

nvmlReturn_t check_placement(const struct gpu *gpu, const struct gpu_profile *profile, unsigned int start,
                             unsigned int size)
{
    if (size != profile->size || !is_legal(profile->starts, profile->start_count, start))
        return NVML_ERROR_INVALID_ARGUMENT;
    if (count_allowed(gpu, profile) == 0 || !is_free(gpu, start, size))
        return NVML_ERROR_INSUFFICIENT_RESOURCES;
    return NVML_SUCCESS;
}

static bool is_compute_free(const struct gpu_instance *instance, unsigned int start, unsigned int size)
{
    for (int i = 0; i < MAX_COMPUTE_INSTANCES; i++) {
        const struct compute_instance *other = &instance->compute[i];
        if (other->serial != 0 && overlap(start, size, other->start, other->size))
            return false;
    }
    return true;
}

unsigned int remaining_compute_capacity(const struct gpu_instance *instance, const struct compute_profile *profile)
{
    unsigned int fits = 0;
    unsigned int next = 0;
    for (unsigned int i = 0; i < profile->start_count; i++) {
        unsigned int start = profile->starts[i];
        if (start >= next && is_compute_free(instance, start, profile->slices)) {
            fits++;
            next = start + profile->slices;
        }
    }
    return fits;
}

int choose_compute_start(const struct gpu_instance *instance, const struct compute_profile *profile)
{
    for (unsigned int i = 0; i < profile->start_count; i++)
        if (is_compute_free(instance, profile->starts[i], profile->slices))
            return (int)profile->starts[i];
    return NO_VALUE;
}

nvmlReturn_t check_compute_placement(const struct gpu_instance *instance, const struct compute_profile *profile,
                                     unsigned int start, unsigned int size)
{
    if (size != profile->slices || !is_legal(profile->starts, profile->start_count, start))
        return NVML_ERROR_INVALID_ARGUMENT;
    return is_compute_free(instance, start, size) ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_RESOURCES;
}
