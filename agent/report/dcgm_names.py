"""The same numbers under the names and labels of NVIDIA's dcgm-exporter, for dashboards and alerts made for it.

# Note [One series for each GPU instance]
# Names, types, words and labels are those of dcgm-exporter's counters and of its source, end of 2026. Its GPU_I_ID names a GPU
# instance, so compute instances of one have one series here too, with the pod where there is a single holder. As there, labels
# of a pod are left out where there is none. Unlike there, what is a GPU's (temperature, power, Xid, ECC) has one series for each
# GPU also in MIG mode, not one for each of its slices, so that sums over GPUs are right; then memory and load are its slices'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from prometheus_client.metrics_core import Metric

from agent.model.node import DeviceOwner
from agent.model.telemetry import GpuSample, SliceSample, TelemetrySnapshot, Utilization
from agent.report.slices import Holder, holders_by_slice

Labels = dict[str, str]

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class _Counter:
    """One of dcgm-exporter's counters. ``kind`` is unknown for what it calls a counter: its name lacks the ending of one, and
    would get it."""

    name: str
    kind: str
    text: str

    def family(self) -> Metric:
        """Empty, for one scrape."""
        return Metric(self.name, self.text, self.kind)


_LOADS: tuple[tuple[_Counter, Callable[[Utilization], float | None]], ...] = (
    (
        _Counter("DCGM_FI_PROF_GR_ENGINE_ACTIVE", "gauge", "Ratio of time the graphics engine is active."),
        lambda load: load.graphics,
    ),
    (
        _Counter("DCGM_FI_PROF_SM_ACTIVE", "gauge", "The ratio of cycles an SM has at least 1 warp assigned."),
        lambda load: load.sm,
    ),
    (
        _Counter("DCGM_FI_PROF_SM_OCCUPANCY", "gauge", "The ratio of number of warps resident on an SM."),
        lambda load: load.sm_occupancy,
    ),
    (
        _Counter("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE", "gauge", "Ratio of cycles the tensor (HMMA) pipe is active."),
        lambda load: load.tensor,
    ),
    (
        _Counter(
            "DCGM_FI_PROF_DRAM_ACTIVE",
            "gauge",
            "Ratio of cycles the device memory interface is active sending or receiving data.",
        ),
        lambda load: load.dram_bandwidth,
    ),
)
_FREE = _Counter("DCGM_FI_DEV_FB_FREE", "gauge", "Framebuffer memory free (in MiB).")
_USED = _Counter("DCGM_FI_DEV_FB_USED", "gauge", "Framebuffer memory used (in MiB).")
_OF_GPUS: tuple[tuple[_Counter, Callable[[GpuSample], float | None]], ...] = (
    (_Counter("DCGM_FI_DEV_GPU_TEMP", "gauge", "GPU temperature (in C)."), lambda gpu: gpu.temperature_celsius),
    (_Counter("DCGM_FI_DEV_POWER_USAGE", "gauge", "Power draw (in W)."), lambda gpu: gpu.power_watts),
    (_Counter("DCGM_FI_DEV_GPU_UTIL", "gauge", "GPU utilization (in %)."), lambda gpu: _per_cent(gpu.utilization)),
    (
        _Counter("DCGM_FI_DEV_XID_ERRORS", "gauge", "Value of the last XID error encountered."),
        lambda gpu: gpu.last_xid,
    ),
    (
        _Counter("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", "unknown", "Total number of double-bit volatile ECC errors."),
        lambda gpu: gpu.ecc_uncorrected,
    ),
)


@dataclass(frozen=True, slots=True)
class _Entity:
    """A GPU instance, or a GPU whose MIG mode is off."""

    labels: Labels
    load: Utilization
    memory_used_bytes: int | None
    memory_total_bytes: int | None


def dcgm_families(snapshot: TelemetrySnapshot, owners: Iterable[DeviceOwner], hostname: str) -> Iterator[Metric]:
    """Every family that has a series. See Note [One series for each GPU instance]."""
    holders = holders_by_slice(owners)
    gpus = {gpu.uuid: gpu for gpu in snapshot.gpus if not gpu.down}
    entities = [*_instances(snapshot.slices, gpus, holders, hostname), *_whole_gpus(gpus.values(), holders, hostname)]
    for counter, read in _LOADS:
        yield from _with_series(counter, ((one.labels, read(one.load)) for one in entities))
    yield from _with_series(_FREE, ((one.labels, _free_mib(one)) for one in entities))
    yield from _with_series(_USED, ((one.labels, _mib(one.memory_used_bytes)) for one in entities))
    for counter, of_gpu in _OF_GPUS:
        labels = ((_gpu_labels(gpu, hostname, holders), of_gpu(gpu)) for gpu in gpus.values())
        yield from _with_series(counter, labels)


def _with_series(counter: _Counter, rows: Iterable[tuple[Labels, float | None]]) -> Iterator[Metric]:
    family = counter.family()
    for labels, value in rows:
        if value is not None:
            family.add_sample(counter.name, labels, value)
    if family.samples:
        yield family


def _instances(
    slices: Sequence[SliceSample],
    gpus: Mapping[str, GpuSample],
    holders: Mapping[str, tuple[Holder, ...]],
    hostname: str,
) -> Iterator[_Entity]:
    together: dict[tuple[str, int], list[SliceSample]] = {}
    for one in slices:
        together.setdefault((one.gpu, one.gpu_instance), []).append(one)
    for parts in together.values():
        first = parts[0]
        gpu = gpus.get(first.gpu) or GpuSample(first.gpu, first.gpu_index)
        labels = _device_labels(gpu) | {"GPU_I_PROFILE": first.profile, "GPU_I_ID": str(first.gpu_instance)}
        held_by = {holder for one in parts for holder in holders.get(one.uuid, ())}
        labels |= {"Hostname": hostname} | _pod_labels(held_by)
        yield _Entity(labels, first.utilization, first.memory_used_bytes, first.memory_total_bytes)


def _whole_gpus(
    gpus: Iterable[GpuSample], holders: Mapping[str, tuple[Holder, ...]], hostname: str
) -> Iterator[_Entity]:
    for gpu in gpus:
        if not gpu.mig:
            # Where GPM tells nothing, what is known is the driver's share of time, which is not this.
            load = gpu.utilization if gpu.utilization.sm is not None else Utilization()
            labels = _gpu_labels(gpu, hostname, holders)
            yield _Entity(labels, load, gpu.memory_used_bytes, gpu.memory_total_bytes)


def _gpu_labels(gpu: GpuSample, hostname: str, holders: Mapping[str, tuple[Holder, ...]]) -> Labels:
    return _device_labels(gpu) | {"Hostname": hostname} | _pod_labels(set(holders.get(gpu.uuid, ())))


def _device_labels(gpu: GpuSample) -> Labels:
    return {
        "gpu": str(gpu.index),
        "UUID": gpu.uuid,
        "pci_bus_id": gpu.pci_bus_id,
        "device": f"nvidia{gpu.index}",
        "modelName": gpu.model,
    }


def _pod_labels(holders: set[Holder]) -> Labels:
    """Of the only one; none where it is free or shared. See Note [Who holds a slice] in slices.py."""
    if len(holders) != 1:
        return {}
    ((namespace, pod, container),) = holders
    return {"container": container, "namespace": namespace, "pod": pod}


def _per_cent(load: Utilization) -> float | None:
    return load.graphics * 100 if load.graphics is not None else None


def _mib(size_bytes: int | None) -> float | None:
    return size_bytes // _MIB if size_bytes is not None else None


def _free_mib(one: _Entity) -> float | None:
    total, used = _mib(one.memory_total_bytes), _mib(one.memory_used_bytes)
    return total - used if total is not None and used is not None else None
