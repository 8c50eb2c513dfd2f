"""One GPU and its slices, look by look: load, memory, processes, health. Runs on the reading thread; it blocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any

import pynvml

from agent.adapters.nvml import calls
from agent.adapters.nvml.gpm import Buffers, has_gpm
from agent.model.mig import Placement
from agent.model.telemetry import GpuSample, SliceSample, Utilization


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
    """A GPU instance by all that can tell it from its successor; a whole GPU as the instance without an id. ``generation`` is
    how often we have destroyed one at its place. See Note [Two buffers per GPU instance] in gpm.py."""

    gpu: str
    id: int | None
    profile: str
    placement: Placement
    devices: frozenset[str]
    generation: int = 0

    @classmethod
    def whole(cls, gpu: str) -> _Instance:
        return cls(gpu, None, "", Placement(0, 0), frozenset())


@dataclass(frozen=True, slots=True)
class _Load:
    """Of an instance, or a whole GPU: now, and load times time so far."""

    utilization: Utilization = field(default_factory=Utilization)
    active_seconds: float | None = None


class GpuSampler:
    """The GPU at one index with its slices. Not for two threads at once.

    Utilization by GPM is measured over ``interval_seconds`` at least; GPM itself needs 0.1. ``generation`` tells of a place on a
    GPU how often the agent has destroyed what was there.
    """

    def __init__(self, index: int, interval_seconds: float, generation: Callable[[str, Placement], int]) -> None:
        self._index = index
        self._interval_seconds = interval_seconds
        self._generation = generation
        self._buffers: dict[_Instance, Buffers] = {}
        self._profiles: dict[tuple[str, int], str] = {}
        self._boards: dict[str, int] = {}
        self._rates: dict[str, tuple[float, float]] = {}

    def look(self) -> tuple[GpuSample, tuple[SliceSample, ...]]:
        """The GPU and every slice as they are now, with their utilization since the look before. RetryError, HardwareError.

        A slice that goes away meanwhile is left out; a GPU without MIG, or with MIG off, has none.
        """
        try:
            device = pynvml.nvmlDeviceGetHandleByIndex(self._index)
            gpu = calls.text(pynvml.nvmlDeviceGetUUID(device))
            mode = calls.optional(lambda: pynvml.nvmlDeviceGetMigMode(device), None)
            cut = mode is not None and bool(mode[0])
            devices = _mig_devices(device) if cut else []
            instances = self._instances(device, gpu, devices)
            self._drop_all_but({*instances.values()} if cut else {_Instance.whole(gpu)})
            by_gpm = has_gpm(device)
            sample = self._gpu(device, gpu, None if mode is None else cut, by_gpm)
            return sample, self._slices(device, devices, instances, by_gpm)
        except pynvml.NVMLError as error:
            calls.fail(f"sampling GPU {self._index}", error)

    def forget(self) -> None:
        """Free every buffer: the next look is a first one."""
        for buffers in self._buffers.values():
            buffers.free()
        self._buffers.clear()
        self._profiles.clear()
        self._boards.clear()
        self._rates.clear()

    # -- the GPU --------------------------------------------------------------------------------------------------

    def _gpu(self, device: Any, gpu: str, mig: bool | None, by_gpm: bool) -> GpuSample:
        load = _Load() if mig else self._whole(device, gpu, by_gpm)
        memory = None if mig else _memory(device)
        return GpuSample(
            uuid=gpu,
            index=self._index,
            model=calls.text(pynvml.nvmlDeviceGetName(device)),
            pci_bus_id=calls.text(calls.unless_lost(lambda: pynvml.nvmlDeviceGetPciInfo(device).busId, "")),
            mig=mig,
            temperature_celsius=_number(partial(pynvml.nvmlDeviceGetTemperature, device, pynvml.NVML_TEMPERATURE_GPU)),
            power_watts=_number(partial(pynvml.nvmlDeviceGetPowerUsage, device), 1 / 1000),
            ecc_corrected=_ecc(device, pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ecc_uncorrected=_ecc(device, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            memory_used_bytes=memory.used if memory is not None else None,
            memory_total_bytes=memory.total if memory is not None else None,
            processes=None if mig else _processes(device),
            utilization=load.utilization,
            active_seconds=load.active_seconds,
        )

    def _whole(self, device: Any, gpu: str, by_gpm: bool) -> _Load:
        """Without GPM by the driver's own rates, over its last second or less: what lies between two looks is taken to be like
        the second of them."""
        if by_gpm:
            return self._load(device, _Instance.whole(gpu))
        rates = calls.unless_lost(lambda: pynvml.nvmlDeviceGetUtilizationRates(device), None)
        if rates is None:
            return _Load()
        now, busy = monotonic(), min(rates.gpu / 100, 1.0)
        at, active = self._rates.get(gpu, (now, 0.0))
        self._rates[gpu] = (now, active + busy * (now - at))
        return _Load(Utilization(busy), self._rates[gpu][1])

    # -- slices ---------------------------------------------------------------------------------------------------

    def _slices(
        self, device: Any, devices: Sequence[_MigDevice], instances: dict[int, _Instance], by_gpm: bool
    ) -> tuple[SliceSample, ...]:
        loads = {number: self._load(device, one) for number, one in instances.items() if by_gpm}
        there = [one for one in devices if one.gpu_instance in instances]
        return tuple(
            self._slice(one, instances[one.gpu_instance], loads.get(one.gpu_instance, _Load())) for one in there
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
                found[number] = _Instance(gpu, number, profile, place, uuids, self._generation(gpu, place))
        return found

    def _profile(self, device: Any, gpu: str, profile_id: int) -> str | None:
        """A profile's name; asking the driver for all of them takes some forty calls, so once per session."""
        if (gpu, profile_id) not in self._profiles:
            total_mib = pynvml.nvmlDeviceGetMemoryInfo(device).total >> 20
            for enum, info in calls.instance_profiles(device):
                self._profiles[gpu, info.id] = calls.profile_name(enum, info, total_mib)
                ends = (place.end for place in calls.placements(device, info.id))
                self._boards[gpu] = max(self._boards.get(gpu, 0), *ends, 0)
        return self._profiles.get((gpu, profile_id))

    def _drop_all_but(self, alive: set[_Instance]) -> None:
        for gone in self._buffers.keys() - alive:
            self._buffers.pop(gone).free()

    def _load(self, device: Any, instance: _Instance) -> _Load:
        buffers = self._buffers.setdefault(instance, Buffers(self._interval_seconds))
        load: Utilization | None = calls.unless_lost(partial(buffers.advance, device, instance.id), None)
        if load is None:
            self._buffers.pop(instance).free()
            return _Load()
        return _Load(load, buffers.active_seconds)

    def _slice(self, one: _MigDevice, instance: _Instance, load: _Load) -> SliceSample:
        memory = calls.unless_lost(lambda: pynvml.nvmlDeviceGetMemoryInfo(one.handle), None)
        return SliceSample(
            gpu=instance.gpu,
            gpu_index=self._index,
            profile=instance.profile,
            placement=instance.placement,
            gpu_instance=one.gpu_instance,
            compute_instance=one.compute_instance,
            uuid=one.uuid,
            memory_used_bytes=memory.used if memory is not None else None,
            memory_total_bytes=memory.total if memory is not None else None,
            processes=_processes(one.handle),
            utilization=load.utilization,
            active_seconds=load.active_seconds,
            gpu_share=self._share(one, instance),
        )

    def _share(self, one: _MigDevice, instance: _Instance) -> float | None:
        """Memory slices of the GPU, parted among the compute instances by their width."""
        board = self._boards.get(instance.gpu, 0)
        width = _width(one.handle) if len(instance.devices) > 1 else 1.0
        return instance.placement.size / board * width if board and width is not None else None


