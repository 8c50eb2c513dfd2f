/* The words of an nvidia-smi command line, and the devices that they name. */
#ifndef SIMGPU_NVIDIA_SMI_WORDS_H
#define SIMGPU_NVIDIA_SMI_WORDS_H

#include "call.h"

/* Exit statuses are NVML's codes where there is one. */
enum {
    SMI_DONE = 0,
    SMI_INVALID = 2,
    SMI_NOT_SUPPORTED = 3,
    SMI_NO_PERMISSION = 4,
    SMI_NOT_FOUND = 6,
    SMI_NO_DRIVER = 9,
    SMI_GPU_LOST = 15,
    SMI_OTHER = 255,
};

const char *word_after(int count, char **words, const char *name);
bool has_word(int count, char **words, const char *name);
/* A comma-separated list of indices, UUIDs and bus ids; NULL means all. Returns an exit status, with words when it is not 0. */
int find_devices(const char *list, nvmlDevice_t devices[MAX_GPUS], int *count);
unsigned int index_of(nvmlDevice_t device);

#endif
