#include "driver.h"

#include <stddef.h>

#include "nvml_api.h"
#include "state.h"

static const struct driver DRIVERS[] = {
    {535, "535.183.06", "12.535.183.06", 12020, 0x0A, 1, false, 98},
    {550, "550.90.07", "12.550.90.07", 12040, 0x0A, 2, true, 98},
    {570, "570.86.15", "12.570.86.15", 12080, 0x0A, 2, true, 98},
    {580, "580.95.05", "13.580.95.05", 13000, 0x11, 3, true, NVML_GPM_METRIC_MAX},
};

const struct driver *driver_of_branch(unsigned int branch)
{
    for (size_t i = 0; i < sizeof DRIVERS / sizeof DRIVERS[0]; i++)
        if (DRIVERS[i].branch == branch)
            return &DRIVERS[i];
    return NULL;
}

const struct driver *driver(void) { return driver_of_branch(state->driver_branch); }
