/* Utilization over time and memory in use. */
#ifndef SIMGPU_USAGE_H
#define SIMGPU_USAGE_H

#include "state.h"

/* In force from now on; a negative ratio leaves that kind as it is. */
void set_utilization(struct utilization *utilization, const double ratio[UTILIZATIONS]);
/* Seconds of full use since the beginning, up to now. */
void read_busy_seconds(const struct utilization *utilization, int64_t now_ns, double busy_seconds[UTILIZATIONS]);
/* The time that samples and loads go by. */
int64_t counters_ns(void);
double current_ratio(const struct utilization *utilization, enum utilization_kind kind);
/* A GPU in MIG mode is as busy as its instances, each by its share of the memory slices. */
void refresh_gpu_utilization(struct gpu *gpu);

struct memory_use {
    unsigned long long total; /* bytes */
    unsigned long long reserved;
    unsigned long long used; /* without what is reserved */
};
struct memory_use memory_of_gpu(struct gpu *gpu);
struct memory_use memory_of_instance(const struct gpu *gpu, const struct gpu_instance *instance);

#endif
