/* nvidia-smi, as far as people and scripts use it for MIG. Over NVML, so faults and the log see it too. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nvidia_smi.h"

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

static void list_mig_of(nvmlDevice_t device)
{
    unsigned int limit = 0;
    nvmlDeviceGetMaxMigDeviceCount(device, &limit);
    for (unsigned int i = 0; i < limit; i++) {
        nvmlDevice_t mig;
        char name[160] = "";
        char uuid[UUID_TEXT] = "";
        if (nvmlDeviceGetMigDeviceHandleByIndex(device, i, &mig) != NVML_SUCCESS)
            continue;
        nvmlDeviceGetName(mig, name, sizeof name);
        nvmlDeviceGetUUID(mig, uuid, sizeof uuid);
        char *profile = strstr(name, " MIG ");
        printf("  MIG %-15s Device %2u: (UUID: %s)\n", profile == NULL ? name : profile + 5, i, uuid);
    }
}

static int list_gpus(void)
{
    nvmlDevice_t devices[MAX_GPUS];
    int count = find_devices(NULL, devices);
    for (int i = 0; i < count; i++) {
        char name[96] = "";
        char uuid[UUID_TEXT] = "";
        nvmlDeviceGetName(devices[i], name, sizeof name);
        nvmlDeviceGetUUID(devices[i], uuid, sizeof uuid);
        printf("GPU %d: %s (UUID: %s)\n", i, name, uuid);
        list_mig_of(devices[i]);
    }
    return SMI_DONE;
}

static int table(void)
{
    static const char RULE[] = "+-----------------------------------------------------------------------------+";
    nvmlDevice_t devices[MAX_GPUS];
    char driver[32] = "";
    int count = find_devices(NULL, devices);
    nvmlSystemGetDriverVersion(driver, sizeof driver);
    printf("%s\n| NVIDIA-SMI %-20s Driver Version: %-27s |\n%s\n", RULE, driver, driver, RULE);
    printf("| GPU  Name                                     Memory-Usage            MIG M. |\n%s\n", RULE);
    for (int i = 0; i < count; i++) {
        char name[96] = "";
        nvmlMemory_t memory = {0};
        unsigned int current = 0, pending = 0;
        nvmlDeviceGetName(devices[i], name, sizeof name);
        nvmlDeviceGetMemoryInfo(devices[i], &memory);
        nvmlDeviceGetMigMode(devices[i], &current, &pending);
        printf("| %3d  %-36.36s %7lluMiB / %7lluMiB %9s%s |\n", i, name, memory.used >> 20, memory.total >> 20,
               current ? "Enabled" : "Disabled", current == pending ? " " : "*");
    }
    printf("%s\n", RULE);
    return SMI_DONE;
}

static int set_mode(const char *devices_text, const char *mode_text)
{
    nvmlDevice_t devices[MAX_GPUS];
    int count = find_devices(devices_text, devices);
    if (count < 0)
        return SMI_NOT_FOUND;
    unsigned int mode = strcmp(mode_text, "1") == 0 ? NVML_DEVICE_MIG_ENABLE : NVML_DEVICE_MIG_DISABLE;
    const char *word = mode == NVML_DEVICE_MIG_ENABLE ? "enable" : "disable";
    for (int i = 0; i < count; i++) {
        char bus[32] = "";
        nvmlPciInfo_t pci;
        nvmlReturn_t activation = NVML_SUCCESS;
        if (nvmlDeviceGetPciInfo_v3(devices[i], &pci) == NVML_SUCCESS)
            snprintf(bus, sizeof bus, "%.31s", pci.busId);
        nvmlReturn_t result = nvmlDeviceSetMigMode(devices[i], mode, &activation);
        if (result != NVML_SUCCESS) {
            printf("Unable to %s MIG Mode for GPU %s: %s\n", word, bus, nvmlErrorString(result));
            return (int)result;
        }
        if (activation != NVML_SUCCESS)
            printf("Warning: MIG mode is in pending %s state for GPU %s:%s\n", word, bus, nvmlErrorString(activation));
        else
            printf("%sd MIG Mode for GPU %s\n", mode == NVML_DEVICE_MIG_ENABLE ? "Enable" : "Disable", bus);
    }
    printf("All done.\n");
    return SMI_DONE;
}

static bool is_reset_prevented(const struct gpu *gpu)
{
    return gpu_has_processes(gpu) || count_other_sessions() > 0;
}

/* The one deed that NVML does not offer. All of the list or none. */
static int reset_gpus(const char *list)
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

static int run(int count, char **words)
{
    const char *devices = word_after(count, words, "-i");
    const char *mode = word_after(count, words, "-mig");
    if (count > 0 && strcmp(words[0], "mig") == 0)
        return run_mig(count - 1, words + 1);
    if (has_word(count, words, "-L"))
        return list_gpus();
    if (has_word(count, words, "--gpu-reset") || has_word(count, words, "-r"))
        return reset_gpus(devices);
    if (mode != NULL)
        return set_mode(devices, mode);
    if (count == 0)
        return table();
    printf("Invalid combination of input arguments.\n");
    return SMI_INVALID;
}

int main(int count, char **words)
{
    nvmlReturn_t opened = nvmlInit_v2();
    if (opened == NVML_ERROR_DRIVER_NOT_LOADED) {
        printf("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n");
        return SMI_NO_DRIVER;
    }
    if (opened != NVML_SUCCESS) {
        printf("Failed to initialize NVML: %s\n", nvmlErrorString(opened));
        return (int)opened < SMI_OTHER ? (int)opened : SMI_OTHER;
    }
    int status = run(count - 1, words + 1);
    nvmlShutdown();
    return status;
}
