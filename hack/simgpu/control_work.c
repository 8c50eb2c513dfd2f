/* simgpu proc, util: what runs on the GPUs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control_commands.h"
#include "holders.h"
#include "lookup.h"
#include "usage.h"

static struct gpu_process *free_slot(void)
{
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (!is_held(&state->processes[i]))
            return &state->processes[i];
    return NULL;
}

static int attach(const struct words *words)
{
    struct mig_device device = required_device(words);
    unsigned int pid = number(option(words, "--pid"), "--pid");
    const char *memory = option(words, "--memory-mib");
    struct process_identity identity;
    if (!identify((pid_t)pid, &identity))
        return refuse("no process %u", pid);
    struct gpu_process *slot = free_slot();
    if (slot == NULL)
        return refuse("at most %d processes", MAX_PROCESSES);
    slot->identity.pid = 0;
    slot->gpu = index_of_gpu(device.gpu);
    slot->gpu_instance = device.compute == NULL ? 0 : device.instance->serial;
    slot->compute_instance = device.compute == NULL ? 0 : device.compute->serial;
    slot->memory_bytes = (memory == NULL ? 0ULL : number(memory, "--memory-mib")) << 20;
    slot->identity.started = identity.started;
    __atomic_store_n(&slot->identity.pid, identity.pid, __ATOMIC_RELEASE);
    return EXIT_DONE;
}

static int detach(const struct words *words)
{
    int32_t pid = (int32_t)number(option(words, "--pid"), "--pid");
    bool found = false;
    for (int i = 0; i < MAX_PROCESSES; i++)
        if (pid != 0 && state->processes[i].identity.pid == pid) {
            __atomic_store_n(&state->processes[i].identity.pid, 0, __ATOMIC_RELEASE);
            found = true;
        }
    return found ? EXIT_DONE : refuse("process %d is not attached", pid);
}

static bool device_of_process(const struct gpu_process *process, struct mig_device *device)
{
    struct gpu *gpu = &state->gpus[process->gpu];
    for (int i = 0; process->gpu_instance != 0 && i < MAX_GPU_INSTANCES; i++)
        for (int k = 0; gpu->instances[i].serial == process->gpu_instance && k < MAX_COMPUTE_INSTANCES; k++)
            if (gpu->instances[i].compute[k].serial == process->compute_instance) {
                *device = (struct mig_device){gpu, &gpu->instances[i], &gpu->instances[i].compute[k]};
                return true;
            }
    return false;
}

static void print_process_json(const struct gpu_process *process, bool first)
{
    struct mig_device device;
    char uuid[UUID_TEXT];
    printf("%s{\"pid\":%d,\"gpu\":\"%s\",\"memory_mib\":%llu,", first ? "" : ",", process->identity.pid,
           state->gpus[process->gpu].uuid, (unsigned long long)(process->memory_bytes >> 20));
    if (device_of_process(process, &device)) {
        mig_uuid(&device, uuid);
        printf("\"mig_uuid\":\"%s\",\"gi_id\":%u,\"ci_id\":%u}", uuid, device.instance->id, device.compute->id);
    } else {
        printf("\"mig_uuid\":null,\"gi_id\":null,\"ci_id\":null}");
    }
}

void print_processes_json(void)
{
    bool first = true;
    printf("[");
    for (int i = 0; i < MAX_PROCESSES; i++) {
        if (!is_held(&state->processes[i]))
            continue;
        print_process_json(&state->processes[i], first);
        first = false;
    }
    printf("]");
}

int command_proc(const struct words *words)
{
    const char *verb = words->count > 0 ? words->values[0] : "";
    if (strcmp(verb, "attach") == 0)
        return attach(words);
    if (strcmp(verb, "detach") == 0)
        return detach(words);
    if (strcmp(verb, "list") != 0)
        return misuse("proc attach, detach or list?");
    print_processes_json();
    printf("\n");
    return EXIT_DONE;
}

static const char *const KINDS[UTILIZATIONS] = {
    [UTIL_GRAPHICS] = "--graphics", [UTIL_SM] = "--sm",           [UTIL_OCCUPANCY] = "--occupancy",
    [UTIL_TENSOR] = "--tensor",     [UTIL_DRAM] = "--dram",       [UTIL_INTEGER] = "--integer",
    [UTIL_DFMA] = "--dfma",         [UTIL_HMMA] = "--hmma",       [UTIL_DMMA] = "--dmma",
    [UTIL_IMMA] = "--imma",         [UTIL_FP64] = "--fp64",       [UTIL_FP32] = "--fp32",
    [UTIL_FP16] = "--fp16",         [UTIL_PCIE_TX] = "--pcie-tx", [UTIL_PCIE_RX] = "--pcie-rx",
    [UTIL_NVLINK_RX] = "--nvlink-rx", [UTIL_NVLINK_TX] = "--nvlink-tx",
    [UTIL_C2C_TX] = "--c2c-tx",     [UTIL_C2C_RX] = "--c2c-rx",
};

/* Negative when the words do not name it. */
static double wish(const struct words *words, enum utilization_kind kind)
{
    const char *text = option(words, KINDS[kind]);
    if (text == NULL)
        return -1;
    char *end;
    double value = strtod(text, &end);
    double most = kind >= UTIL_PCIE_TX ? 1e9 : 1;
    if (end == text || *end != '\0' || !(value >= 0 && value <= most))
        exit(misuse("%s needs %s", KINDS[kind], kind >= UTIL_PCIE_TX ? "MiB/s" : "a ratio from 0 to 1"));
    return value;
}

