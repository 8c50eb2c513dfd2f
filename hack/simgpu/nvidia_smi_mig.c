/* nvidia-smi mig: -lgip, -lgipp, -lgi, -lci, -cgi, -cci, -dgi, -dci. The first two as seen with driver 580.159.04. */
#include "nvidia_smi_mig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nvidia_smi_words.h"

enum { LARGEST_LIST = 64 };

struct list {
    nvmlGpuInstance_t instances[LARGEST_LIST];
    unsigned int count;
};

static bool is_mig_on(nvmlDevice_t device)
{
    unsigned int current = 0, pending = 0;
    return nvmlDeviceGetMigMode(device, &current, &pending) == NVML_SUCCESS && current == NVML_DEVICE_MIG_ENABLE;
}

/* Version 1 of the profile info carries no name; nvidia-smi makes its own, which here is the table's. */
static void add_name(nvmlDevice_t device, nvmlGpuInstanceProfileInfo_v2_t *info)
{
    struct gpu *gpu;
    state_lock();
    const struct gpu_profile *profile = find_gpu(device, &gpu) == NVML_SUCCESS ? profile_with_id(gpu, info->id) : NULL;
    snprintf(info->name, sizeof info->name, "MIG %s", profile == NULL ? "?" : profile->name);
    state_unlock();
}

static nvmlReturn_t profile_info(nvmlDevice_t device, unsigned int enumerator, nvmlGpuInstanceProfileInfo_v2_t *info)
{
    nvmlGpuInstanceProfileInfo_t old;
    info->version = nvmlGpuInstanceProfileInfo_v2;
    nvmlReturn_t result = nvmlDeviceGetGpuInstanceProfileInfoV(device, enumerator, info);
    if (result != NVML_ERROR_FUNCTION_NOT_FOUND)
        return result;
    RETURN_IF_FAILED(nvmlDeviceGetGpuInstanceProfileInfo(device, enumerator, &old));
    info->id = old.id;
    info->instanceCount = old.instanceCount;
    info->memorySizeMB = old.memorySizeMB;
    info->multiprocessorCount = old.multiprocessorCount;
    info->sliceCount = old.sliceCount;
    info->isP2pSupported = old.isP2pSupported;
    info->copyEngineCount = old.copyEngineCount;
    info->decoderCount = old.decoderCount;
    info->encoderCount = old.encoderCount;
    info->jpegCount = old.jpegCount;
    info->ofaCount = old.ofaCount;
    add_name(device, info);
    return NVML_SUCCESS;
}

static bool next_profile(nvmlDevice_t device, unsigned int *enumerator, nvmlGpuInstanceProfileInfo_v2_t *info)
{
    for (; *enumerator < NVML_GPU_INSTANCE_PROFILE_COUNT; ++*enumerator) {
        if (profile_info(device, *enumerator, info) == NVML_SUCCESS) {
            ++*enumerator;
            return true;
        }
    }
    return false;
}

static void list_instances(nvmlDevice_t device, struct list *list)
{
    nvmlGpuInstanceProfileInfo_v2_t info;
    list->count = 0;
    for (unsigned int e = 0; next_profile(device, &e, &info);) {
        unsigned int found = 0;
        if (nvmlDeviceGetGpuInstances(device, info.id, list->instances + list->count, &found) == NVML_SUCCESS)
            list->count += found;
    }
}

static void profile_name(nvmlDevice_t device, unsigned int id, char *name, size_t size)
{
    nvmlGpuInstanceProfileInfo_v2_t info;
    snprintf(name, size, "MIG ?");
    for (unsigned int e = 0; next_profile(device, &e, &info);)
        if (info.id == id)
            snprintf(name, size, "%.40s", info.name);
}

