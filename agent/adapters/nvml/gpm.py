"""Load by GPM: two samples of one GPU instance, or of a GPU whose MIG mode is off. Runs on the reading thread; it blocks.

# Note [Two buffers per GPU instance]
# GPM tells utilization between two samples, at least 100 ms apart: two that are closer show an idle GPU, and nothing says that
# this is wrong (seen on H100 and H200 with driver 580.159.04). Each GPU instance has two buffers: one look fills the
# older of them, so that each period costs one sample and no sleep. A sample of an instance that is gone must never be
# measured against one of its successor, and GPU instance ids, placements and even MIG UUIDs come back: the buffers go with
# everything that can tell two instances apart (sampler.py), our own destroying among it, and what a pair then says that no
# instance can do is thrown away. A look out of turn leaves the buffers alone when the last sample is too young: a short interval
# is noise.
"""

from __future__ import annotations

from contextlib import suppress
from math import isfinite
from time import monotonic
from typing import Any

import pynvml

from agent.adapters.nvml import calls
from agent.model.telemetry import Utilization

_METRICS = (
    pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL,
    pynvml.NVML_GPM_METRIC_SM_UTIL,
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
)
"""In the order of Utilization's fields."""

_ROUNDING = 1.05


class Buffers:
    """The two samples of one GPU instance, and what they have told together so far: ``active_seconds`` is load times time, None
    before the first load. See Note [Two buffers per GPU instance]."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._older: Any = None
        self._newer: Any = None
        self._due = 0.0
        self._taken = 0.0
        self._load = Utilization()
        self.active_seconds: float | None = None

    def advance(self, device: Any, gpu_instance: int | None) -> Utilization:
        """Take a sample of a GPU instance (None: of the whole GPU); what it says against the one before. Nothing at the first,
        the last answer when asked again too soon. Raises NVMLError."""
        if monotonic() < self._due:
            return self._load
        sample, self._older = self._older, None
        if sample is None:
            sample = pynvml.nvmlGpmSampleAlloc()
        try:
            if gpu_instance is None:
                pynvml.nvmlGpmSampleGet(device, sample)
            else:
                pynvml.nvmlGpmMigSampleGet(device, gpu_instance, sample)
        except pynvml.NVMLError:
            # It may be half written: the next look takes another, against the same one as before.
            with suppress(pynvml.NVMLError):
                pynvml.nvmlGpmSampleFree(sample)
            raise
        self._older, self._newer = self._newer, sample
        before, self._taken = self._taken, monotonic()
        self._due = self._taken + self._interval_seconds
        self._load = _between(self._older, self._newer) if self._older is not None else Utilization()
        if self._load.graphics is not None:
            self.active_seconds = (self.active_seconds or 0.0) + self._load.graphics * (self._taken - before)
        return self._load

    def free(self) -> None:
        """Buffers are plain memory of the library; one that it no longer knows is none of ours any more."""
        for sample in (self._older, self._newer):
            if sample is not None:
                with suppress(pynvml.NVMLError):
                    pynvml.nvmlGpmSampleFree(sample)
        self._older = self._newer = None


def _between(older: Any, newer: Any) -> Utilization:
    """The older sample comes first: the other way round gives nonsense, not an error. A driver that knows a metric not says
    so for this metric alone; samples that do not belong together are refused as a whole."""
    request = pynvml.c_nvmlGpmMetricsGet_t()
    request.version = pynvml.NVML_GPM_METRICS_GET_VERSION
    request.numMetrics = len(_METRICS)
    request.sample1, request.sample2 = older, newer
    for position, metric in enumerate(_METRICS):
        request.metrics[position].metricId = metric
    if calls.unless_gone(lambda: pynvml.nvmlGpmMetricsGet(request), None) is None:
        return Utilization()
    return Utilization(*(_ratio(request.metrics[position]) for position in range(len(_METRICS))))


def _ratio(metric: Any) -> float | None:
    """0 to 1 from 0 to 100. What lies outside comes from counters that began anew between the samples."""
    value: float = metric.value / 100
    if metric.nvmlReturn != pynvml.NVML_SUCCESS or not isfinite(value) or not 0 <= value <= _ROUNDING:
        return None
    return min(value, 1.0)


def has_gpm(device: Any) -> bool:
    """Not before Hopper, and not in drivers that lack the function."""
    return bool(calls.unless_lost(lambda: pynvml.nvmlGpmQueryDeviceSupport(device).isSupportedDevice, False))
