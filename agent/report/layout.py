"""The series of the partition loop's state: layout, waiting, and what is left free."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import get_args

from prometheus_client.metrics_core import Metric

from agent.model.mig import Gpu, largest_free_profile
from agent.model.report import NodeStatus, PartitionReport, State
from agent.report import families

_STATES: tuple[str, ...] = get_args(State)


def layout_families(report: PartitionReport, now: float) -> Iterator[Metric]:
    """``now`` is seconds since the epoch: a wait grows between passes."""
    if report.status is not None:
        yield _state(report.status)
        yield _info(report.status)
        yield _failed(report.status)
        yield from _drifted(report.status, now)
    if report.operation is not None and report.operation.cordoned:
        yield families.CORDONED.of(max(0.0, now - report.operation.started))
    yield _workloads(report)
    blocked = families.BLOCKED.gauge()
    if report.waits_for:
        blocked.add_metric([report.waits_for], max(0.0, now - report.waits_since))
    yield blocked
    yield _waited_for(report)
    yield _largest_free(report.gpus)


def _waited_for(report: PartitionReport) -> Metric:
    family = families.BLOCKED_BY.gauge()
    for one in report.pods if report.waits_for else ():
        family.add_metric([report.waits_for, one.namespace, one.pod, one.owner, one.budget], 1)
    return family


def _state(status: NodeStatus) -> Metric:
    family = families.LAYOUT_STATE.gauge()
    for state in _STATES:
        family.add_metric([state], float(status.state == state))
    return family


def _info(status: NodeStatus) -> Metric:
    family = families.LAYOUT_INFO.gauge()
    if status.layout:
        family.add_metric([status.layout, status.revision], 1)
    return family


def _failed(status: NodeStatus) -> Metric:
    family = families.LAYOUT_FAILED.gauge()
    if status.state == "failed":
        family.add_metric([status.layout, status.reason], 1)
    return family


def _drifted(status: NodeStatus, now: float) -> Iterator[Metric]:
    if status.drift is not None and status.drift.corrected is None:
        yield families.DRIFTED.of(max(0.0, now - status.drift.found))


def _workloads(report: PartitionReport) -> Metric:
    family = families.POD_WORKLOAD.gauge()
    for one in report.workloads:
        family.add_metric([one.namespace, one.pod, one.kind, one.workload], 1)
    return family


def _largest_free(gpus: Sequence[Gpu]) -> Metric:
    family = families.GPU_LARGEST_FREE.gauge()
    for gpu in gpus:
        if gpu.mig_enabled and not gpu.unknown:
            profile = largest_free_profile(gpu)
            family.add_metric([str(gpu.index), gpu.uuid, profile.name if profile else "none"], 1)
    return family
