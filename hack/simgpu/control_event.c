/* simgpu xid: errors that the driver tells of. */
#include "control_commands.h"
#include "events.h"

int command_xid(const struct words *words)
{
    struct mig_device device = required_device(words);
    unsigned int number_of_xid = number(option(words, "--xid"), "--xid");
    if (device.compute == NULL)
        tell_xid(device.gpu, number_of_xid, NO_INSTANCE_ID, NO_INSTANCE_ID);
    else
        tell_xid(device.gpu, number_of_xid, device.instance->id, device.compute->id);
    return EXIT_DONE;
}