/* In MIG mode the links stay the board's and the rest is its instances'. */
static bool fits_device(const double ratios[UTILIZATIONS], bool mig_device, bool mig_mode)
{
    for (int k = 0; k < UTILIZATIONS; k++) {
        bool is_link = k >= UTIL_PCIE_TX;
        if (ratios[k] >= 0 && ((mig_device && is_link) || (!mig_device && mig_mode && !is_link)))
            return false;
    }
    return true;
}

static bool has_links(const struct gpu_model *model, const double ratios[UTILIZATIONS])
{
    bool nvlink = ratios[UTIL_NVLINK_RX] >= 0 || ratios[UTIL_NVLINK_TX] >= 0;
    bool c2c = ratios[UTIL_C2C_RX] >= 0 || ratios[UTIL_C2C_TX] >= 0;
    return (!nvlink || model->nvlinks > 0) && (!c2c || model->c2c_links > 0);
}

int command_util(const struct words *words)
{
    struct mig_device device = required_device(words);
    double ratios[UTILIZATIONS];
    for (int k = 0; k < UTILIZATIONS; k++)
        ratios[k] = wish(words, (enum utilization_kind)k);
    if (!fits_device(ratios, device.compute != NULL, device.gpu->mig_current))
        return refuse("in MIG mode links are the GPU's and all else is a MIG device's: name that");
    if (!has_links(model_of(device.gpu), ratios))
        return refuse("%s has no such links", device.gpu->model);
    if (device.compute == NULL) {
        set_utilization(&device.gpu->utilization, ratios);
        return EXIT_DONE;
    }
    set_utilization(&device.instance->utilization, ratios);
    refresh_gpu_utilization(device.gpu);
    return EXIT_DONE;
}

/* GPM needs time between samples; who tests its clients need not wait for it. */
int command_pass(const struct words *words)
{
    char *end;
    const char *text = words->count == 1 ? words->values[0] : "";
    double seconds = strtod(text, &end);
    if (end == text || *end != '\0' || !(seconds >= 0 && seconds <= 1e6))
        return misuse("pass needs seconds");
    state->counters_ahead_ns += (int64_t)(seconds * 1e9);
    return EXIT_DONE;
}
