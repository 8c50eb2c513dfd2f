/* What every NVML call has in common: counted, delayed or failed on wish, under the lock.
 *
 *     nvmlReturn_t nvmlDeviceGetX(nvmlDevice_t device, ...)
 *     {
 *         NVML_CALL();
 *         ...                  locked from here to any return
 *     }
 */
#ifndef SIMGPU_CALL_H
#define SIMGPU_CALL_H

#include "lookup.h"
#include "mig_devices.h"
#include "nvml_api.h"
#include "state.h"

struct call {
    const char *function;
    nvmlReturn_t refusal; /* the session is closed, or a fault was asked for */
    bool locked;
    bool die_at_end;
    int turn; /* see turns.h */
    int64_t begun_ns;
};

/* NO_PERMISSION for a caller who may neither change MIG mode or instances nor list them: what nvml.h says requires a
 * privileged (or root) user. */
nvmlReturn_t check_permission(void);

struct call call_begin(const char *function);
/* A change of the GPU that the handle, of whatever kind, belongs to. */
struct call change_begin(const char *function, const void *handle);
void call_end(struct call *call);

/* The entry of a change, with the time at which its turn began. */
struct log_entry *log_change(const struct call *call, const struct gpu *gpu);
/* Before a call waits for something that other calls bring about. */
void give_way(struct call *call);

#define NVML_LOCKED_CALL() __attribute__((cleanup(call_end))) struct call call = call_begin(__func__)

#define NVML_CHANGE(handle) __attribute__((cleanup(call_end))) struct call call = change_begin(__func__, handle)

#define NVML_CALL()                                                                                                    \
    NVML_LOCKED_CALL();                                                                                                \
    if (call.refusal != NVML_SUCCESS)                                                                                  \
    return call.refusal

/* A session: from the first nvmlInit of the process to its last nvmlShutdown. */
nvmlReturn_t session_begin(const char *function, bool may_be_without_gpus);
nvmlReturn_t session_end(void);
unsigned int visible_gpus(void);
struct gpu *visible_gpu(unsigned int index);

/* Handles are numbers that only look like pointers: a kind, a GPU and a serial. A stale or invented one names nothing
 * and is refused, never followed. */
nvmlDevice_t handle_of_gpu(const struct gpu *gpu);
nvmlDevice_t handle_of_mig_device(const struct mig_device *device);
nvmlGpuInstance_t handle_of_instance(const struct gpu *gpu, const struct gpu_instance *instance);
nvmlComputeInstance_t handle_of_compute(const struct gpu *gpu, const struct compute_instance *compute);

/* Whichever kind of handle it is; NULL when no GPU of the node has it. */
const struct gpu *gpu_of_handle(const void *handle);

/* The physical GPU; INVALID_ARGUMENT for a MIG handle, GPU_IS_LOST for one that fell off the bus. */
nvmlReturn_t find_gpu(nvmlDevice_t device, struct gpu **gpu);
/* As find_gpu, and NOT_SUPPORTED unless MIG mode is on. */
nvmlReturn_t find_mig_gpu(nvmlDevice_t device, struct gpu **gpu);
nvmlReturn_t find_mig_device(nvmlDevice_t device, struct mig_device *found);
/* Any device handle; `compute` and `instance` are NULL for a physical GPU. */
nvmlReturn_t find_any(nvmlDevice_t device, struct mig_device *found);
nvmlReturn_t find_instance(nvmlGpuInstance_t handle, struct gpu **gpu, struct gpu_instance **instance);
nvmlReturn_t find_compute(nvmlComputeInstance_t handle, struct mig_device *found);

/* Copies a string out as NVML does: INSUFFICIENT_SIZE when it does not fit. */
nvmlReturn_t copy_text(const char *text, char *target, unsigned int length);

#define RETURN_IF_FAILED(expression)                                                                                   \
    do {                                                                                                               \
        nvmlReturn_t failure = (expression);                                                                           \
        if (failure != NVML_SUCCESS)                                                                                   \
            return failure;                                                                                            \
    } while (0)

#endif
