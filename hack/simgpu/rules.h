/* What a GPU allows: where an instance fits and which place the driver would choose.
 *
 * Pure over the locked state; answers are nvmlReturn_t. */
#ifndef SIMGPU_RULES_H
#define SIMGPU_RULES_H

#include "nvml_api.h"
#include "state.h"

/* How many more instances of the profile fit, by placement, count and media engines. */
unsigned int remaining_capacity(const struct gpu *gpu, const struct gpu_profile *profile);
unsigned int remaining_compute_capacity(const struct gpu_instance *instance, const struct compute_profile *profile);

/* Chooses as the driver does; NO_VALUE when nothing fits. */
int choose_start(const struct gpu *gpu, const struct gpu_profile *profile);
int choose_compute_start(const struct gpu_instance *instance, const struct compute_profile *profile);

nvmlReturn_t check_placement(const struct gpu *gpu, const struct gpu_profile *profile, unsigned int start,
                             unsigned int size);
nvmlReturn_t check_compute_placement(const struct gpu_instance *instance, const struct compute_profile *profile,
                                     unsigned int start, unsigned int size);

#endif
