"""The load of one GPU's slices. Runs on the reading thread; every function here blocks.

# Note [Two buffers per GPU instance]
# GPM tells utilization between two samples, at least 100 ms apart: two that are closer show an idle GPU, and nothing says that
# this is wrong (seen on H100 and H200 with driver 580.159.04). Each GPU instance has two buffers: one look fills the
# older of them, so that each period costs one sample and no sleep. A sample of an instance that is gone must never be
# measured against one of its successor, and GPU instance ids, placements and even MIG UUIDs come back: the buffers go with
# everything that can tell two instances apart, and what a pair then says that no instance can do is thrown away. A look out
# of turn leaves the buffers alone when the last sample is too young: a short interval is noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from math import isfinite
from time import monotonic
from typing import Any

import pynvml

from agent.adapters.nvml import calls
from agent.model.mig import Placement
from agent.model.telemetry import SliceSample, Utilization

_METRICS = (
    pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL,
    pynvml.NVML_GPM_METRIC_SM_UTIL,
    pynvml.NVML_GPM_METRIC_SM_OCCUPANCY,
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
)
"""In the order of Utilization's fields."""

_ROUNDING = 1.05


def count_gpus() -> int:
    """How many GPUs the driver shows. RetryError, HardwareError."""
    try:
        count: int = pynvml.nvmlDeviceGetCount()
    except pynvml.NVMLError as error:
        calls.fail("counting GPUs", error)
    return count


@dataclass(frozen=True, slots=True)
class _MigDevice:
    handle: Any
    gpu_instance: int
    compute_instance: int
    uuid: str


@dataclass(frozen=True, slots=True)
class _Instance:
    """A GPU instance by all that can tell it from its successor. See Note [Two buffers per GPU instance]."""

    gpu: str
    id: int
    profile: str
    placement: Placement
    devices: frozenset[str]


class GpuSampler:
    """The slices of the GPU at one index, look by look. Not for two threads at once.

    Utilization is measured over ``interval_seconds`` at least; GPM itself needs 0.1.
    """

    def __init__(self, index: int, interval_seconds: float) -> None:
        self._index = index
        self._interval_seconds = interval_seconds
        self._buffers: dict[_Instance, _Buffers] = {}
        self._profiles: dict[tuple[str, int], str] = {}

    def look(self) -> tuple[SliceSample, ...]:
        """Every slice as it is now, with its utilization since the look before. RetryError, HardwareError.

        A slice that goes away meanwhile is left out; a GPU without MIG, or with MIG off, has none.
        """
        try:
            device = pynvml.nvmlDeviceGetHandleByIndex(self._index)
            return self._slices(device, calls.text(pynvml.nvmlDeviceGetUUID(device)))
        except pynvml.NVMLError as error:
            calls.fail(f"sampling GPU {self._index}", error)

    def forget(self) -> None:
        """Free every buffer: the next look is a first one."""
        for buffers in self._buffers.values():
            buffers.free()
        self._buffers.clear()
        self._profiles.clear()

    def _slices(self, device: Any, gpu: str) -> tuple[SliceSample, ...]:
        devices = _mig_devices(device)
        instances = self._instances(device, gpu, devices)
        self._drop_all_but(set(instances.values()))
        has_gpm = _has_gpm(device)
        loads = {number: self._load(device, one) for number, one in instances.items() if has_gpm}
        return tuple(
            self._sample(one, instances[one.gpu_instance], loads.get(one.gpu_instance, Utilization()))
            for one in devices
            if one.gpu_instance in instances
        )

    def _instances(self, device: Any, gpu: str, devices: Sequence[_MigDevice]) -> dict[int, _Instance]:
        """By id; one that went away since the devices were listed is not in it."""
        found = {}
        for number in dict.fromkeys(one.gpu_instance for one in devices):
            uuids = frozenset(one.uuid for one in devices if one.gpu_instance == number)
            info = calls.unless_gone(partial(_instance_info, device, number), None)
            profile = self._profile(device, gpu, info.profileId) if info is not None else None
            if profile is not None:
                place = Placement(info.placement.start, info.placement.size)
                found[number] = _Instance(gpu, number, profile, place, uuids)
        return found

    def _profile(self, device: Any, gpu: str, profile_id: int) -> str | None:
        """A profile's name; asking the driver for all of them takes some twenty calls, so once per session."""
        if (gpu, profile_id) not in self._profiles:
            total_mib = pynvml.nvmlDeviceGetMemoryInfo(device).total >> 20
            for enum, info in calls.instance_profiles(device):
                self._profiles[gpu, info.id] = calls.profile_name(enum, info, total_mib)
        return self._profiles.get((gpu, profile_id))

    def _drop_all_but(self, alive: set[_Instance]) -> None:
        for gone in self._buffers.keys() - alive:
            self._buffers.pop(gone).free()

    def _load(self, device: Any, instance: _Instance) -> Utilization:
        buffers = self._buffers.setdefault(instance, _Buffers(self._interval_seconds))
        load: Utilization | None = calls.unless_gone(partial(buffers.advance, device, instance.id), None)
        if load is None:
            self._buffers.pop(instance).free()
            return Utilization()
        return load

    def _sample(self, one: _MigDevice, instance: _Instance, load: Utilization) -> SliceSample:
        memory = calls.unless_gone(lambda: pynvml.nvmlDeviceGetMemoryInfo(one.handle), None)
        return SliceSample(
            gpu=instance.gpu,
            gpu_index=self._index,
            profile=instance.profile,
            placement=instance.placement,
            gpu_instance=instance.id,
            compute_instance=one.compute_instance,
            uuid=one.uuid,
            memory_used_bytes=memory.used if memory is not None else None,
            memory_total_bytes=memory.total if memory is not None else None,
            processes=_processes(one.handle),
            utilization=load,
        )


