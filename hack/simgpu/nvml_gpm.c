/* GPM: utilization between two samples of a GPU or of a GPU instance. Hopper and later. */
#include <math.h>
#include <stdlib.h>

#include "call.h"
#include "driver.h"
#include "usage.h"

struct nvmlGpmSample_st {
    uint64_t source; /* GPU index + 1, and the serial of the GPU instance above it; 0: nothing sampled */
    int64_t taken_ns;
    double busy_seconds[UTILIZATIONS];
};

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *support)
{
    NVML_CALL();
    struct mig_device found;
    RETURN_IF_FAILED(find_any(device, &found));
    if (support == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (support->version != NVML_GPM_SUPPORT_VERSION)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    support->isSupportedDevice = model_of(found.gpu)->gpm;
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *sample)
{
    NVML_CALL();
    if (sample == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *sample = calloc(1, sizeof **sample);
    return *sample == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t sample)
{
    NVML_CALL();
    if (sample == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    free(sample);
    return NVML_SUCCESS;
}

static void take(nvmlGpmSample_t sample, const struct gpu *gpu, const struct utilization *utilization, uint64_t serial)
{
    sample->source = serial << 8 | (index_of_gpu(gpu) + 1);
    sample->taken_ns = counters_ns();
    read_busy_seconds(utilization, sample->taken_ns, sample->busy_seconds);
}

nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t sample)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (sample == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!model_of(gpu)->gpm)
        return NVML_ERROR_NOT_SUPPORTED;
    take(sample, gpu, &gpu->utilization, 0);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned int instance_id, nvmlGpmSample_t sample)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (sample == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (!model_of(gpu)->gpm)
        return NVML_ERROR_NOT_SUPPORTED;
    for (int i = 0; i < MAX_GPU_INSTANCES; i++) {
        const struct gpu_instance *instance = &gpu->instances[i];
        if (instance->serial != 0 && instance->id == instance_id) {
            take(sample, gpu, &instance->utilization, instance->serial);
            return NVML_SUCCESS;
        }
    }
    return NVML_ERROR_INVALID_ARGUMENT;
}

/* The reading that a metric shows; a single link shows its even share of it. `links` 0: the board has nothing of the kind. */
struct source {
    enum utilization_kind kind;
    unsigned int links;
};

enum { NVLINK_METRICS_PER_LINK = 2, C2C_METRICS_PER_LINK = 4 };

static const struct source NOTHING = {0, 0};

static struct source source_of_links(const struct gpu_model *model, unsigned int metric)
{
    static const enum utilization_kind C2C[] = {UTIL_C2C_TX, UTIL_C2C_RX, UTIL_C2C_TX, UTIL_C2C_RX};
    if (metric >= NVML_GPM_METRIC_NVLINK_L0_RX_PER_SEC && metric <= NVML_GPM_METRIC_NVLINK_L17_TX_PER_SEC) {
        unsigned int place = metric - NVML_GPM_METRIC_NVLINK_L0_RX_PER_SEC;
        if (place / NVLINK_METRICS_PER_LINK >= model->nvlinks)
            return NOTHING;
        return (struct source){place % 2 == 0 ? UTIL_NVLINK_RX : UTIL_NVLINK_TX, model->nvlinks};
    }
    if (metric >= NVML_GPM_METRIC_C2C_LINK0_TOTAL_TX_PER_SEC && metric <= NVML_GPM_METRIC_C2C_LINK13_DATA_RX_PER_SEC) {
        unsigned int place = metric - NVML_GPM_METRIC_C2C_LINK0_TOTAL_TX_PER_SEC;
        if (place / C2C_METRICS_PER_LINK >= model->c2c_links)
            return NOTHING;
        return (struct source){C2C[place % C2C_METRICS_PER_LINK], model->c2c_links};
    }
    return NOTHING;
}

/* That all of C2C's traffic is data is a choice. */
static struct source source_of(const struct gpu_model *model, unsigned int metric)
{
    switch (metric) {
    case NVML_GPM_METRIC_GRAPHICS_UTIL: return (struct source){UTIL_GRAPHICS, 1};
    case NVML_GPM_METRIC_SM_UTIL: return (struct source){UTIL_SM, 1};
    case NVML_GPM_METRIC_SM_OCCUPANCY: return (struct source){UTIL_OCCUPANCY, 1};
    case NVML_GPM_METRIC_ANY_TENSOR_UTIL: return (struct source){UTIL_TENSOR, 1};
    case NVML_GPM_METRIC_DRAM_BW_UTIL: return (struct source){UTIL_DRAM, 1};
    case NVML_GPM_METRIC_INTEGER_UTIL: return (struct source){UTIL_INTEGER, 1};
    case NVML_GPM_METRIC_DFMA_TENSOR_UTIL: return (struct source){UTIL_DFMA, 1};
    case NVML_GPM_METRIC_HMMA_TENSOR_UTIL: return (struct source){UTIL_HMMA, 1};
    case NVML_GPM_METRIC_DMMA_TENSOR_UTIL: return (struct source){UTIL_DMMA, 1};
    case NVML_GPM_METRIC_IMMA_TENSOR_UTIL: return (struct source){UTIL_IMMA, 1};
    case NVML_GPM_METRIC_FP64_UTIL: return (struct source){UTIL_FP64, 1};
    case NVML_GPM_METRIC_FP32_UTIL: return (struct source){UTIL_FP32, 1};
    case NVML_GPM_METRIC_FP16_UTIL: return (struct source){UTIL_FP16, 1};
    case NVML_GPM_METRIC_PCIE_TX_PER_SEC: return (struct source){UTIL_PCIE_TX, 1};
    case NVML_GPM_METRIC_PCIE_RX_PER_SEC: return (struct source){UTIL_PCIE_RX, 1};
    case NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC: return (struct source){UTIL_NVLINK_RX, model->nvlinks > 0};
    case NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC: return (struct source){UTIL_NVLINK_TX, model->nvlinks > 0};
    case NVML_GPM_METRIC_C2C_TOTAL_TX_PER_SEC:
    case NVML_GPM_METRIC_C2C_DATA_TX_PER_SEC: return (struct source){UTIL_C2C_TX, model->c2c_links > 0};
    case NVML_GPM_METRIC_C2C_TOTAL_RX_PER_SEC:
    case NVML_GPM_METRIC_C2C_DATA_RX_PER_SEC: return (struct source){UTIL_C2C_RX, model->c2c_links > 0};
    default: return source_of_links(model, metric);
    }
}

static bool is_of_instance(nvmlGpmSample_t sample) { return sample->source >> 8 != 0; }
static const struct gpu *gpu_of(nvmlGpmSample_t sample) { return &state->gpus[(sample->source & 0xff) - 1]; }

/* Seen on H100 and H200 with driver 580.159.04: samples 20 ms apart show the same counters (100 ms apart they do not; where
 * between is a choice here), and nothing over nothing of DRAM's is no number. With the older sample second a load comes out
 * as 100 %, a rate as far below zero, and nothing says that this is wrong. */
static double ratio_of_counters(struct source source, nvmlGpmSample_t older, nvmlGpmSample_t newer)
{
    static const int64_t LEAST_NS = 100 * 1000 * 1000;
    static const double BACKWARDS_PER_SECOND = -1.844e16;
    bool is_rate = source.kind >= UTIL_PCIE_TX;
    int64_t ns = newer->taken_ns - older->taken_ns;
    double busy_seconds = newer->busy_seconds[source.kind] - older->busy_seconds[source.kind];
    if (ns > -LEAST_NS && ns < LEAST_NS)
        return source.kind == UTIL_DRAM ? NAN : 0;
    if (ns < 0 && source.kind == UTIL_DRAM)
        return NAN;
    if (ns < 0)
        return busy_seconds == 0 ? 0 : is_rate ? BACKWARDS_PER_SECOND : 100;
    return (is_rate ? 1 : 100) * busy_seconds * 1e9 / (double)ns / source.links;
}

/* Links belong to the board; that an instance has no figures for them is a choice. */
static void fill_metric(nvmlGpmMetric_t *metric, nvmlGpmSample_t older, nvmlGpmSample_t newer)
{
    struct source source = source_of(model_of(gpu_of(older)), metric->metricId);
    bool is_rate = source.kind >= UTIL_PCIE_TX;
    metric->value = 0;
    if (metric->metricId >= driver()->gpm_metrics) {
        metric->nvmlReturn = NVML_ERROR_INVALID_ARGUMENT;
        return;
    }
    if (source.links == 0 || (is_rate && is_of_instance(older))) {
        metric->nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
        return;
    }
    metric->nvmlReturn = NVML_SUCCESS;
    metric->value = ratio_of_counters(source, older, newer);
}

nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *request)
{
    NVML_CALL();
    if (request == NULL || request->sample1 == NULL || request->sample2 == NULL ||
        request->numMetrics > NVML_GPM_METRIC_MAX)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (request->version != NVML_GPM_METRICS_GET_VERSION)
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    nvmlGpmSample_t older = request->sample1;
    nvmlGpmSample_t newer = request->sample2;
    if (older->source == 0 || older->source != newer->source)
        return NVML_ERROR_INVALID_ARGUMENT;
    for (unsigned int i = 0; i < request->numMetrics; i++)
        fill_metric(&request->metrics[i], older, newer);
    return NVML_SUCCESS;
}

nvmlReturn_t nvmlGpmQueryIfStreamingEnabled(nvmlDevice_t device, unsigned int *enabled)
{
    NVML_CALL();
    struct gpu *gpu;
    RETURN_IF_FAILED(find_gpu(device, &gpu));
    if (enabled == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    *enabled = 0;
    return NVML_SUCCESS;
}
