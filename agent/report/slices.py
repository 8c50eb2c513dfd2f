"""The series of slices: one look of the sampler, joined with the pods that hold the slices.

# Note [Who holds a slice]
# ``warmslice_slice_info`` has one series for each holder of a slice (time-slicing and MPS give one slice to several pods),
# and one without pod for a free slice. What is measured has exactly one series per slice, so that sums over slices are
# right: with the pod where there is one holder, without pod where there is none or there are several. Shared slices are
# joined with their pods by ``* on (mig_uuid) group_right warmslice_slice_info``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from prometheus_client.metrics_core import Metric

from agent.model.node import DeviceOwner
from agent.model.telemetry import SliceSample
from agent.report import families
from agent.report.families import Family

Holder = tuple[str, str, str]
"""Namespace, pod, container."""

NOBODY: Holder = ("", "", "")

_MEASURED: tuple[tuple[Family, Callable[[SliceSample], float | None]], ...] = (
    (families.SLICE_MEMORY_USED, lambda s: s.memory_used_bytes),
    (families.SLICE_MEMORY_TOTAL, lambda s: s.memory_total_bytes),
    (families.SLICE_PROCESSES, lambda s: s.processes),
    (families.SLICE_UTILIZATION, lambda s: s.utilization.graphics),
    (families.SLICE_SM, lambda s: s.utilization.sm),
    (families.SLICE_OCCUPANCY, lambda s: s.utilization.sm_occupancy),
    (families.SLICE_TENSOR, lambda s: s.utilization.tensor),
    (families.SLICE_DRAM, lambda s: s.utilization.dram_bandwidth),
    (families.SLICE_ACTIVE, lambda s: s.active_seconds),
    (families.SLICE_SHARE, lambda s: s.gpu_share),
)


def slice_families(slices: Sequence[SliceSample], holders: Mapping[str, tuple[Holder, ...]]) -> Iterator[Metric]:
    """Every ``warmslice_slice_*`` family. A family without a value, such as utilization on Ampere, is left out."""
    info = families.SLICE_INFO.gauge()
    for one in slices:
        for holder in holders.get(one.uuid, (NOBODY,)):
            info.add_metric(_labels(one, holder), 1)
    yield info
    for declared, read in _MEASURED:
        family = declared.empty()
        for one in slices:
            value = read(one)
            if value is not None:
                family.add_metric(_labels(one, only_holder(holders.get(one.uuid, ()))), value)
        if family.samples:
            yield family


def holders_by_slice(owners: Iterable[DeviceOwner]) -> Mapping[str, tuple[Holder, ...]]:
    """UUID of a MIG device or a GPU to its holders; two replicas of a shared one in one container are one holder."""
    found: dict[str, set[Holder]] = {}
    for owner in owners:
        for uuid in owner.uuids:
            found.setdefault(uuid, set()).add((owner.namespace, owner.name, owner.container))
    return {uuid: tuple(sorted(holders)) for uuid, holders in found.items()}


def only_holder(holders: Sequence[Holder]) -> Holder:
    """See Note [Who holds a slice]."""
    return holders[0] if len(holders) == 1 else NOBODY


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
