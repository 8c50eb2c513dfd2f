/* nvidia-smi, as far as people and scripts use it for MIG. Over NVML, so faults and the log see it too. */
#include <stdio.h>
#include <string.h>

#include "nvidia_smi_mig.h"
#include "nvidia_smi_reset.h"
#include "nvidia_smi_words.h"

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
    int count = 0;
    find_devices(NULL, devices, &count);
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
    int count = 0;
    find_devices(NULL, devices, &count);
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
    int count = 0;
    int status = find_devices(devices_text, devices, &count);
    if (status != SMI_DONE)
        return status;
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
