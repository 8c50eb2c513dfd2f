"""The series of slices: one look of the sampler, joined with the pods that hold the slices.

# Note [Who holds a slice]
# ``warmslice_slice_info`` has one series for each holder of a slice (time-slicing and MPS give one slice to several pods),
# and one without pod for a free slice. What is measured has exactly one series per slice, so that sums over slices are
# right: with the pod where there is one holder, without pod where there is none or there are several. Shared slices are
# joined with their pods by ``* on (mig_uuid) group_right warmslice_slice_info``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from agent.model.node import DeviceOwner
from agent.model.telemetry import SliceSample

Holder = tuple[str, str, str]
"""Namespace, pod, container."""

LABELS = (
    "gpu",
    "gpu_uuid",
    "profile",
    "placement",
    "gpu_instance",
    "compute_instance",
    "mig_uuid",
    "namespace",
    "pod",
    "container",
)
_NOBODY: Holder = ("", "", "")
_SHARED_MEMORY = "of the slice's GPU instance, which its compute instances share"
_BY_GPM = "of the slice's GPU instance between the last two samples, 0 to 1, as reported by GPM"

_MEASURED: tuple[tuple[str, str, Callable[[SliceSample], float | None]], ...] = (
    ("memory_used_bytes", f"Memory in use {_SHARED_MEMORY}.", lambda s: s.memory_used_bytes),
    ("memory_total_bytes", f"Memory {_SHARED_MEMORY}.", lambda s: s.memory_total_bytes),
    ("processes", "Processes on the slice.", lambda s: s.processes),
    ("utilization_ratio", f"Graphics or compute engine activity {_BY_GPM}.", lambda s: s.utilization.graphics),
    ("sm_utilization_ratio", f"Busy multiprocessors {_BY_GPM}.", lambda s: s.utilization.sm),
    (
        "sm_occupancy_ratio",
        f"Resident warps against the most possible {_BY_GPM}.",
        lambda s: s.utilization.sm_occupancy,
    ),
    ("tensor_utilization_ratio", f"Tensor activity {_BY_GPM}.", lambda s: s.utilization.tensor),
    (
        "dram_bandwidth_utilization_ratio",
        f"Memory bandwidth against the most possible {_BY_GPM}.",
        lambda s: s.utilization.dram_bandwidth,
    ),
)


def slice_families(slices: Sequence[SliceSample], owners: Iterable[DeviceOwner]) -> Iterator[Metric]:
    """Every ``warmslice_slice_*`` family. A family without a value, such as utilization on Ampere, is left out."""
    holders = holders_by_slice(owners)
    info = GaugeMetricFamily("warmslice_slice_info", "A slice and who holds it; always 1.", labels=LABELS)
    for one in slices:
        for holder in holders.get(one.uuid, (_NOBODY,)):
            info.add_metric(_labels(one, holder), 1)
    yield info
    for name, text, read in _MEASURED:
        family = GaugeMetricFamily(f"warmslice_slice_{name}", text, labels=LABELS)
        for one in slices:
            value = read(one)
            if value is not None:
                family.add_metric(_labels(one, _only(holders.get(one.uuid, ()))), value)
        if family.samples:
            yield family


def holders_by_slice(owners: Iterable[DeviceOwner]) -> Mapping[str, tuple[Holder, ...]]:
    """MIG UUID to its holders. A shared slice's device ids are ``<uuid>::<replica>``; two replicas in one container are
    one holder."""
    found: dict[str, set[Holder]] = {}
    for owner in owners:
        for device in owner.devices:
            uuid = device.partition("::")[0]
            found.setdefault(uuid, set()).add((owner.namespace, owner.name, owner.container))
    return {uuid: tuple(sorted(holders)) for uuid, holders in found.items()}


def _only(holders: Sequence[Holder]) -> Holder:
    """See Note [Who holds a slice]."""
    return holders[0] if len(holders) == 1 else _NOBODY


def _labels(one: SliceSample, holder: Holder) -> list[str]:
    return [
        str(one.gpu_index),
        one.gpu,
        one.profile,
        str(one.placement),
        str(one.gpu_instance),
        str(one.compute_instance),
        one.uuid,
        *holder,
    ]
