/* What the driver tells of by itself. Every listener of every process hears each event once, in the order in which they came. */
#ifndef SIMGPU_EVENTS_H
#define SIMGPU_EVENTS_H

#include "state.h"

void tell_mig_change(const struct gpu *gpu);
/* Ids of the instances it struck; NO_INSTANCE_ID where it struck the whole GPU. */
void tell_xid(const struct gpu *gpu, unsigned int number, unsigned int gpu_instance, unsigned int compute_instance);

/* The event after the first `*heard` ones, which are counted on; NULL when there is no further one. Who falls behind by more
 * than the ring holds has lost the oldest. */
const struct event *next_event(uint64_t *heard);

#endif
