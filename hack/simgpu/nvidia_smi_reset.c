#include "nvidia_smi_reset.h"

#include <stdio.h>

#include "holders.h"
#include "node.h"
#include "nvidia_smi_words.h"
#include "peers.h"

struct list {
    nvmlDevice_t devices[MAX_GPUS];
    int count;
};

/* An exit status, and why. */
struct verdict {
    int status;
    const char *reason;
};

static bool is_in(const struct list *list, const struct gpu *gpu)
{
    for (int i = 0; i < list->count; i++)
        if (list->devices[i] == handle_of_gpu(gpu))
            return true;
    return false;
}

static bool leaves_out_peers(const struct list *list, const struct gpu *gpu)
{
    for (unsigned int i = 0; i < state->gpu_count; i++)
        if (are_peers(gpu, &state->gpus[i]) && !is_in(list, &state->gpus[i]))
            return true;
    return false;
}

/* Whether the GPU can be reset now. That peers belong together is documented; with which words and which exit status
 * nvidia-smi says so is from memory. */
static struct verdict judge(const struct list *list, nvmlDevice_t device)
{
    struct gpu *gpu = NULL;
    nvmlReturn_t found = find_gpu(device, &gpu);
    if (found == NVML_ERROR_GPU_IS_LOST)
        return (struct verdict){SMI_GPU_LOST, "GPU is lost"};
    if (found != NVML_SUCCESS)
        return (struct verdict){SMI_NOT_FOUND, "Not Found"};
    if (check_permission() != NVML_SUCCESS)
        return (struct verdict){SMI_NO_PERMISSION, "Insufficient Permissions"};
    if (gpu->virtualization != BARE_METAL)
        return (struct verdict){SMI_NOT_SUPPORTED, "Not Supported"};
    if (must_reset_with_peers(gpu) && leaves_out_peers(list, gpu))
        return (struct verdict){SMI_NOT_SUPPORTED, "all GPUs connected to it by NVLink must be reset with it in one command "
                                                   "while Fabric Manager is not running"};
    if (gpu_has_processes(gpu) || count_other_sessions() > 0)
        return (struct verdict){SMI_OTHER, "In use by another client"};
    return (struct verdict){SMI_DONE, ""};
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

static int reset_all_or_none(const struct list *list)
{
    for (int i = 0; i < list->count; i++) {
        struct verdict verdict = judge(list, list->devices[i]);
        if (verdict.status == SMI_DONE)
            continue;
        printf("Unable to reset GPU %d of the list: %s\n", i, verdict.reason);
        return verdict.status;
    }
    for (int i = 0; i < list->count; i++)
        reset_one(list->devices[i]);
    return SMI_DONE;
}

int reset_gpus(const char *text)
{
    struct list list;
    int status = find_devices(text, list.devices, &list.count);
    if (status != SMI_DONE)
        return status;
    state_lock();
    status = reset_all_or_none(&list);
    state_unlock();
    if (status == SMI_DONE)
        printf("All done.\n");
    return status;
}
