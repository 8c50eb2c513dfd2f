#include "mig_devices.h"

#include <stdio.h>
#include <string.h>

#include "lookup.h"
#include "uuid.h"

static bool comes_before(const struct mig_device *a, const struct mig_device *b)
{
    if (a->instance->id != b->instance->id)
        return a->instance->id < b->instance->id;
    return a->compute != NULL && b->compute != NULL && a->compute->id < b->compute->id;
}

static void insert_sorted(struct mig_device *devices, unsigned int *count, struct mig_device device)
{
    unsigned int at = (*count)++;
    for (; at > 0 && comes_before(&device, &devices[at - 1]); at--)
        devices[at] = devices[at - 1];
    devices[at] = device;
}

unsigned int list_mig_devices(struct gpu *gpu, struct mig_device devices[MAX_MIG_DEVICES])
{
    unsigned int count = 0;
    for (int i = 0; i < MAX_GPU_INSTANCES; i++) {
        struct gpu_instance *instance = &gpu->instances[i];
        if (instance->serial == 0)
            continue;
        if (!has_compute(instance))
            insert_sorted(devices, &count, (struct mig_device){gpu, instance, NULL});
        for (int k = 0; k < MAX_COMPUTE_INSTANCES; k++)
            if (instance->compute[k].serial != 0)
                insert_sorted(devices, &count, (struct mig_device){gpu, instance, &instance->compute[k]});
    }
    return count;
}

void mig_uuid(const struct mig_device *device, char text[UUID_TEXT])
{
    char name[160];
    unsigned long long serial = state->fresh_mig_uuids ? (unsigned long long)device->compute->serial : 0;
    snprintf(name, sizeof name, "%s/%u/%u/%llu", device->gpu->uuid, device->instance->id, device->compute->id, serial);
    memcpy(text, "MIG-", 4);
    uuid_of_name(name, text + 4, UUID_TEXT - 4);
}

bool find_mig_uuid(const char *uuid, struct mig_device *device)
{
    struct mig_device devices[MAX_MIG_DEVICES];
    for (unsigned int g = 0; g < state->gpu_count; g++) {
        unsigned int count = list_mig_devices(&state->gpus[g], devices);
        for (unsigned int i = 0; i < count; i++) {
            char text[UUID_TEXT];
            if (devices[i].compute == NULL)
                continue;
            mig_uuid(&devices[i], text);
            if (strcmp(text, uuid) == 0) {
                *device = devices[i];
                return true;
            }
        }
    }
    return false;
}
