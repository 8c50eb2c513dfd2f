/* What each GPU model can be cut into. The table itself is generated: see table.py. */
#ifndef SIMGPU_GEOMETRY_H
#define SIMGPU_GEOMETRY_H

#include <stdbool.h>
#include <stddef.h>

enum { MAX_STARTS = 8, MAX_COMPUTE_PROFILES = 8, MAX_GPU_PROFILES = 16 };

enum media_engines { MEDIA_PLAIN, MEDIA_EXTENSION, MEDIA_ALL, MEDIA_NONE };

struct compute_profile {
    const char *name;
    unsigned int enumerator;
    unsigned int id;
    unsigned int slices;
    unsigned int multiprocessors;
    unsigned int max_instances;
    unsigned int starts[MAX_STARTS]; /* compute slices of the GPU instance */
    unsigned int start_count;
};

struct gpu_profile {
    const char *name;
    unsigned int enumerator; /* what NVML's profile queries take */
    unsigned int id;         /* what create, list and placements take */
    unsigned int slices;
    unsigned int memory_mib;
    unsigned int multiprocessors;
    unsigned int copy_engines;
    unsigned int decoders;
    unsigned int encoders;
    unsigned int jpeg;
    unsigned int ofa;
    unsigned int max_instances;
    unsigned int reported_instances; /* what NVML says; wrong on A30 */
    unsigned int size;               /* memory slices */
    unsigned int starts[MAX_STARTS];
    unsigned int start_count;
    enum media_engines media;
    bool graphics;
    struct compute_profile compute[MAX_COMPUTE_PROFILES];
    unsigned int compute_count;
};

struct gpu_model {
    const char *key;
    const char *name;
    unsigned int before_branch; /* drivers below it tell the model so; the first row that fits counts */
    unsigned int pci_device_id;
    unsigned int architecture; /* NVML_DEVICE_ARCH_* */
    int compute_major;
    int compute_minor;
    unsigned int memory_mib;
    unsigned int memory_slices;
    unsigned int multiprocessors;
    unsigned int max_mig_devices;
    bool resetless_mig;
    bool gpm;
    unsigned int nvlinks;   /* 0: none, or only where a bridge is fitted */
    unsigned int c2c_links; /* to the CPU of the same package */
    bool mode_survives_reboot;
    struct gpu_profile profiles[MAX_GPU_PROFILES];
    unsigned int profile_count;
};

extern const struct gpu_model gpu_models[];
extern const unsigned int gpu_model_count;

#endif
