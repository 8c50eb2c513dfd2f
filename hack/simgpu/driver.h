/* What changes with the driver's version.
 *
 * Known of hardware: old drivers tell no profiles while MIG is off, version 3 of the profile info and its graphics profiles
 * came with new ones, and names and memory of some boards moved (the variants in table.py). At which version each came is a
 * choice here; the steps are spread so that a client meets each alone. */
#ifndef SIMGPU_DRIVER_H
#define SIMGPU_DRIVER_H

#include <stdbool.h>

struct driver {
    unsigned int branch;
    const char *version;
    const char *nvml_version;
    int cuda_version;
    unsigned int gpu_instance_enums;   /* profile enumerators below this are known */
    unsigned int profile_info_version; /* the highest; 1 has no names */
    bool profiles_without_mig;         /* profiles can be asked while MIG is off */
    unsigned int gpm_metrics;          /* metric ids below this are known */
};

/* NULL when there is none of that branch. */
const struct driver *driver_of_branch(unsigned int branch);
/* Of the locked state. */
const struct driver *driver(void);

enum { NEWEST_BRANCH = 580 };

#endif
