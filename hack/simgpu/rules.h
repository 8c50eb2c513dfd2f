/* What a GPU allows: where an instance fits, which one the driver would choose, what must be empty first.
 *
 * Pure over the locked state; answers are nvmlReturn_t. */
#ifndef SIMGPU_RULES_H
#define SIMGPU_RULES_H

#include "nvml_api.h"
#include "state.h"

const struct gpu_profile *profile_of(const struct gpu *gpu, const struct gpu_instance *instance);
const struct compute_profile *compute_profile_of(const struct gpu *gpu, const struct gpu_instance *instance,
                                                 const struct compute_instance *compute);
const struct gpu_profile *profile_with_id(const struct gpu *gpu, unsigned int id);

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

/* Both expect a checked placement and return NULL only when the table is full. */
struct gpu_instance *create_instance(struct gpu *gpu, const struct gpu_profile *profile, unsigned int start);
struct compute_instance *create_compute(struct gpu *gpu, struct gpu_instance *instance,
                                        const struct compute_profile *profile, unsigned int start);
void destroy_instance(struct gpu *gpu, struct gpu_instance *instance);
void destroy_compute(struct gpu *gpu, struct compute_instance *compute);

bool has_compute(const struct gpu_instance *instance);
bool has_instances(const struct gpu *gpu);
bool is_held(const struct gpu_process *process);
bool gpu_has_processes(const struct gpu *gpu);
bool gpu_has_processes_outside_mig(const struct gpu *gpu);
bool instance_has_processes(const struct gpu_instance *instance);
bool compute_has_processes(const struct compute_instance *compute);

/* MIG devices of a GPU in the driver's order (GI id, CI id). */
struct mig_device {
    struct gpu *gpu;
    struct gpu_instance *instance;
    struct compute_instance *compute; /* NULL: an instance without compute instances leaves a hole */
};
enum { MAX_MIG_DEVICES = MAX_GPU_INSTANCES * MAX_COMPUTE_INSTANCES };
unsigned int list_mig_devices(struct gpu *gpu, struct mig_device devices[MAX_MIG_DEVICES]);
void mig_uuid(const struct mig_device *device, char text[UUID_TEXT]);
bool find_mig_uuid(const char *uuid, struct mig_device *device);
struct gpu *find_gpu_uuid(const char *uuid);

void clear_instances(struct gpu *gpu);
/* What a reset does: instances gone, the pending mode in force. */
void reset_gpu(struct gpu *gpu);
void reboot_node(void);
void new_boot_id(struct state *target);

unsigned int index_of_gpu(const struct gpu *gpu);

#endif
