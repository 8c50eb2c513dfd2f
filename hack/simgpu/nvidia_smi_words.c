#include "nvidia_smi_words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *word_after(int count, char **words, const char *name)
{
    for (int i = 0; i + 1 < count; i++)
        if (strcmp(words[i], name) == 0)
            return words[i + 1];
    return NULL;
}

bool has_word(int count, char **words, const char *name)
{
    for (int i = 0; i < count; i++)
        if (strcmp(words[i], name) == 0)
            return true;
    return false;
}

/* An index, a UUID or a PCI bus id. */
static nvmlReturn_t find_one(const char *text, nvmlDevice_t *device)
{
    if (strchr(text, ':') != NULL)
        return nvmlDeviceGetHandleByPciBusId_v2(text, device);
    if (strncmp(text, "GPU-", 4) == 0)
        return nvmlDeviceGetHandleByUUID(text, device);
    char *end;
    unsigned long index = strtoul(text, &end, 10);
    return end == text || *end != '\0' ? NVML_ERROR_NOT_FOUND : nvmlDeviceGetHandleByIndex_v2((unsigned int)index, device);
}

static bool is_named(const struct gpu *gpu, const char *text)
{
    unsigned int domain, bus;
    if (strchr(text, ':') == NULL)
        return strcmp(gpu->uuid, text) == 0;
    return sscanf(text, "%x:%x:", &domain, &bus) == 2 && domain == 0 && bus == gpu->pci_bus;
}

/* NVML no longer shows such a GPU to a new session; nvidia-smi knows what fell off the bus. By an index it names another. */
static bool is_lost(const char *text)
{
    bool lost = false;
    state_lock();
    for (unsigned int i = 0; i < state->gpu_count; i++)
        lost |= state->gpus[i].lost && is_named(&state->gpus[i], text);
    state_unlock();
    return lost;
}

static int refuse_device(const char *text)
{
    if (is_lost(text)) {
        printf("Unable to determine the device handle for GPU %s: GPU is lost\n", text);
        return SMI_GPU_LOST;
    }
    printf("No devices were found matching %s\n", text);
    return SMI_NOT_FOUND;
}

static int find_all(nvmlDevice_t devices[MAX_GPUS], int *count)
{
    unsigned int found = 0;
    nvmlDeviceGetCount_v2(&found);
    for (unsigned int i = 0; i < found; i++)
        nvmlDeviceGetHandleByIndex_v2(i, &devices[i]);
    *count = (int)found;
    return SMI_DONE;
}

int find_devices(const char *list, nvmlDevice_t devices[MAX_GPUS], int *count)
{
    char copy[1024];
    char *rest;
    if (list == NULL)
        return find_all(devices, count);
    snprintf(copy, sizeof copy, "%s", list);
    *count = 0;
    for (char *item = strtok_r(copy, ",", &rest); item != NULL; item = strtok_r(NULL, ",", &rest)) {
        if (*count == MAX_GPUS || find_one(item, &devices[*count]) != NVML_SUCCESS)
            return refuse_device(item);
        ++*count;
    }
    return SMI_DONE;
}

unsigned int index_of(nvmlDevice_t device)
{
    unsigned int index = 0;
    nvmlDeviceGetIndex(device, &index);
    return index;
}