/* Small profiles first; of equal ones that without extras, then that with more memory. */
static int by_size(const void *left, const void *right)
{
    const nvmlGpuInstanceProfileInfo_v2_t *a = left, *b = right;
    const unsigned int keys[][2] = {
        {a->sliceCount, b->sliceCount},
        {(unsigned int)a->memorySizeMB, (unsigned int)b->memorySizeMB},
        {a->id, b->id},
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (keys[i][0] != keys[i][1])
            return keys[i][0] < keys[i][1] ? -1 : 1;
    return 0;
}

static unsigned int sorted_profiles(nvmlDevice_t device, nvmlGpuInstanceProfileInfo_v2_t found[LARGEST_LIST])
{
    unsigned int count = 0;
    for (unsigned int e = 0; next_profile(device, &e, &found[count]);)
        count++;
    qsort(found, count, sizeof found[0], by_size);
    return count;
}

static const char PROFILES_END[] =
    "+-------------------------------------------------------------------------------+\n";

static int show_profiles(nvmlDevice_t device)
{
    nvmlGpuInstanceProfileInfo_v2_t found[LARGEST_LIST];
    unsigned int count = sorted_profiles(device, found);
    for (unsigned int i = 0; i < count; i++) {
        const nvmlGpuInstanceProfileInfo_v2_t *info = &found[i];
        unsigned int left = 0;
        nvmlDeviceGetGpuInstanceRemainingCapacity(device, info->id, &left);
        char capacity[16], memory[16];
        snprintf(capacity, sizeof capacity, "%u/%u", left, info->instanceCount);
        snprintf(memory, sizeof memory, "%.2f", (double)info->memorySizeMB / 1024);
        printf("| %3u  %-20s%2u     %-11s%-11s%-7s%-7u%-6u%-4u|\n", index_of(device), info->name, info->id, capacity,
               memory, info->isP2pSupported ? "Yes" : "No", info->multiprocessorCount, info->decoderCount,
               info->encoderCount);
        printf("|%63s%-6u%-6u%-4u|\n", "", info->copyEngineCount, info->jpegCount, info->ofaCount);
        printf("%s", PROFILES_END);
    }
    return SMI_DONE;
}

static void show_profiles_head(void)
{
    printf("%s", PROFILES_END);
    printf("| GPU instance profiles:                                                        |\n");
    printf("| GPU   Name               ID    Instances   Memory     P2P    SM    DEC   ENC  |\n");
    printf("|                                Free/Total   GiB              CE    JPEG  OFA  |\n");
    printf("|===============================================================================|\n");
}

static int show_placements(nvmlDevice_t device)
{
    nvmlGpuInstanceProfileInfo_v2_t found[LARGEST_LIST];
    unsigned int count = sorted_profiles(device, found);
    for (unsigned int i = 0; i < count; i++) {
        nvmlGpuInstancePlacement_t places[LARGEST_LIST];
        unsigned int places_count = LARGEST_LIST;
        if (nvmlDeviceGetGpuInstancePossiblePlacements_v2(device, found[i].id, places, &places_count) != NVML_SUCCESS)
            continue;
        printf("GPU %2u Profile ID %2u %s {", index_of(device), found[i].id,
               places_count == 1 ? "Placement :" : "Placements:");
        for (unsigned int k = 0; k < places_count; k++)
            printf("%s%u", k == 0 ? "" : ",", places[k].start);
        printf("}:%u\n", places[0].size);
    }
    return SMI_DONE;
}

static int show_instances(nvmlDevice_t device)
{
    struct list list;
    list_instances(device, &list);
    printf("| GPU  Name              Profile  Instance   Placement  |\n");
    printf("|                          ID       ID       Start:Size |\n");
    for (unsigned int i = 0; i < list.count; i++) {
        nvmlGpuInstanceInfo_t info;
        char name[48];
        nvmlGpuInstanceGetInfo(list.instances[i], &info);
        profile_name(device, info.profileId, name, sizeof name);
        printf("| %3u  %-18s %3u      %3u        %3u:%-3u    |\n", index_of(device), name, info.profileId, info.id,
               info.placement.start, info.placement.size);
    }
    return SMI_DONE;
}

/* Calls `act` for every compute instance, until one fails. */
static int each_compute(nvmlDevice_t device, const char *only_gi, const char *only_ci,
                        nvmlReturn_t (*act)(nvmlDevice_t, unsigned int gi, nvmlComputeInstance_t))
{
    struct list list;
    list_instances(device, &list);
    for (unsigned int i = 0; i < list.count; i++) {
        nvmlGpuInstanceInfo_t info;
        nvmlGpuInstanceGetInfo(list.instances[i], &info);
        if (only_gi != NULL && info.id != strtoul(only_gi, NULL, 10))
            continue;
        for (unsigned int id = 0; id < MAX_COMPUTE_INSTANCES; id++) {
            nvmlComputeInstance_t compute;
            if (only_ci != NULL && id != strtoul(only_ci, NULL, 10))
                continue;
            if (nvmlGpuInstanceGetComputeInstanceById(list.instances[i], id, &compute) != NVML_SUCCESS)
                continue;
            nvmlReturn_t result = act(device, info.id, compute);
            if (result != NVML_SUCCESS)
                return (int)result;
        }
    }
    return SMI_DONE;
}

static nvmlReturn_t show_one_compute(nvmlDevice_t device, unsigned int gi, nvmlComputeInstance_t compute)
{
    nvmlComputeInstanceInfo_t info;
    char name[160] = "";
    nvmlReturn_t result = nvmlComputeInstanceGetInfo_v2(compute, &info);
    if (result != NVML_SUCCESS)
        return result;
    nvmlDeviceGetName(info.device, name, sizeof name);
    char *profile = strstr(name, "MIG ");
    printf("| %3u  %3u   %-20s %3u      %3u        %3u:%-3u    |\n", index_of(device), gi,
           profile == NULL ? name : profile, info.profileId, info.id, info.placement.start, info.placement.size);
    return NVML_SUCCESS;
}

static nvmlReturn_t destroy_one_compute(nvmlDevice_t device, unsigned int gi, nvmlComputeInstance_t compute)
{
    nvmlComputeInstanceInfo_t info = {0};
    nvmlComputeInstanceGetInfo_v2(compute, &info);
    nvmlReturn_t result = nvmlComputeInstanceDestroy(compute);
    if (result != NVML_SUCCESS)
        printf("Unable to destroy compute instance ID %2u from GPU %2u GPU instance ID %2u: %s\n", info.id,
               index_of(device), gi, nvmlErrorString(result));
    else
        printf("Successfully destroyed compute instance ID %2u from GPU %2u GPU instance ID %2u\n", info.id,
               index_of(device), gi);
    return result;
}

static int destroy_instances(nvmlDevice_t device, const char *only_gi)
{
    struct list list;
    list_instances(device, &list);
    for (unsigned int i = 0; i < list.count; i++) {
        nvmlGpuInstanceInfo_t info;
        nvmlGpuInstanceGetInfo(list.instances[i], &info);
        if (only_gi != NULL && info.id != strtoul(only_gi, NULL, 10))
            continue;
        nvmlReturn_t result = nvmlGpuInstanceDestroy(list.instances[i]);
        if (result != NVML_SUCCESS) {
            printf("Unable to destroy GPU instance ID %2u from GPU %2u: %s\n", info.id, index_of(device),
                   nvmlErrorString(result));
            return (int)result;
        }
        printf("Successfully destroyed GPU instance ID %2u from GPU %2u\n", info.id, index_of(device));
    }
    return SMI_DONE;
}

/* The widest compute profile is the default one. */
static nvmlReturn_t create_compute_in(nvmlDevice_t device, nvmlGpuInstance_t instance, const char *wished)
{
    unsigned int chosen = 0, most = 0;
    for (unsigned int e = 0; e < NVML_COMPUTE_INSTANCE_PROFILE_COUNT; e++) {
        nvmlComputeInstanceProfileInfo_t info;
        if (nvmlGpuInstanceGetComputeInstanceProfileInfo(instance, e, 0, &info) == NVML_SUCCESS &&
            info.multiprocessorCount > most) {
            chosen = info.id;
            most = info.multiprocessorCount;
        }
    }
    if (wished != NULL)
        chosen = (unsigned int)strtoul(wished, NULL, 10);
    nvmlComputeInstance_t made;
    nvmlGpuInstanceInfo_t info = {0};
    nvmlGpuInstanceGetInfo(instance, &info);
    nvmlReturn_t result = nvmlGpuInstanceCreateComputeInstance(instance, chosen, &made);
    if (result != NVML_SUCCESS)
        printf("Unable to create a compute instance on GPU %2u GPU instance ID %2u using profile ID %2u: %s\n",
               index_of(device), info.id, chosen, nvmlErrorString(result));
    else
        printf("Successfully created compute instance on GPU %2u GPU instance ID %2u using profile ID %2u\n",
               index_of(device), info.id, chosen);
    return result;
}

/* A profile by id or by name, with or without "MIG ". */
static bool find_profile(nvmlDevice_t device, const char *text, unsigned int *id)
{
    nvmlGpuInstanceProfileInfo_v2_t info;
    char *end;
    *id = (unsigned int)strtoul(text, &end, 10);
    if (*end == '\0')
        return true;
    for (unsigned int e = 0; next_profile(device, &e, &info);)
        if (strcmp(info.name, text) == 0 || strcmp(info.name + 4, text) == 0) {
            *id = info.id;
            return true;
        }
    return false;
}

static nvmlReturn_t create_one(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *made)
{
    char name[48];
    profile_name(device, id, name, sizeof name);
    nvmlReturn_t result = nvmlDeviceCreateGpuInstance(device, id, made);
    if (result != NVML_SUCCESS) {
        printf("Unable to create a GPU instance on GPU %2u using profile %u: %s\n", index_of(device), id,
               nvmlErrorString(result));
        return result;
    }
    nvmlGpuInstanceInfo_t info = {0};
    nvmlGpuInstanceGetInfo(*made, &info);
    printf("Successfully created GPU instance ID %2u on GPU %2u using profile %s (ID %2u)\n", info.id, index_of(device),
           name, id);
    return NVML_SUCCESS;
}

static int create_instances(nvmlDevice_t device, const char *list, bool with_compute)
{
    char copy[1024];
    char *rest;
    snprintf(copy, sizeof copy, "%s", list);
    for (char *item = strtok_r(copy, ",", &rest); item != NULL; item = strtok_r(NULL, ",", &rest)) {
        unsigned int id;
        nvmlGpuInstance_t made;
        if (!find_profile(device, item, &id)) {
            printf("Failed to create GPU instances: Invalid Argument\n");
            return SMI_INVALID;
        }
        nvmlReturn_t result = create_one(device, id, &made);
        if (result == NVML_SUCCESS && with_compute)
            result = create_compute_in(device, made, NULL);
        if (result != NVML_SUCCESS)
            return (int)result;
    }
    return SMI_DONE;
}

static int create_computes(nvmlDevice_t device, const char *only_gi, const char *profile)
{
    struct list list;
    list_instances(device, &list);
    for (unsigned int i = 0; i < list.count; i++) {
        nvmlGpuInstanceInfo_t info;
        nvmlGpuInstanceGetInfo(list.instances[i], &info);
        if (only_gi != NULL && info.id != strtoul(only_gi, NULL, 10))
            continue;
        nvmlReturn_t result = create_compute_in(device, list.instances[i], profile);
        if (result != NVML_SUCCESS)
            return (int)result;
    }
    return SMI_DONE;
}

static int run_on(nvmlDevice_t device, int count, char **words)
{
    const char *gi = word_after(count, words, "-gi");
    const char *ci = word_after(count, words, "-ci");
    const char *create = word_after(count, words, "-cgi");
    const char *compute = word_after(count, words, "-cci");
    if (create != NULL)
        return create_instances(device, create, has_word(count, words, "-C"));
    if (has_word(count, words, "-cci"))
        return create_computes(device, gi, compute != NULL && compute[0] != '-' ? compute : NULL);
    if (has_word(count, words, "-dci"))
        return each_compute(device, gi, ci, destroy_one_compute);
    if (has_word(count, words, "-dgi"))
        return destroy_instances(device, gi);
    if (has_word(count, words, "-lgip"))
        return show_profiles(device);
    if (has_word(count, words, "-lgipp"))
        return show_placements(device);
    if (has_word(count, words, "-lgi"))
        return show_instances(device);
    if (has_word(count, words, "-lci"))
        return each_compute(device, gi, ci, show_one_compute);
    return SMI_INVALID;
}

/* Profiles are told in any mode; that there is no GPU to list instances of is no failure (seen as above). */
int run_mig(int count, char **words)
{
    nvmlDevice_t devices[MAX_GPUS];
    int found = 0;
    int status = find_devices(word_after(count, words, "-i"), devices, &found);
    bool in_any_mode = has_word(count, words, "-lgip") || has_word(count, words, "-lgipp");
    bool only_lists = has_word(count, words, "-lgi") || has_word(count, words, "-lci");
    bool any = false;
    if (status != SMI_DONE)
        return status;
    if (has_word(count, words, "-lgip"))
        show_profiles_head();
    for (int i = 0; i < found; i++) {
        if (!is_mig_on(devices[i]) && !in_any_mode)
            continue;
        any = true;
        status = run_on(devices[i], count, words);
        if (status != SMI_DONE)
            return status;
    }
    if (!any)
        printf("No MIG-enabled devices found.\n");
    return any || only_lists ? SMI_DONE : SMI_NOT_FOUND;
}
