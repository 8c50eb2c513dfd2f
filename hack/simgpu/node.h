/* What a reset or a reboot leaves. */
#ifndef SIMGPU_NODE_H
#define SIMGPU_NODE_H

#include "state.h"

/* Instances gone, the pending mode in force. */
void reset_gpu(struct gpu *gpu);
void reboot_node(void);
void new_boot_id(struct state *target);

#endif
