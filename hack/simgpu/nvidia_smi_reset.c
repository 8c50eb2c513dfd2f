#include "nvidia_smi_reset.h"

#include <stdio.h>

#include "holders.h"
#include "node.h"
#include "nvidia_smi_words.h"

/* Why the GPU cannot be reset now, as an exit status. */
static int refusal(nvmlDevice_t device)
{
    struct gpu *gpu = NULL;
    nvmlReturn_t found = find_gpu(device, &gpu);
    if (found == NVML_ERROR_GPU_IS_LOST)
        return SMI_GPU_LOST;
    if (found != NVML_SUCCESS)
        return SMI_NOT_FOUND;
    if (check_permission() != NVML_SUCCESS)
        return SMI_NO_PERMISSION;
    if (gpu->virtualization != BARE_METAL)
        return SMI_NOT_SUPPORTED;
    return gpu_has_processes(gpu) || count_other_sessions() > 0 ? SMI_OTHER : SMI_DONE;
}

static const char *reason(int status)
{
    switch (status) {
    case SMI_GPU_LOST: return "GPU is lost";
    case SMI_NOT_FOUND: return "Not Found";
    case SMI_NO_PERMISSION: return "Insufficient Permissions";
    case SMI_NOT_SUPPORTED: return "Not Supported";
    default: return "In use by another client";
    }
}

static void reset_one(nvmlDevice_t device)
{
    struct gpu *gpu = NULL;
    if (find_gpu(device, &gpu) != NVML_SUCCESS)
        return;
    struct log_entry *entry = log_begin("nvidia-smi --gpu-reset", gpu);
    reset_gpu(gpu);
    log_end(entry, NVML_SUCCESS);
    printf("GPU %s was successfully reset.\n", gpu->uuid);
}

/* All of the list or none. */
int reset_gpus(const char *list)
{
    nvmlDevice_t devices[MAX_GPUS];
    int count = 0;
    int status = find_devices(list, devices, &count);
    if (status != SMI_DONE)
        return status;
    state_lock();
    for (int i = 0; i < count && status == SMI_DONE; i++) {
        status = refusal(devices[i]);
        if (status != SMI_DONE)
            printf("Unable to reset GPU %d of the list: %s\n", i, reason(status));
    }
    for (int i = 0; i < count && status == SMI_DONE; i++)
        reset_one(devices[i]);
    state_unlock();
    if (status == SMI_DONE)
        printf("All done.\n");
    return status;
}
