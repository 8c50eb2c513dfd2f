"""The series of GPUs: health of each, and what is measured of those whose MIG mode is off.

Who holds a whole GPU is told as of a slice: see Note [Who holds a slice] in slices.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from prometheus_client.metrics_core import Metric

from agent.model.telemetry import GpuSample, Xid
from agent.report import families
from agent.report.families import Family
from agent.report.slices import Holder, only_holder

_MEASURED: tuple[tuple[Family, Callable[[GpuSample], float | None]], ...] = (
    (families.GPU_MEMORY_USED, lambda g: g.memory_used_bytes),
    (families.GPU_MEMORY_TOTAL, lambda g: g.memory_total_bytes),
    (families.GPU_PROCESSES, lambda g: g.processes),
    (families.GPU_UTILIZATION, lambda g: g.utilization.graphics),
    (families.GPU_SM, lambda g: g.utilization.sm),
    (families.GPU_OCCUPANCY, lambda g: g.utilization.sm_occupancy),
    (families.GPU_TENSOR, lambda g: g.utilization.tensor),
    (families.GPU_DRAM, lambda g: g.utilization.dram_bandwidth),
    (families.GPU_ACTIVE, lambda g: g.active_seconds),
)
_HEALTH: tuple[tuple[Family, Callable[[GpuSample], float | None]], ...] = (
    (families.GPU_UP, lambda g: float(not g.down)),
    (families.GPU_TEMPERATURE, lambda g: g.temperature_celsius),
    (families.GPU_POWER, lambda g: g.power_watts),
)
_MIG = {True: "on", False: "off", None: "none"}


def gpu_families(gpus: Sequence[GpuSample], known: Mapping[str, tuple[Holder, ...]] | None) -> Iterator[Metric]:
    """Every ``warmslice_gpu_*`` family that comes from looking at the GPUs; those without a value are left out. While the holders
    are not ``known``, those that would name them are."""
    holders = known or {}
    info, held, ecc = families.GPU_INFO.gauge(), families.GPU_HOLDER.gauge(), families.GPU_ECC.total()
    for gpu in gpus:
        info.add_metric([*_labels(gpu), gpu.model, _MIG[gpu.mig]], 1)
        for holder in holders.get(gpu.uuid, ()):
            held.add_metric([*_labels(gpu), *holder], 1)
        for kind, count in (("corrected", gpu.ecc_corrected), ("uncorrected", gpu.ecc_uncorrected)):
            if count is not None:
                ecc.add_metric([*_labels(gpu), kind], count)
    yield from (family for family in (info, held, ecc) if family.samples)
    for declared, read in _HEALTH:
        yield from _family(declared, gpus, read, _labels)
    for declared, read in _MEASURED if known is not None else ():
        yield from _family(declared, gpus, read, lambda gpu: [*_labels(gpu), *only_holder(holders.get(gpu.uuid, ()))])


def xid_family(xids: Mapping[Xid, int]) -> Metric:
    """An error of the GPU as a whole has no GPU instance."""
    family = families.GPU_XID.total()
    for xid, count in xids.items():
        instance = "" if xid.gpu_instance is None else str(xid.gpu_instance)
        family.add_metric([str(xid.gpu_index), xid.gpu, instance, str(xid.number)], count)
    return family


def price_family(gpus: Sequence[GpuSample], prices: Mapping[str, float]) -> Metric:
    """Of the GPUs whose model a price is known for."""
    family = families.GPU_PRICE.gauge()
    for gpu in gpus:
        price = price_of(gpu.model, prices)
        if price is not None:
            family.add_metric(_labels(gpu), price)
    return family


def price_of(model: str, prices: Mapping[str, float]) -> float | None:
    """By the first pattern that the model's name matches, in the order in which they were given."""
    return next((price for pattern, price in prices.items() if model and fnmatchcase(model, pattern)), None)


def _family(
    declared: Family,
    gpus: Sequence[GpuSample],
    read: Callable[[GpuSample], float | None],
    labels: Callable[[GpuSample], list[str]],
) -> Iterator[Metric]:
    family = declared.empty()
    for gpu in gpus:
        value = read(gpu)
        if value is not None:
            family.add_metric(labels(gpu), value)
    if family.samples:
        yield family


def _labels(gpu: GpuSample) -> list[str]:
    return [str(gpu.index), gpu.uuid]
