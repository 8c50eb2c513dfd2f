/* MIG devices of a GPU in the driver's order (GI id, CI id). */
#ifndef SIMGPU_MIG_DEVICES_H
#define SIMGPU_MIG_DEVICES_H

#include "state.h"

struct mig_device {
    struct gpu *gpu;
    struct gpu_instance *instance;
    struct compute_instance *compute; /* NULL: an instance without compute instances leaves a hole */
};

enum { MAX_MIG_DEVICES = MAX_GPU_INSTANCES * MAX_COMPUTE_INSTANCES };

unsigned int list_mig_devices(struct gpu *gpu, struct mig_device devices[MAX_MIG_DEVICES]);
void mig_uuid(const struct mig_device *device, char text[UUID_TEXT]);
bool find_mig_uuid(const char *uuid, struct mig_device *device);

#endif
