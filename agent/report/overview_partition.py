"""The partition role's part of the overview: layout, wait, change, and each GPU with its slices. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from agent.model.mig import ComputeInstance, Gpu, GpuInstance, Placement
from agent.model.node import DeviceOwner
from agent.model.overview import (
    FreeRun,
    HoldingPod,
    Load,
    PlannedSlot,
    PodInTheWay,
    ShownChange,
    ShownDevice,
    ShownGpu,
    ShownInstance,
    ShownLayout,
    ShownPartition,
    ShownStep,
    ShownXid,
    Stage,
    StepState,
    Wait,
)
from agent.model.report import NodeStatus, PartitionReport, WaitedFor
from agent.model.steps import GpuChange
from agent.model.telemetry import GpuSample, SliceSample, TelemetrySnapshot
from agent.report.answer import memory_slices
from agent.report.slices import holders_by_slice
from agent.report.status import in_words
from agent.report.step_words import step_words

_NO_MIG: Mapping[bool | None, Literal["on", "off", "none"]] = {True: "on", False: "off", None: "none"}


def shown_partition(report: PartitionReport | None, telemetry: TelemetrySnapshot | None) -> ShownPartition | None:
    """None before the first pass."""
    if report is None:
        return None
    look = telemetry or TelemetrySnapshot(0.0)
    return ShownPartition(
        looked=report.finished or None,
        error=report.error,
        layout=_layout(report.status),
        wait=_wait(report),
        change=_change(report),
        gpus=_gpus(report, look),
        sampled=look.sampled_at or None,
        unsampled="the driver is being replaced" if look.paused else look.error,
    )


def _layout(status: NodeStatus | None) -> ShownLayout | None:
    if status is None:
        return None
    return ShownLayout(
        layout=status.layout,
        revision=status.revision,
        state=status.state,
        reason=status.reason,
        message=status.message,
        since=status.since,
        attempts=status.attempts,
        next_try=status.next_try,
        schedule=status.schedule,
    )


def _wait(report: PartitionReport) -> Wait | None:
    """Nothing is waited for while steps are taken."""
    if not report.waits_for or report.steps:
        return None
    return Wait(report.waits_for, report.waits_message, report.waits_since, tuple(_in_the_way(report.pods)))


def _in_the_way(pods: Iterable[WaitedFor]) -> Iterator[PodInTheWay]:
    budgets: dict[tuple[str, str, str], list[str]] = {}
    for pod in pods:
        budgets.setdefault((pod.namespace, pod.pod, pod.owner), []).append(pod.budget)
    for who, names in budgets.items():
        yield PodInTheWay(*who, tuple(name for name in names if name))


def _change(report: PartitionReport) -> ShownChange | None:
    operation, change = report.operation, report.change
    if operation is None and (not report.waits_for or change is None or change.empty):
        return None
    return ShownChange(
        layout=operation.layout if operation is not None else report.status.layout if report.status is not None else "",
        stage=_stage(report),
        summary=in_words(change, report.gpus)
        if change is not None and not (change.empty and not change.sharing)
        else "",
        started=operation.started if operation is not None else None,
        back=operation is not None and bool(operation.failure),
        failure=operation.failure if operation is not None else "",
        moves=tuple(str(ref) for ref in change.moves) if change is not None else (),
        steps=tuple(
            ShownStep(type(step).__name__, step_words(step, report.gpus), _step_state(number, report))
            for number, step in enumerate(report.steps)
        ),
    )


def _stage(report: PartitionReport) -> Stage:
    if report.operation is None:
        return "planned"
    if report.operation.resumed:
        return "advertising"
    return "cutting" if report.operation.touched else "draining"


def _step_state(number: int, report: PartitionReport) -> StepState:
    return "done" if number in report.taken else "doing" if number in report.doing else "to do"


def _gpus(report: PartitionReport, look: TelemetrySnapshot) -> tuple[ShownGpu, ...]:
    workloads = {(one.namespace, one.pod): (one.kind, one.workload) for one in report.workloads}
    changes = {gpu.gpu: gpu for gpu in report.change.gpus} if _change(report) and report.change is not None else {}
    return tuple(
        _Draughtsman(gpu, look, _Holders(report.owners, workloads), changes.get(gpu.uuid)).drawn(report.finished)
        for gpu in sorted(report.gpus, key=lambda gpu: (not gpu.listed, gpu.index))
    )


class _Holders:
    """Who has a device, by its UUID."""

    def __init__(self, owners: Iterable[DeviceOwner], workloads: Mapping[tuple[str, str], tuple[str, str]]) -> None:
        self._by_device = holders_by_slice(owners)
        self._workloads = workloads

    def of(self, device: str) -> tuple[HoldingPod, ...]:
        """Each pod once, whatever number of its containers have it."""
        pods = dict.fromkeys((namespace, pod) for namespace, pod, _ in self._by_device.get(device, ()))
        return tuple(HoldingPod(*who, *self._workloads.get(who, ("", ""))) for who in pods)


@dataclass(frozen=True, slots=True)
class _Draughtsman:
    """Draws one GPU. ``change`` is what happens to it, None for nothing."""

    gpu: Gpu
    look: TelemetrySnapshot
    holders: _Holders
    change: GpuChange | None

    def drawn(self, passed: float) -> ShownGpu:
        """``passed`` is when the GPU was last read by a pass: an older sample does not say that it is down."""
        gpu, sample = self.gpu, self._sample()
        change = self.change if self.change is not None and not self.change.empty else None
        return ShownGpu(
            index=gpu.index,
            uuid=gpu.uuid,
            name=gpu.name or sample.model,
            mig="unknown" if gpu.never_read else _NO_MIG[gpu.mig_enabled],
            memory_slices=memory_slices(gpu),
            instances=tuple(map(self._instance, sorted(gpu.instances, key=lambda one: one.placement))),
            free=tuple(_free(gpu)) if gpu.mig_enabled else (),
            planned=_planned(change) if change is not None else None,
            mode_after="" if change is None or change.mode is None else "on" if change.mode else "off",
            down=gpu.unknown or (sample.down if self.look.sampled_at >= passed else ""),
            load=Load(
                sample.utilization.graphics, sample.memory_used_bytes, sample.memory_total_bytes, sample.processes
            ),
            pods=self.holders.of(gpu.uuid),
            temperature_celsius=sample.temperature_celsius,
            power_watts=sample.power_watts,
            ecc_corrected=sample.ecc_corrected,
            ecc_uncorrected=sample.ecc_uncorrected,
            xids=tuple(
                ShownXid(xid.number, xid.gpu_instance, count)
                for xid, count in sorted(self.look.xids.items(), key=lambda item: (item[0].number, str(item[0])))
                if xid.gpu == gpu.uuid
            ),
        )

    def _sample(self) -> GpuSample:
        found = (sample for sample in self.look.gpus if sample.uuid == self.gpu.uuid)
        return next(found, GpuSample(self.gpu.uuid, self.gpu.index))

    def _instance(self, instance: GpuInstance) -> ShownInstance:
        return ShownInstance(
            profile=instance.profile,
            start=instance.placement.start,
            size=instance.placement.size,
            devices=tuple(self._device(instance, compute) for compute in instance.compute),
            load=self._load(instance),
            fate=_fate(instance, self.change),
        )

    def _device(self, instance: GpuInstance, compute: ComputeInstance) -> ShownDevice:
        name = instance.profile if compute.full else f"{compute.slices}c.{instance.profile}"
        return ShownDevice(compute.uuid, name, self.holders.of(compute.uuid))

    def _load(self, instance: GpuInstance) -> Load:
        """By the UUIDs of its devices: what is made anew at the same place is another instance."""
        devices = {compute.uuid for compute in instance.compute}
        samples = [sample for sample in self.look.slices if sample.uuid in devices]
        if not samples:
            return Load()
        first = samples[0]
        return Load(first.utilization.graphics, first.memory_used_bytes, first.memory_total_bytes, _processes(samples))


def _processes(samples: Iterable[SliceSample]) -> int | None:
    counts = [sample.processes for sample in samples if sample.processes is not None]
    return sum(counts) if counts else None


def _fate(instance: GpuInstance, change: GpuChange | None) -> Literal["stays", "goes", "changes"]:
    if change is None:
        return "stays"
    if change.mode is False and change.switches:
        return "goes"
    if any(placement == instance.placement for placement, _ in change.remove):
        return "goes"
    changed = [slot.placement for slot in change.finish] + [trim.placement for trim in change.trim]
    return "changes" if instance.placement in changed else "stays"


def _planned(change: GpuChange) -> tuple[PlannedSlot, ...]:
    slots = [(slot, False) for slot in change.keep] + [(slot, True) for slot in (*change.finish, *change.create)]
    return tuple(
        PlannedSlot(str(slot.shape), slot.placement.start, slot.placement.size, new)
        for slot, new in sorted(slots, key=lambda pair: pair[0])
    )


def _free(gpu: Gpu) -> Iterator[FreeRun]:
    """Runs of memory slices between the instances."""
    taken = {place for one in gpu.instances for place in range(one.placement.start, one.placement.end)}
    start = None
    for place in range(memory_slices(gpu) + 1):
        free = place < memory_slices(gpu) and place not in taken
        if free and start is None:
            start = place
        elif not free and start is not None:
            yield FreeRun(start, place - start, _fits(gpu, Placement(start, place - start)))
            start = None


def _fits(gpu: Gpu, run: Placement) -> str:
    plain = (profile for profile in gpu.profiles if profile.plain)
    fitting = [p for p in plain if any(run.start <= place.start and place.end <= run.end for place in p.placements)]
    best = max(fitting, key=lambda profile: profile.rank, default=None)
    return best.name if best is not None else ""
