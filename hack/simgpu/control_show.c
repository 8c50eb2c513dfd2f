/* simgpu show, log, counters. */
#include <stdio.h>
#include <string.h>

#include "control_commands.h"
#include "lookup.h"
#include "nvml_api.h"
#include "peers.h"
#include "usage.h"

static const char *comma(bool first) { return first ? "" : ","; }

static void print_compute_json(const struct mig_device *device, bool first)
{
    char uuid[UUID_TEXT];
    const struct compute_profile *profile = compute_profile_of(device->gpu, device->instance, device->compute);
    mig_uuid(device, uuid);
    printf("%s{\"ci_id\":%u,\"profile\":\"%s\",\"profile_id\":%u,\"start\":%u,\"size\":%u,\"mig_uuid\":\"%s\"}",
           comma(first), device->compute->id, profile->name, profile->id, device->compute->start, device->compute->size,
           uuid);
}

/* As simgpu util has set it, in NVML's order. */
static void print_load_json(const struct utilization *utilization)
{
    static const char *const NAMES[] = {"graphics", "sm", "occupancy", "tensor", "dram"};
    printf("\"load\":{");
    for (int kind = UTIL_GRAPHICS; kind <= UTIL_DRAM; kind++)
        printf("%s\"%s\":%.6f", comma(kind == UTIL_GRAPHICS), NAMES[kind],
               current_ratio(utilization, (enum utilization_kind)kind));
    printf("}");
}

static void print_instance_json(struct gpu *gpu, struct gpu_instance *instance, bool first)
{
    const struct gpu_profile *profile = profile_of(gpu, instance);
    printf("%s{\"gi_id\":%u,\"profile\":\"%s\",\"profile_id\":%u,\"start\":%u,\"size\":%u,\"cis\":[", comma(first),
           instance->id, profile->name, profile->id, instance->start, instance->size);
    bool first_compute = true;
    for (int i = 0; i < MAX_COMPUTE_INSTANCES; i++) {
        if (instance->compute[i].serial == 0)
            continue;
        print_compute_json(&(struct mig_device){gpu, instance, &instance->compute[i]}, first_compute);
        first_compute = false;
    }
    printf("],");
    print_load_json(&instance->utilization);
    printf("}");
}

static void print_peers_json(const struct gpu *gpu)
{
    bool first = true;
    printf("\"peers\":[");
    for (unsigned int i = 0; i < state->gpu_count; i++) {
        if (!are_peers(gpu, &state->gpus[i]))
            continue;
        printf("%s\"%s\"", comma(first), state->gpus[i].uuid);
        first = false;
    }
    printf("],");
}

static void print_gpu_json(struct gpu *gpu)
{
    const struct gpu_model *model = model_of(gpu);
    printf("%s{\"index\":%u,\"uuid\":\"%s\",\"model\":\"%s\",\"name\":\"%s\",\"lost\":%s,\"memory_mib\":%u,"
           "\"memory_slices\":%u,\"mode\":{\"current\":%u,\"pending\":%u},",
           comma(gpu == state->gpus), index_of_gpu(gpu), gpu->uuid, gpu->model, model->name,
           gpu->lost ? "true" : "false", model->memory_mib, model->memory_slices, gpu->mig_current, gpu->mig_pending);
    print_peers_json(gpu);
    printf("\"instances\":[");
    bool first = true;
    for (unsigned int start = 0; start < model->memory_slices; start++)
        for (int i = 0; i < MAX_GPU_INSTANCES; i++)
            if (gpu->instances[i].serial != 0 && gpu->instances[i].start == start) {
                print_instance_json(gpu, &gpu->instances[i], first);
                first = false;
            }
    printf("]}");
}

static int show_json(void)
{
    printf("{\"boot_id\":\"%s\",\"nvswitch\":\"%s\",\"gpus\":[", state->boot_id, nvswitch_word());
    for (unsigned int i = 0; i < state->gpu_count; i++)
        print_gpu_json(&state->gpus[i]);
    printf("],\"processes\":");
    print_processes_json();
    printf("}\n");
    return EXIT_DONE;
}

static const struct gpu_instance *instance_at(const struct gpu *gpu, unsigned int slice)
{
    for (int i = 0; i < MAX_GPU_INSTANCES; i++) {
        const struct gpu_instance *instance = &gpu->instances[i];
        if (instance->serial != 0 && slice >= instance->start && slice < instance->start + instance->size)
            return instance;
    }
    return NULL;
}

/* One box per memory slice, an instance spanning its own: |3g.40gb            |1g.10gb  | .       | */
static void draw_slices(const struct gpu *gpu)
{
    enum { COLUMNS = 9 };
    unsigned int slices = model_of(gpu)->memory_slices;
    printf("  |");
    for (unsigned int slice = 0; slice < slices;) {
        const struct gpu_instance *instance = instance_at(gpu, slice);
        unsigned int size = instance == NULL ? 1 : instance->size;
        printf("%-*.*s|", (int)(size * COLUMNS + size - 1), (int)(size * COLUMNS + size - 1),
               instance == NULL ? " ." : profile_of(gpu, instance)->name);
        slice += size;
    }
    printf("\n");
}

