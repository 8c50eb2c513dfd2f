/* Which GPUs hang together over NVSwitch, and so which must be reset together. */
#ifndef SIMGPU_PEERS_H
#define SIMGPU_PEERS_H

#include "state.h"

bool are_peers(const struct gpu *gpu, const struct gpu *other);
/* Without Fabric Manager an Ampere GPU is reset only together with all its peers; with it, and on later generations, alone. */
bool must_reset_with_peers(const struct gpu *gpu);

#endif
