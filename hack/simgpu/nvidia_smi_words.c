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
static bool find_one(const char *text, nvmlDevice_t *device)
{
    if (strchr(text, ':') != NULL)
        return nvmlDeviceGetHandleByPciBusId_v2(text, device) == NVML_SUCCESS;
    if (strncmp(text, "GPU-", 4) == 0)
        return nvmlDeviceGetHandleByUUID(text, device) == NVML_SUCCESS;
    char *end;
    unsigned long index = strtoul(text, &end, 10);
    return end != text && *end == '\0' && nvmlDeviceGetHandleByIndex_v2((unsigned int)index, device) == NVML_SUCCESS;
}

/* A comma-separated list; NULL means all. Returns the count, or -1 when one is not found. */
int find_devices(const char *list, nvmlDevice_t devices[MAX_GPUS])
{
    unsigned int count = 0;
    if (list == NULL) {
        nvmlDeviceGetCount_v2(&count);
        for (unsigned int i = 0; i < count; i++)
            nvmlDeviceGetHandleByIndex_v2(i, &devices[i]);
        return (int)count;
    }
    char copy[1024];
    char *rest;
    snprintf(copy, sizeof copy, "%s", list);
    for (char *item = strtok_r(copy, ",", &rest); item != NULL; item = strtok_r(NULL, ",", &rest)) {
        if (count == MAX_GPUS || !find_one(item, &devices[count])) {
            printf("No devices were found matching %s\n", item);
            return -1;
        }
        count++;
    }
    return (int)count;
}

unsigned int index_of(nvmlDevice_t device)
{
    unsigned int index = 0;
    nvmlDeviceGetIndex(device, &index);
    return index;
}