static void list_devices(struct gpu *gpu)
{
    struct mig_device devices[MAX_MIG_DEVICES];
    unsigned int count = list_mig_devices(gpu, devices);
    for (unsigned int i = 0; i < count; i++) {
        char uuid[UUID_TEXT] = "(no compute instance)";
        if (devices[i].compute != NULL)
            mig_uuid(&devices[i], uuid);
        printf("  GI %2u  %u:%u  %-14s %s\n", devices[i].instance->id, devices[i].instance->start,
               devices[i].instance->size, profile_of(gpu, devices[i].instance)->name, uuid);
    }
}

static void show_gpu(struct gpu *gpu)
{
    static const char *const MODES[] = {"off", "on"};
    printf("GPU %u  %s  %s  MIG %s", index_of_gpu(gpu), gpu->uuid, gpu->model, MODES[gpu->mig_current & 1]);
    if (gpu->mig_pending != gpu->mig_current)
        printf(" (pending: %s)", MODES[gpu->mig_pending & 1]);
    printf("%s\n", gpu->lost ? "  LOST" : "");
    if (gpu->mig_current) {
        draw_slices(gpu);
        list_devices(gpu);
    }
}

static bool has_peers(const struct gpu *gpu)
{
    for (unsigned int i = 0; i < state->gpu_count; i++)
        if (are_peers(gpu, &state->gpus[i]))
            return true;
    return false;
}

/* The peers by index: NVSwitch  0--1--3  Fabric Manager runs */
static void draw_nvswitch(void)
{
    bool first = true;
    if (state->nvswitch == NVSWITCH_NONE)
        return;
    printf("NVSwitch  ");
    for (unsigned int i = 0; i < state->gpu_count; i++) {
        if (!has_peers(&state->gpus[i]))
            continue;
        printf("%s%u", first ? "" : "--", i);
        first = false;
    }
    printf("%s  Fabric Manager %s\n", first ? "joins none" : "",
           state->nvswitch == NVSWITCH_MANAGED ? "runs" : "does not run");
}

int command_show(const struct words *words)
{
    if (has_flag(words, "--json"))
        return show_json();
    draw_nvswitch();
    for (unsigned int i = 0; i < state->gpu_count; i++)
        show_gpu(&state->gpus[i]);
    return EXIT_DONE;
}

static void print_optional(const char *name, int32_t value)
{
    if (value == NO_VALUE)
        printf("\"%s\":null,", name);
    else
        printf("\"%s\":%d,", name, value);
}

static void print_entry_json(const struct log_entry *entry, bool first)
{
    printf("%s{\"seq\":%llu,\"begun_ns\":%lld,\"monotonic_ns\":%lld,\"wall_ns\":%lld,\"pid\":%d,", comma(first),
           (unsigned long long)entry->seq, (long long)entry->begun_ns, (long long)entry->monotonic_ns,
           (long long)entry->wall_ns, entry->pid);
    printf("\"function\":\"%s\",\"gpu\":\"%s\",", entry->function, entry->gpu);
    printf("\"profile\":\"%s\",", entry->profile);
    print_optional("mode", entry->mode);
    print_optional("start", entry->start);
    print_optional("size", entry->size);
    print_optional("gi", entry->gi);
    print_optional("ci", entry->ci);
    if (entry->result == NO_RESULT)
        printf("\"ended_ns\":null,\"result\":null}");
    else
        printf("\"ended_ns\":%lld,\"result\":%d}", (long long)entry->ended_ns, entry->result);
}

static void print_entry(const struct log_entry *entry)
{
    printf("%4llu  %-48s %.12s  %-14s", (unsigned long long)entry->seq, entry->function, entry->gpu, entry->profile);
    if (entry->mode != NO_VALUE)
        printf(" mode=%d", entry->mode);
    if (entry->start != NO_VALUE)
        printf(" %d:%d", entry->start, entry->size);
    printf("  %s\n", entry->result == NO_RESULT ? "died" : nvmlErrorString((nvmlReturn_t)entry->result));
}

int command_log(const struct words *words)
{
    bool json = has_flag(words, "--json");
    uint64_t begin = state->log_count > MAX_LOG ? state->log_count - MAX_LOG : 0;
    printf("%s", json ? "[" : "");
    for (uint64_t i = begin; i < state->log_count; i++) {
        const struct log_entry *entry = &state->log[i % MAX_LOG];
        if (json)
            print_entry_json(entry, i == begin);
        else
            print_entry(entry);
    }
    printf("%s", json ? "]\n" : "");
    return EXIT_DONE;
}

int command_counters(const struct words *words)
{
    (void)words;
    bool first = true;
    printf("{");
    for (int i = 0; i < MAX_COUNTERS; i++) {
        if (state->counters[i].calls == 0)
            continue;
        printf("%s\"%s\":%llu", comma(first), state->counters[i].function,
               (unsigned long long)state->counters[i].calls);
        first = false;
    }
    printf("}\n");
    return EXIT_DONE;
}