class _Buffers:
    """The two samples of one GPU instance. See Note [Two buffers per GPU instance]."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._older: Any = None
        self._newer: Any = None
        self._due = 0.0
        self._load = Utilization()

    def advance(self, device: Any, gpu_instance: int) -> Utilization:
        """Take a sample; what it says against the one before. Nothing at the first, the last answer when asked again too
        soon. Raises NVMLError."""
        if monotonic() < self._due:
            return self._load
        self._older, self._newer = self._newer, self._older
        if self._newer is None:
            self._newer = pynvml.nvmlGpmSampleAlloc()
        pynvml.nvmlGpmMigSampleGet(device, gpu_instance, self._newer)
        self._due = monotonic() + self._interval_seconds
        self._load = _between(self._older, self._newer) if self._older is not None else Utilization()
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


def _has_gpm(device: Any) -> bool:
    """Not before Hopper, and not in drivers that lack the function."""
    return bool(calls.optional(lambda: pynvml.nvmlGpmQueryDeviceSupport(device).isSupportedDevice, False))


def _mig_devices(device: Any) -> list[_MigDevice]:
    """Indices have holes: NOT_FOUND is no end."""
    count = calls.optional(lambda: pynvml.nvmlDeviceGetMaxMigDeviceCount(device), 0)
    found = (calls.unless_gone(partial(_mig_device, device, index), None) for index in range(count))
    return [one for one in found if one is not None]


def _mig_device(device: Any, index: int) -> _MigDevice:
    handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(device, index)
    return _MigDevice(
        handle=handle,
        gpu_instance=pynvml.nvmlDeviceGetGpuInstanceId(handle),
        compute_instance=pynvml.nvmlDeviceGetComputeInstanceId(handle),
        uuid=calls.text(pynvml.nvmlDeviceGetUUID(handle)),
    )


def _instance_info(device: Any, number: int) -> Any:
    return pynvml.nvmlGpuInstanceGetInfo(pynvml.nvmlDeviceGetGpuInstanceById(device, number))


def _processes(handle: Any) -> int | None:
    """Processes on one MIG device; one that computes and draws is one. None where the driver does not tell."""
    computing = calls.unless_gone(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle), None)
    drawing = calls.unless_gone(lambda: pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle), None)
    if computing is None and drawing is None:
        return None
    return len({row.pid for row in [*(computing or ()), *(drawing or ())]})
