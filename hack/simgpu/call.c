#include "call.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "turns.h"

enum { HANG_POLL_MS = 20 };

static pthread_mutex_t opening = PTHREAD_MUTEX_INITIALIZER;
static unsigned int open_count;
static struct gpu *seen_at_init[MAX_GPUS];
static unsigned int seen_count;

static bool is_for(const struct fault *fault, const char *function)
{
    return strcmp(fault->function, EVERY_FUNCTION) == 0 || strcmp(fault->function, function) == 0;
}

static bool strikes(struct fault *fault, const char *function)
{
    if (fault->serial == 0 || !is_for(fault, function))
        return false;
    uint32_t nth = fault->seen++;
    return nth >= fault->after && (fault->count == 0 || nth < fault->after + fault->count);
}

/* Lets go of the lock while time passes: whom a slow call holds up is a matter of turns, see turns.h. */
static void wait_unlocked(unsigned int milliseconds)
{
    state_unlock();
    sleep_ms(milliseconds);
    state_lock();
}

/* By index, for the state may be mapped elsewhere by the time the lock is back. */
static void hang_until_cleared(int index)
{
    uint64_t serial = state->faults[index].serial;
    while (state != NULL && state->faults[index].serial == serial)
        wait_unlocked(HANG_POLL_MS);
}

static void die(void)
{
    kill(getpid(), SIGKILL);
    for (;;)
        pause();
}

static void apply_faults(struct call *call, const char *function)
{
    for (int i = 0; i < MAX_FAULTS && state != NULL; i++) {
        struct fault *slot = &state->faults[i];
        if (!strikes(slot, function))
            continue;
        struct fault fault = *slot;
        if (fault.delay_ms > 0)
            wait_unlocked(fault.delay_ms);
        if (fault.hang && state != NULL)
            hang_until_cleared(i);
        if (fault.death == DEATH_BEFORE)
            die();
        if (fault.death == DEATH_AFTER)
            call->die_at_end = true;
        if (fault.code != 0)
            call->refusal = (nvmlReturn_t)fault.code;
    }
}

nvmlReturn_t check_permission(void)
{
    bool allowed = state->permission == PERMIT_ALL || (state->permission == PERMIT_ROOT && geteuid() == 0);
    return allowed ? NVML_SUCCESS : NVML_ERROR_NO_PERMISSION;
}

static int turn_of(const struct gpu *changed)
{
    if (state->one_call_at_a_time)
        return take_turn(TURN_OF_DRIVER);
    return changed == NULL ? NO_TURN : take_turn(index_of_gpu(changed));
}

/* `handle` NULL: nothing is changed. */
static struct call begin(const char *function, const void *handle)
{
    struct call call = {.function = function, .refusal = NVML_SUCCESS, .turn = NO_TURN};
    state_lock();
    call.locked = true;
    if (state != NULL) {
        count_call(function);
        call.turn = turn_of(handle == NULL ? NULL : gpu_of_handle(handle));
        call.begun_ns = monotonic_ns();
    }
    if (state != NULL)
        apply_faults(&call, function);
    if (state == NULL)
        call.refusal = NVML_ERROR_UNINITIALIZED;
    return call;
}

struct call call_begin(const char *function) { return begin(function, NULL); }
struct call change_begin(const char *function, const void *handle) { return begin(function, handle); }

void give_way(struct call *call)
{
    leave_turn(call->turn);
    call->turn = NO_TURN;
}

struct log_entry *log_change(const struct call *call, const struct gpu *gpu)
{
    struct log_entry *entry = log_begin(call->function, gpu);
    entry->begun_ns = call->begun_ns;
    return entry;
}

void call_end(struct call *call)
{
    if (call->locked)
        state_unlock();
    give_way(call);
    if (call->die_at_end)
        die();
}

static nvmlReturn_t map_state(void)
{
    const char *path = getenv("SIMGPU_STATE");
    switch (path == NULL ? STATE_MISSING : state_map(path)) {
    case STATE_OK:
        return NVML_SUCCESS;
    case STATE_MISSING:
        return NVML_ERROR_DRIVER_NOT_LOADED;
    case STATE_FOREIGN:
        return NVML_ERROR_LIB_RM_VERSION_MISMATCH;
    case STATE_SYSTEM:
        break;
    }
    return NVML_ERROR_OPERATING_SYSTEM;
}

/* A GPU that fell off the bus is missing from the next session, which shifts the indices of those after it. */
static void look_for_gpus(void)
{
    seen_count = 0;
    for (unsigned int i = 0; i < state->gpu_count; i++)
        if (!state->gpus[i].lost)
            seen_at_init[seen_count++] = &state->gpus[i];
}

static nvmlReturn_t open_session(const char *function, bool may_be_without_gpus)
{
    state_lock();
    nvmlReturn_t result = NVML_SUCCESS;
    if (open_count == 0)
        result = map_state();
    state_unlock();
    if (result != NVML_SUCCESS)
        return result;
    __attribute__((cleanup(call_end))) struct call call = call_begin(function);
    if (state == NULL)
        return NVML_ERROR_UNINITIALIZED;
    if (call.refusal == NVML_SUCCESS && open_count == 0) {
        look_for_gpus();
        if (seen_count == 0 && !may_be_without_gpus)
            call.refusal = NVML_ERROR_DRIVER_NOT_LOADED;
    }
    if (call.refusal != NVML_SUCCESS) {
        if (open_count == 0)
            state_unmap();
        return call.refusal;
    }
    if (open_count++ == 0)
        session_open();
    return NVML_SUCCESS;
}

nvmlReturn_t session_begin(const char *function, bool may_be_without_gpus)
{
    pthread_mutex_lock(&opening);
    nvmlReturn_t result = open_session(function, may_be_without_gpus);
    pthread_mutex_unlock(&opening);
    return result;
}

nvmlReturn_t session_end(void)
{
    __attribute__((cleanup(call_end))) struct call call = call_begin("nvmlShutdown");
    if (call.refusal != NVML_SUCCESS)
        return call.refusal;
    if (--open_count == 0) {
        session_close();
        state_unmap();
    }
    return NVML_SUCCESS;
}

unsigned int visible_gpus(void) { return seen_count; }
struct gpu *visible_gpu(unsigned int index) { return index < seen_count ? seen_at_init[index] : NULL; }

nvmlReturn_t copy_text(const char *text, char *target, unsigned int length)
{
    size_t needed = strlen(text) + 1;
    if (target == NULL)
        return NVML_ERROR_INVALID_ARGUMENT;
    if (needed > length)
        return NVML_ERROR_INSUFFICIENT_SIZE;
    memcpy(target, text, needed);
    return NVML_SUCCESS;
}
