#include "control_words.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lookup.h"

const char USAGE[] =
    "usage: simgpu [--state FILE] COMMAND            FILE defaults to $SIMGPU_STATE\n"
    "  init --gpu MODEL[:COUNT]... [--mig] [--seed TEXT] [--fresh-mig-uuids] [--driver 535|550|570|580]\n"
    "  show [--json]                                what is there\n"
    "  log [--json]                                 every mutation, successful or not\n"
    "  counters                                     calls per NVML function, as JSON\n"
    "  proc attach --device UUID --pid PID [--memory-mib N] | detach --pid PID | list\n"
    "  util --device UUID [--graphics R] [--sm R] [--occupancy R] [--tensor R] [--dram R]     R in 0..1\n"
    "       [--integer R] [--dfma R] [--hmma R] [--dmma R] [--imma R] [--fp64 R] [--fp32 R] [--fp16 R]\n"
    "       [--pcie-tx M] [--pcie-rx M] [--nvlink-tx M] [--nvlink-rx M] [--c2c-tx M] [--c2c-rx M]     M in MiB/s\n"
    "  pass SECONDS                                 the counters of load go on by that much at once\n"
    "  fault add --function NAME [--after N] [--count N] [--code NAME|INT] [--delay-ms N] [--hang] [--die before|after]\n"
    "  fault list | clear                           NAME may be * for every function\n"
    "  latency --function NAME --ms N               every call of it; 0 takes it back\n"
    "  lost --gpu UUID                              falls off the bus until the next reboot\n"
    "  reset --gpu UUID                             instances go, the pending MIG mode comes into force\n"
    "  reboot                                       new boot id; instances and processes go, the mode by generation\n"
    "  boot-id\n"
    "  xid --device UUID --xid N                    an Xid error, to who listens for events\n"
    "  permission all|root|nobody                   who may change and list instances, and change the mode; at first all\n"
    "  virtualization --gpu UUID --kind none|passthrough|vm|vgpu\n"
    "  parallel on|off                              on (at first): a change holds up other changes of its GPU; off: every\n"
    "                                               call holds up all others, whichever GPU they are for\n"
    "  nvswitch none|managed|unmanaged              whether NVSwitches join the GPUs that have NVLink, and whether Fabric\n"
    "                                               Manager runs; at first none\n";

const char *option(const struct words *words, const char *name)
{
    for (int i = 0; i + 1 < words->count; i++)
        if (strcmp(words->values[i], name) == 0)
            return words->values[i + 1];
    return NULL;
}

bool has_flag(const struct words *words, const char *name)
{
    for (int i = 0; i < words->count; i++)
        if (strcmp(words->values[i], name) == 0)
            return true;
    return false;
}

int refuse(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("simgpu: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    return EXIT_REFUSED;
}

int misuse(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("simgpu: ", stderr);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n%s", USAGE);
    va_end(arguments);
    return EXIT_USAGE;
}

unsigned int number(const char *text, const char *what)
{
    char *end = NULL;
    unsigned long value = text == NULL ? 0 : strtoul(text, &end, 10);
    if (end == NULL || end == text || *end != '\0' || text[0] == '-' || value > 0xFFFFFFFF)
        exit(misuse("%s needs a whole number", what));
    return (unsigned int)value;
}

bool find_device(const char *uuid, struct mig_device *found)
{
    *found = (struct mig_device){.gpu = find_gpu_uuid(uuid)};
    return found->gpu != NULL || find_mig_uuid(uuid, found);
}

struct gpu *required_gpu(const struct words *words)
{
    const char *uuid = option(words, "--gpu");
    if (uuid == NULL)
        exit(misuse("--gpu UUID is missing"));
    struct gpu *gpu = find_gpu_uuid(uuid);
    if (gpu == NULL)
        exit(refuse("no GPU %s", uuid));
    return gpu;
}

struct mig_device required_device(const struct words *words)
{
    const char *uuid = option(words, "--device");
    struct mig_device found;
    if (uuid == NULL)
        exit(misuse("--device UUID is missing"));
    if (!find_device(uuid, &found))
        exit(refuse("no device %s", uuid));
    return found;
}
