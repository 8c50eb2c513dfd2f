/* Sessions, versions, and how a device is found. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "call.h"
#include "driver.h"

nvmlReturn_t nvmlInit(void) { return session_begin(__func__, false); }
nvmlReturn_t nvmlInit_v2(void) { return session_begin(__func__, false); }

nvmlReturn_t nvmlInitWithFlags(unsigned int flags)
{
    return session_begin(__func__, (flags & NVML_INIT_FLAG_NO_GPUS) != 0);
}

nvmlReturn_t nvmlShutdown(void) { return session_end(); }

const char *nvmlErrorString(nvmlReturn_t result)
{
    switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_NO_PERMISSION: return "Insufficient Permissions";
    case NVML_ERROR_ALREADY_INITIALIZED: return "Already Initialized";
    case NVML_ERROR_NOT_FOUND: return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_INSUFFICIENT_POWER: return "Insufficient External Power";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT: return "Timeout";
    case NVML_ERROR_IRQ_ISSUE: return "Interrupt Request Issue";
    case NVML_ERROR_LIBRARY_NOT_FOUND: return "NVML Shared Library Not Found";
    case NVML_ERROR_FUNCTION_NOT_FOUND: return "Function Not Found";
    case NVML_ERROR_CORRUPTED_INFOROM: return "Corrupted infoROM";
    case NVML_ERROR_GPU_IS_LOST: return "GPU is lost";
    case NVML_ERROR_RESET_REQUIRED: return "GPU requires restart";
    case NVML_ERROR_OPERATING_SYSTEM: return "The operating system has blocked the request.";
    case NVML_ERROR_LIB_RM_VERSION_MISMATCH: return "RM has detected an NVML/RM version mismatch.";
    case NVML_ERROR_IN_USE: return "In use by another client";
    case NVML_ERROR_MEMORY: return "Insufficient Memory";
    case NVML_ERROR_NO_DATA: return "No data";
    case NVML_ERROR_INSUFFICIENT_RESOURCES: return "Insufficient Resources";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH: return "Argument version mismatch";
    case NVML_ERROR_DEPRECATED: return "Deprecated";
    case NVML_ERROR_NOT_READY: return "System is not in ready state";
    case NVML_ERROR_GPU_NOT_FOUND: return "GPU not found";
    case NVML_ERROR_INVALID_STATE: return "Invalid State";
    default: return "Unknown Error";
    }
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int length)
{
    NVML_CALL();
    return copy_text(driver()->version, version, length);
}

nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned int length)
{
    NVML_CALL();
    return copy_text(driver()->nvml_version, version, length);
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version)
{
    NVML_CALL();
    if (version == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *version = driver()->cuda_version;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version)
{
    NVML_CALL();
    if (version == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *version = driver()->cuda_version;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlSystemGetProcessName(unsigned int pid, char *name, unsigned int length)
{
    NVML_CALL();
    char path[64];
    char text[256];
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL)
        return NVML_ERROR_NOT_FOUND;
    size_t got = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[got] = '\0';
    return copy_text(text, name, length);
}

static nvmlReturn_t count_devices(unsigned int *count)
{
    if (count == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = visible_gpus();
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCount(unsigned int *count)
{
    NVML_CALL();
    return count_devices(count);
}

nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count)
{
    NVML_CALL();
    return count_devices(count);
}

static nvmlReturn_t give_gpu(struct gpu *gpu, nvmlDevice_t *device)
{
    if (device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (gpu->lost)
        return NVML_ERROR_GPU_IS_LOST;
    *device = handle_of_gpu(gpu);
    return NVML_SUCCESS;
}

static nvmlReturn_t handle_by_index(unsigned int index, nvmlDevice_t *device)
{
    struct gpu *gpu = visible_gpu(index);
    return gpu == NULL ? NVML_ERROR_INVALID_ARGUMENT : give_gpu(gpu, device);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device)
{
    NVML_CALL();
    return handle_by_index(index, device);
}

nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device)
{
    NVML_CALL();
    return handle_by_index(index, device);
}

static nvmlReturn_t handle_by_uuid(const char *uuid, nvmlDevice_t *device)
{
    if (uuid == NULL || device == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned int i = 0; i < visible_gpus(); i++)
        if (strcmp(visible_gpu(i)->uuid, uuid) == 0)
            return give_gpu(visible_gpu(i), device);
    struct mig_device mig;
    if (!find_mig_uuid(uuid, &mig))
        return NVML_ERROR_NOT_FOUND;
    if (mig.gpu->lost)
        return NVML_ERROR_GPU_IS_LOST;
    *device = handle_of_mig_device(&mig);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device)
{
    NVML_CALL();
    return handle_by_uuid(uuid, device);
}

nvmlReturn_t nvmlDeviceGetHandleByUUIDV(const nvmlUUID_t *uuid, nvmlDevice_t *device)
{
    NVML_CALL();
    if (uuid == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (uuid->version != nvmlUUID_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (uuid->type != NVML_UUID_TYPE_ASCII)
        return NVML_ERROR_NOT_SUPPORTED;
    return handle_by_uuid(uuid->value.str, device);
}

nvmlReturn_t nvmlDeviceGetHandleBySerial(const char *serial, nvmlDevice_t *device)
{
    NVML_CALL();
    for (unsigned int i = 0; serial != NULL && i < visible_gpus(); i++)
        if (strcmp(visible_gpu(i)->board_serial, serial) == 0)
            return give_gpu(visible_gpu(i), device);
    return serial == NULL ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_NOT_FOUND;
}

static bool is_at(const struct gpu *gpu, const char *pci_bus_id)
{
    unsigned int domain = 0, bus = 0, device = 0;
    return sscanf(pci_bus_id, "%x:%x:%x", &domain, &bus, &device) == 3 && domain == 0 && bus == gpu->pci_bus &&
           device == 0;
}

static nvmlReturn_t handle_by_pci(const char *pci_bus_id, nvmlDevice_t *device)
{
    for (unsigned int i = 0; pci_bus_id != NULL && i < visible_gpus(); i++)
        if (is_at(visible_gpu(i), pci_bus_id))
            return give_gpu(visible_gpu(i), device);
    return pci_bus_id == NULL ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_NOT_FOUND;
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *pci_bus_id, nvmlDevice_t *device)
{
    NVML_CALL();
    return handle_by_pci(pci_bus_id, device);
}

nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *pci_bus_id, nvmlDevice_t *device)
{
    NVML_CALL();
    return handle_by_pci(pci_bus_id, device);
}
