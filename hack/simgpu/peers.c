#include "peers.h"

#include "nvml_api.h"

static bool is_on_switch(const struct gpu *gpu)
{
    return state->nvswitch != NVSWITCH_NONE && model_of(gpu)->nvlinks > 0 && !gpu->lost;
}

bool are_peers(const struct gpu *gpu, const struct gpu *other)
{
    return gpu != other && is_on_switch(gpu) && is_on_switch(other);
}

bool must_reset_with_peers(const struct gpu *gpu)
{
    return state->nvswitch == NVSWITCH_UNMANAGED && model_of(gpu)->architecture == NVML_DEVICE_ARCH_AMPERE;
}
