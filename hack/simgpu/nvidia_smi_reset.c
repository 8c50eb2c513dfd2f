#include "nvidia_smi_reset.h"

#include <stdio.h>

#include "holders.h"
#include "node.h"
#include "nvidia_smi_words.h"

static bool is_reset_prevented(const struct gpu *gpu)
{
    return gpu_has_processes(gpu) || count_other_sessions() > 0;
}

/* The one deed that NVML does not offer. All of the list or none. */
int reset_gpus(const char *list)
{
    nvmlDevice_t devices[MAX_GPUS];
    int count = find_devices(list, devices);
    if (count < 0)
        return SMI_NOT_FOUND;
    int status = SMI_DONE;
    state_lock();
    for (int i = 0; i < count && status == SMI_DONE; i++) {
        struct gpu *gpu = NULL;
        if (find_gpu(devices[i], &gpu) != NVML_SUCCESS || is_reset_prevented(gpu)) {
            printf("GPU %d is currently in use by another process.\n", i);
            status = SMI_OTHER;
        }
    }
    for (int i = 0; i < count && status == SMI_DONE; i++) {
        struct gpu *gpu = NULL;
        if (find_gpu(devices[i], &gpu) == NVML_SUCCESS) {
            struct log_entry *entry = log_begin("nvidia-smi --gpu-reset", gpu);
            reset_gpu(gpu);
            entry->result = NVML_SUCCESS;
            printf("GPU %s was successfully reset.\n", gpu->uuid);
        }
    }
    state_unlock();
    if (status == SMI_DONE)
        printf("All done.\n");
    return status;
}
