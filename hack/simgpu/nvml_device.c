/* What a device is. */
#include <stdio.h>
#include <string.h>

#include "call.h"
#include "driver.h"
#include "usage.h"

enum { IDLE_CELSIUS = 32, LOADED_CELSIUS = 40, IDLE_MILLIWATT = 70000, LOADED_MILLIWATT = 600000, LIMIT_MILLIWATT = 700000 };
enum { BAR1_MIB = 131072 };

/* Opens every call below: finds the device or returns why not. `found` is a physical GPU or a MIG device. */
#define ANY_DEVICE(argument)                                                                                           \
    NVML_CALL();                                                                                                       \
    struct mig_device found;                                                                                           \
    RETURN_IF_FAILED(find_any(device, &found));                                                                        \
    if ((argument) == NULL)                                                                                            \
    return NVML_ERROR_INVALID_ARGUMENT

#define PHYSICAL_DEVICE(argument)                                                                                      \
    ANY_DEVICE(argument);                                                                                              \
    if (found.compute != NULL)                                                                                         \
    return NVML_ERROR_NOT_SUPPORTED

nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length)
{
    ANY_DEVICE(name);
    char text[160];
    const char *board = model_of(found.gpu)->name;
    if (found.compute == NULL)
        return copy_text(board, name, length);
    snprintf(text, sizeof text, "%s MIG %s", board, compute_profile_of(found.gpu, found.instance, found.compute)->name);
    return copy_text(text, name, length);
}

nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int length)
{
    ANY_DEVICE(uuid);
    if (found.compute == NULL)
        return copy_text(found.gpu->uuid, uuid, length);
    char text[UUID_TEXT];
    mig_uuid(&found, text);
    return copy_text(text, uuid, length);
}

nvmlReturn_t nvmlDeviceGetSerial(nvmlDevice_t device, char *serial, unsigned int length)
{
    PHYSICAL_DEVICE(serial);
    return copy_text(found.gpu->board_serial, serial, length);
}

nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned int *index)
{
    PHYSICAL_DEVICE(index);
    for (unsigned int i = 0; i < visible_gpus(); i++)
        if (visible_gpu(i) == found.gpu) {
            *index = i;
            return NVML_SUCCESS;
        }
    return NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned int *minor)
{
    PHYSICAL_DEVICE(minor);
    *minor = found.gpu->minor;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBoardId(nvmlDevice_t device, unsigned int *board)
{
    PHYSICAL_DEVICE(board);
    *board = found.gpu->pci_bus << 8;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetMultiGpuBoard(nvmlDevice_t device, unsigned int *multi)
{
    PHYSICAL_DEVICE(multi);
    *multi = 0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *brand)
{
    ANY_DEVICE(brand);
    *brand = NVML_BRAND_NVIDIA;
    return NVML_SUCCESS;
}

static void fill_pci(const struct gpu *gpu, nvmlPciInfo_t *pci)
{
    memset(pci, 0, sizeof *pci);
    pci->bus = gpu->pci_bus;
    pci->pciDeviceId = model_of(gpu)->pci_device_id;
    snprintf(pci->busIdLegacy, sizeof pci->busIdLegacy, NVML_DEVICE_PCI_BUS_ID_LEGACY_FMT, 0, pci->bus, 0);
    snprintf(pci->busId, sizeof pci->busId, NVML_DEVICE_PCI_BUS_ID_FMT, 0, pci->bus, 0);
}

nvmlReturn_t nvmlDeviceGetPciInfo(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    PHYSICAL_DEVICE(pci);
    fill_pci(found.gpu, pci);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    PHYSICAL_DEVICE(pci);
    fill_pci(found.gpu, pci);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *pci)
{
    PHYSICAL_DEVICE(pci);
    fill_pci(found.gpu, pci);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *architecture)
{
    ANY_DEVICE(architecture);
    *architecture = model_of(found.gpu)->architecture;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor)
{
    ANY_DEVICE(major);
    if (minor == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *major = model_of(found.gpu)->compute_major;
    *minor = model_of(found.gpu)->compute_minor;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetVirtualizationMode(nvmlDevice_t device, nvmlGpuVirtualizationMode_t *mode)
{
    static const nvmlGpuVirtualizationMode_t MODES[] = {
        [BARE_METAL] = NVML_GPU_VIRTUALIZATION_MODE_NONE,
        [PASSTHROUGH] = NVML_GPU_VIRTUALIZATION_MODE_PASSTHROUGH,
        [VIRTUAL_MACHINE] = NVML_GPU_VIRTUALIZATION_MODE_PASSTHROUGH,
        [VGPU_GUEST] = NVML_GPU_VIRTUALIZATION_MODE_VGPU,
    };
    PHYSICAL_DEVICE(mode);
    *mode = MODES[found.gpu->virtualization];
    return NVML_SUCCESS;
}

/* The driver gives attributes of MIG devices only. */
static nvmlReturn_t fill_attributes(const struct mig_device *found, nvmlDeviceAttributes_t *attributes)
{
    if (found->compute == NULL)
        return NVML_ERROR_NOT_SUPPORTED;
    const struct gpu_profile *profile = profile_of(found->gpu, found->instance);
    const struct compute_profile *compute = compute_profile_of(found->gpu, found->instance, found->compute);
    *attributes = (nvmlDeviceAttributes_t){
        .multiprocessorCount = compute->multiprocessors,
        .sharedCopyEngineCount = profile->copy_engines,
        .sharedDecoderCount = profile->decoders,
        .sharedEncoderCount = profile->encoders,
        .sharedJpegCount = profile->jpeg,
        .sharedOfaCount = profile->ofa,
        .gpuInstanceSliceCount = profile->slices,
        .computeInstanceSliceCount = compute->slices,
        .memorySizeMB = profile->memory_mib,
    };
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetAttributes(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    ANY_DEVICE(attributes);
    return fill_attributes(&found, attributes);
}

nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes)
{
    ANY_DEVICE(attributes);
    return fill_attributes(&found, attributes);
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *memory)
{
    ANY_DEVICE(memory);
    memory->bar1Total = (unsigned long long)BAR1_MIB << 20;
    memory->bar1Used = 1ULL << 20;
    memory->bar1Free = memory->bar1Total - memory->bar1Used;
    return NVML_SUCCESS;
}

static unsigned int by_load(const struct gpu *gpu, unsigned int idle, unsigned int loaded)
{
    return idle + (unsigned int)((loaded - idle) * current_ratio(&gpu->utilization, UTIL_GRAPHICS));
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *celsius)
{
    PHYSICAL_DEVICE(celsius);
    if (sensor != NVML_TEMPERATURE_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    *celsius = by_load(found.gpu, IDLE_CELSIUS, IDLE_CELSIUS + LOADED_CELSIUS);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature)
{
    PHYSICAL_DEVICE(temperature);
    if (temperature->version != nvmlTemperature_v1)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    if (temperature->sensorType != NVML_TEMPERATURE_GPU)
        return NVML_ERROR_INVALID_ARGUMENT;
    temperature->temperature = (int)by_load(found.gpu, IDLE_CELSIUS, IDLE_CELSIUS + LOADED_CELSIUS);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *milliwatt)
{
    PHYSICAL_DEVICE(milliwatt);
    *milliwatt = by_load(found.gpu, IDLE_MILLIWATT, LOADED_MILLIWATT);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimit(nvmlDevice_t device, unsigned int *milliwatt)
{
    PHYSICAL_DEVICE(milliwatt);
    *milliwatt = LIMIT_MILLIWATT;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEnforcedPowerLimit(nvmlDevice_t device, unsigned int *milliwatt)
{
    PHYSICAL_DEVICE(milliwatt);
    *milliwatt = LIMIT_MILLIWATT;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPersistenceMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
    PHYSICAL_DEVICE(mode);
    *mode = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t *mode)
{
    PHYSICAL_DEVICE(mode);
    *mode = NVML_COMPUTEMODE_DEFAULT;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetPerformanceState(nvmlDevice_t device, nvmlPstates_t *performance)
{
    PHYSICAL_DEVICE(performance);
    *performance = NVML_PSTATE_0;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending)
{
    PHYSICAL_DEVICE(current);
    if (pending == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *current = *pending = NVML_FEATURE_ENABLED;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t error, nvmlEccCounterType_t counter,
                                         unsigned long long *count)
{
    PHYSICAL_DEVICE(count);
    if (error >= NVML_MEMORY_ERROR_TYPE_COUNT || counter >= NVML_ECC_COUNTER_TYPE_COUNT)
        return NVML_ERROR_INVALID_ARGUMENT;
    *count = 0;
    return NVML_SUCCESS;
}

/* That profiles can be asked while MIG is off is a field which drivers that cannot do it do not know: 535's nvml.h ends
 * before it (from memory). */
static void fill_field(const struct gpu *gpu, nvmlFieldValue_t *field)
{
    field->timestamp = wall_ns() / 1000;
    field->latencyUsec = 0;
    field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
    field->nvmlReturn = NVML_SUCCESS;
    if (field->fieldId == NVML_FI_DEV_IS_RESETLESS_MIG_SUPPORTED)
        field->value.uiVal = model_of(gpu)->resetless_mig;
    else if (field->fieldId == NVML_FI_DEV_IS_MIG_MODE_INDEPENDENT_MIG_QUERY_CAPABLE && driver()->profiles_without_mig)
        field->value.uiVal = 1;
    else
        field->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
}

/* Links end in switches where there are any; bridges between cards are not simulated. In MIG mode the links are down, and
 * what a link that is down says of its other end is from memory. */
nvmlReturn_t nvmlDeviceGetNvLinkRemoteDeviceType(nvmlDevice_t device, unsigned int link, nvmlIntNvLinkDeviceType_t *type)
{
    PHYSICAL_DEVICE(type);
    if (link >= NVML_NVLINK_MAX_LINKS)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (link >= model_of(found.gpu)->nvlinks || state->nvswitch == NVSWITCH_NONE)
        return NVML_ERROR_NOT_SUPPORTED;
    *type = found.gpu->mig_current ? NVML_NVLINK_DEVICE_TYPE_UNKNOWN : NVML_NVLINK_DEVICE_TYPE_SWITCH;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *fields)
{
    ANY_DEVICE(fields);
    if (count <= 0)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (int i = 0; i < count; i++)
        fill_field(found.gpu, &fields[i]);
    return NVML_SUCCESS;
}
