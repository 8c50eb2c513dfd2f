#include "usage.h"

#include "holders.h"
#include "lookup.h"

enum { MIB = 1 << 20, IDLE_MIB = 11, IDLE_MIB_PER_SLICE = 4, RESERVED_MIB = 600 };

void read_busy_seconds(const struct utilization *utilization, int64_t now_ns, double busy_seconds[UTILIZATIONS])
{
    const struct utilization_reading *reading = &utilization->readings[utilization->current & 1];
    double elapsed = (double)(now_ns - reading->since_ns) / 1e9;
    for (int i = 0; i < UTILIZATIONS; i++)
        busy_seconds[i] = reading->busy_seconds[i] + reading->ratio[i] * elapsed;
}

int64_t counters_ns(void) { return monotonic_ns() + state->counters_ahead_ns; }

double current_ratio(const struct utilization *utilization, enum utilization_kind kind)
{
    return utilization->readings[utilization->current & 1].ratio[kind];
}

void set_utilization(struct utilization *utilization, const double ratio[UTILIZATIONS])
{
    uint32_t other = (utilization->current & 1) ^ 1;
    struct utilization_reading *next = &utilization->readings[other];
    int64_t now = counters_ns();
    read_busy_seconds(utilization, now, next->busy_seconds);
    for (int i = 0; i < UTILIZATIONS; i++)
        next->ratio[i] = ratio[i] < 0 ? current_ratio(utilization, (enum utilization_kind)i) : ratio[i];
    next->since_ns = now;
    __atomic_store_n(&utilization->current, other, __ATOMIC_RELEASE);
}

void refresh_gpu_utilization(struct gpu *gpu)
{
    double ratio[UTILIZATIONS] = {0};
    for (int i = 0; i < MAX_GPU_INSTANCES; i++) {
        const struct gpu_instance *instance = &gpu->instances[i];
        if (instance->serial == 0)
            continue;
        for (int k = 0; k < UTIL_PCIE_TX; k++)
            ratio[k] += current_ratio(&instance->utilization, (enum utilization_kind)k) * instance->size /
                        model_of(gpu)->memory_slices;
    }
    for (int k = UTIL_PCIE_TX; k < UTILIZATIONS; k++)
        ratio[k] = -1;
    set_utilization(&gpu->utilization, ratio);
}

static unsigned long long allocated_in(const struct gpu *gpu, uint64_t instance_serial)
{
    unsigned long long bytes = 0;
    for (int i = 0; i < MAX_PROCESSES; i++) {
        const struct gpu_process *process = &state->processes[i];
        if (process->gpu == index_of_gpu(gpu) && process->gpu_instance == instance_serial && is_held(process))
            bytes += process->memory_bytes;
    }
    return bytes;
}

/* Shared by the compute instances of the GPU instance. Larger instances report a little less than their profile's
 * memory, as on hardware, so that nobody comes to rely on equality. */
struct memory_use memory_of_instance(const struct gpu *gpu, const struct gpu_instance *instance)
{
    const struct gpu_profile *profile = profile_of(gpu, instance);
    unsigned int total_mib = profile->memory_mib - (profile->slices > 1 ? 32 : 0);
    unsigned int idle_mib = IDLE_MIB + IDLE_MIB_PER_SLICE * profile->slices;
    return (struct memory_use){
        .total = (unsigned long long)total_mib * MIB,
        .reserved = 0,
        .used = (unsigned long long)idle_mib * MIB + allocated_in(gpu, instance->serial),
    };
}

struct memory_use memory_of_gpu(struct gpu *gpu)
{
    struct memory_use use = {
        .total = (unsigned long long)model_of(gpu)->memory_mib * MIB,
        .reserved = (unsigned long long)RESERVED_MIB * MIB,
        .used = allocated_in(gpu, 0),
    };
    for (int i = 0; i < MAX_GPU_INSTANCES; i++)
        if (gpu->instances[i].serial != 0)
            use.used += memory_of_instance(gpu, &gpu->instances[i]).used;
    return use;
}
