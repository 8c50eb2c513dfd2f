#include "lookup.h"

#include <string.h>

#include "driver.h"

unsigned int index_of_gpu(const struct gpu *gpu) { return (unsigned int)(gpu - state->gpus); }

const struct gpu_profile *profile_of(const struct gpu *gpu, const struct gpu_instance *instance)
{
    return &model_of(gpu)->profiles[instance->profile];
}

const struct compute_profile *compute_profile_of(const struct gpu *gpu, const struct gpu_instance *instance,
                                                 const struct compute_instance *compute)
{
    return &profile_of(gpu, instance)->compute[compute->profile];
}

const struct gpu_profile *profile_with_id(const struct gpu *gpu, unsigned int id)
{
    const struct gpu_model *model = model_of(gpu);
    for (unsigned int i = 0; i < model->profile_count; i++)
        if (model->profiles[i].id == id && model->profiles[i].enumerator < driver()->gpu_instance_enums)
            return &model->profiles[i];
    return NULL;
}

struct gpu *find_gpu_uuid(const char *uuid)
{
    for (unsigned int i = 0; i < state->gpu_count; i++)
        if (strcmp(state->gpus[i].uuid, uuid) == 0)
            return &state->gpus[i];
    return NULL;
}

bool has_compute(const struct gpu_instance *instance)
{
    for (int i = 0; i < MAX_COMPUTE_INSTANCES; i++)
        if (instance->compute[i].serial != 0)
            return true;
    return false;
}

bool has_instances(const struct gpu *gpu)
{
    for (int i = 0; i < MAX_GPU_INSTANCES; i++)
        if (gpu->instances[i].serial != 0)
            return true;
    return false;
}
