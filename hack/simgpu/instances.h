/* Instances come and go. What may come and go is for rules.h to say. */
#ifndef SIMGPU_INSTANCES_H
#define SIMGPU_INSTANCES_H

#include "state.h"

/* Both expect a checked placement and return NULL only when the table is full. */
struct gpu_instance *create_instance(struct gpu *gpu, const struct gpu_profile *profile, unsigned int start);
struct compute_instance *create_compute(struct gpu *gpu, struct gpu_instance *instance,
                                        const struct compute_profile *profile, unsigned int start);
void destroy_instance(struct gpu *gpu, struct gpu_instance *instance);
void destroy_compute(struct gpu *gpu, struct compute_instance *compute);
void clear_instances(struct gpu *gpu);

#endif
