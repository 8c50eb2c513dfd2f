/* Finding one's way in the locked state: which profile, which index, whether there is anything. */
#ifndef SIMGPU_LOOKUP_H
#define SIMGPU_LOOKUP_H

#include "state.h"

unsigned int index_of_gpu(const struct gpu *gpu);
struct gpu *find_gpu_uuid(const char *uuid);
const struct gpu_profile *profile_of(const struct gpu *gpu, const struct gpu_instance *instance);
const struct compute_profile *compute_profile_of(const struct gpu *gpu, const struct gpu_instance *instance,
                                                 const struct compute_instance *compute);
const struct gpu_profile *profile_with_id(const struct gpu *gpu, unsigned int id);
bool has_compute(const struct gpu_instance *instance);
bool has_instances(const struct gpu *gpu);

#endif
