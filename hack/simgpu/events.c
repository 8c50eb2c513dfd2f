#include "events.h"

#include "lookup.h"

/* The count is stored last: see Note [A state that cannot tear]. */
static void tell(struct event event)
{
    state->events[state->event_count % MAX_EVENTS] = event;
    __atomic_store_n(&state->event_count, state->event_count + 1, __ATOMIC_RELEASE);
}

void tell_mig_change(const struct gpu *gpu)
{
    tell((struct event){index_of_gpu(gpu), EVENT_MIG_CHANGE, 0, NO_INSTANCE_ID, NO_INSTANCE_ID});
}

void tell_xid(const struct gpu *gpu, unsigned int number, unsigned int gpu_instance, unsigned int compute_instance)
{
    tell((struct event){index_of_gpu(gpu), EVENT_XID, number, gpu_instance, compute_instance});
}

const struct event *next_event(uint64_t *heard)
{
    if (*heard >= state->event_count)
        return NULL;
    if (state->event_count - *heard > MAX_EVENTS)
        *heard = state->event_count - MAX_EVENTS;
    return &state->events[(*heard)++ % MAX_EVENTS];
}
