/* simgpu xid: errors that the driver tells of. */
#include <stdio.h>

#include "control_commands.h"
#include "lookup.h"

static const unsigned int NONE = 0xFFFFFFFF;

int command_xid(const struct words *words)
{
    struct mig_device device = required_device(words);
    struct xid *entry = &state->xids[state->xid_count % MAX_XIDS];
    entry->gpu = index_of_gpu(device.gpu);
    entry->number = number(option(words, "--xid"), "--xid");
    entry->gpu_instance = device.compute == NULL ? NONE : device.instance->id;
    entry->compute_instance = device.compute == NULL ? NONE : device.compute->id;
    __atomic_store_n(&state->xid_count, state->xid_count + 1, __ATOMIC_RELEASE);
    return EXIT_DONE;
}