def _width(handle: Any) -> float | None:
    """Part of the GPU instance's compute slices that a compute instance has. A MIG handle only."""
    seen = calls.unless_lost(lambda: pynvml.nvmlDeviceGetAttributes_v2(handle), None)
    if seen is None or not seen.gpuInstanceSliceCount:
        return None
    return float(seen.computeInstanceSliceCount / seen.gpuInstanceSliceCount)


def _memory(device: Any) -> Any:
    """In use by processes; what the driver keeps for itself is not counted, where it tells that apart."""
    told = calls.unless_lost(lambda: pynvml.nvmlDeviceGetMemoryInfo(device, version=pynvml.nvmlMemory_v2), None)
    return told if told is not None else calls.unless_lost(lambda: pynvml.nvmlDeviceGetMemoryInfo(device), None)


def _number(question: partial[Any], scale: float = 1.0) -> float | None:
    found = calls.unless_lost(question, None)
    return float(found * scale) if found is not None else None


def _ecc(device: Any, kind: int) -> int | None:
    """Since the driver was loaded; None where ECC is off."""
    found: int | None = calls.unless_lost(
        lambda: pynvml.nvmlDeviceGetTotalEccErrors(device, kind, pynvml.NVML_VOLATILE_ECC), None
    )
    return found


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
    """Processes on one device; one that computes and draws is one. None where the driver does not tell."""
    computing = calls.unless_lost(lambda: pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle), None)
    drawing = calls.unless_lost(lambda: pynvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle), None)
    if computing is None and drawing is None:
        return None
    return len({row.pid for row in [*(computing or ()), *(drawing or ())]})
