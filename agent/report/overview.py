"""From the last reports to the overview that the page and ``/api/v1/status`` show. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from agent.model.cache import CacheReport, ModelReport
from agent.model.mig import Gpu
from agent.model.overview import (
    CacheView,
    ChangeView,
    EventView,
    GpuView,
    InTheWay,
    LayoutView,
    LoadView,
    MigWord,
    ModelView,
    Overview,
    Part,
    PartitionView,
    SliceView,
    Stage,
    StepView,
    WaitView,
)
from agent.model.report import NodeStatus, PartitionReport
from agent.model.steps import GpuChange
from agent.model.telemetry import GpuSample, SliceSample, TelemetrySnapshot, Xid
from agent.report.answer import memory_slices
from agent.report.slices import Holder, holders_by_slice
from agent.report.step_words import in_words

_MOST_EVENTS = 30
_NO_LAYOUT = LayoutView("", "", "", "", 0.0)


def overview_of(node: str, at: float, version: str, own: Part, other: Part | None) -> Overview:
    """Both containers' parts together; ``other`` None where one process is both."""
    parts = [own] if other is None else [own, other]
    partition = next((part.partition for part in parts if part.partition is not None), None)
    cache = next((part.cache for part in parts if part.cache is not None), None)
    lacking = {name: part for part in parts if part.missing for name in _roles_lacking(partition, cache)}
    return Overview(
        node=node,
        at=at,
        version=version,
        partition=partition,
        cache=cache,
        events=_newest(event for part in parts for event in part.events),
        missing={name: part.missing for name, part in lacking.items()},
        missing_since={name: part.missing_since for name, part in lacking.items() if part.missing_since is not None},
    )


def _roles_lacking(partition: PartitionView | None, cache: CacheView | None) -> Iterable[str]:
    if partition is None:
        yield "partition"
    if cache is None:
        yield "cache"


def _newest(events: Iterable[EventView]) -> tuple[EventView, ...]:
    return tuple(sorted(events, key=lambda event: event.at, reverse=True)[:_MOST_EVENTS])


# -- partition ------------------------------------------------------------------------------------------------------------


def partition_view(report: PartitionReport, telemetry: TelemetrySnapshot | None) -> PartitionView:
    """``telemetry`` None: nobody has looked yet."""
    return PartitionView(
        at=report.finished,
        error=report.error,
        layout=_layout(report.status) if report.status is not None else _NO_LAYOUT,
        gpus=_gpus(report, telemetry or TelemetrySnapshot(0.0)),
        waits=_wait(report),
        change=_change(report),
        sampled_at=telemetry.sampled_at if telemetry is not None else None,
    )


def _layout(status: NodeStatus) -> LayoutView:
    schedule = f"{status.schedule.name}, period {status.schedule.period}" if status.schedule is not None else ""
    return LayoutView(
        status.layout, status.state, status.reason, status.cut.message, status.since, status.next_try, schedule
    )


def _wait(report: PartitionReport) -> WaitView | None:
    if not report.waits_for:
        return None
    pods = tuple(InTheWay(f"{one.namespace}/{one.pod}", one.owner, one.budget) for one in report.pods)
    return WaitView(report.waits_for, report.waits_message, report.waits_since, pods)


def _change(report: PartitionReport) -> ChangeView | None:
    operation = report.operation
    if operation is None:
        return None
    indices = {gpu.uuid: gpu.index for gpu in report.gpus}
    return ChangeView(
        since=operation.started,
        layout=operation.layout,
        cordoned=operation.cordoned,
        failure=operation.failure,
        moves=tuple(str(ref) for ref in report.change.moves) if report.change is not None else (),
        steps=tuple(
            StepView(in_words(step, indices), _stage(number, report.taken)) for number, step in enumerate(report.steps)
        ),
    )


def _stage(number: int, taken: int) -> Stage:
    return "done" if number < taken else "doing" if number == taken else "to do"


# -- GPUs -----------------------------------------------------------------------------------------------------------------


def _gpus(report: PartitionReport, telemetry: TelemetrySnapshot) -> tuple[GpuView, ...]:
    """As sampled last, which is newer; as the last pass read them where nobody has sampled them yet."""
    samples = {sample.uuid: sample for sample in telemetry.gpus}
    holders = holders_by_slice(report.owners)
    changes = {change.gpu: change for change in report.change.gpus} if _runs(report) and report.change else {}
    known = {gpu.uuid: gpu for gpu in report.gpus}
    views = [_gpu(gpu, samples.get(gpu.uuid), telemetry, holders, changes.get(gpu.uuid)) for gpu in known.values()]
    views += [_only_sampled(sample, holders) for sample in samples.values() if sample.uuid not in known]
    return tuple(sorted(views, key=lambda view: (view.index, view.uuid)))


def _runs(report: PartitionReport) -> bool:
    return report.operation is not None


def _gpu(
    gpu: Gpu,
    sample: GpuSample | None,
    telemetry: TelemetrySnapshot,
    holders: Mapping[str, tuple[Holder, ...]],
    change: GpuChange | None,
) -> GpuView:
    view = GpuView(
        index=gpu.index,
        uuid=gpu.uuid,
        model=gpu.name,
        mig=_mig(gpu.mig_enabled),
        memory_slices=memory_slices(gpu),
        down=gpu.unknown,
        after=_after(change) if change is not None and not change.empty else None,
        xids=_xids(gpu.uuid, telemetry.xids),
    )
    if sample is None:
        return replace(view, slices=tuple(_read(gpu, holders)) if gpu.mig_enabled else ())
    slices = tuple(_sampled(one, telemetry.slices, holders) for one in telemetry.slices if one.gpu == gpu.uuid)
    return replace(_with_sample(view, sample, holders), slices=tuple(sorted(slices, key=_place)))


def _only_sampled(sample: GpuSample, holders: Mapping[str, tuple[Holder, ...]]) -> GpuView:
    view = GpuView(sample.index, sample.uuid, sample.model, _mig(sample.mig), 0)
    return _with_sample(view, sample, holders)


def _with_sample(view: GpuView, sample: GpuSample, holders: Mapping[str, tuple[Holder, ...]]) -> GpuView:
    return replace(
        view,
        mig=_mig(sample.mig) if not sample.down else view.mig,
        down=sample.down or view.down,
        temperature_celsius=sample.temperature_celsius,
        power_watts=sample.power_watts,
        ecc_uncorrected=sample.ecc_uncorrected,
        holders=_pods(holders.get(sample.uuid, ())) if not sample.mig else (),
        load=_load(sample),
    )


def _mig(mode: bool | None) -> MigWord:
    return "none" if mode is None else "on" if mode else "off"


def _after(change: GpuChange) -> tuple[str, ...]:
    return tuple(str(slot) for slot in (*change.keep, *change.finish, *change.create))


def _xids(gpu: str, xids: Mapping[Xid, int]) -> dict[str, int]:
    """By number, with the GPU instance where the driver names one."""
    return {
        f"{xid.number}" + (f" on GPU instance {xid.gpu_instance}" if xid.gpu_instance is not None else ""): count
        for xid, count in xids.items()
        if xid.gpu == gpu
    }


def _read(gpu: Gpu, holders: Mapping[str, tuple[Holder, ...]]) -> Iterable[SliceView]:
    for instance in gpu.instances:
        for part in instance.compute:
            yield SliceView(
                profile=instance.profile,
                start=instance.placement.start,
                size=instance.placement.size,
                compute="" if part.full else f"{part.slices}c",
                gpu_instance=instance.id,
                compute_instance=part.id,
                uuid=part.uuid,
                holders=_pods(holders.get(part.uuid, ())),
            )


def _sampled(one: SliceSample, among: Sequence[SliceSample], holders: Mapping[str, tuple[Holder, ...]]) -> SliceView:
    parts = [other for other in among if (other.gpu, other.gpu_instance) == (one.gpu, one.gpu_instance)]
    return SliceView(
        profile=one.profile,
        start=one.placement.start,
        size=one.placement.size,
        compute=f"CI {one.compute_instance}" if len(parts) > 1 else "",
        gpu_instance=one.gpu_instance,
        compute_instance=one.compute_instance,
        uuid=one.uuid,
        holders=_pods(holders.get(one.uuid, ())),
        load=_load(one),
    )


def _place(view: SliceView) -> tuple[int, int]:
    return view.start, view.compute_instance


def _pods(holders: Sequence[Holder]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(f"{namespace}/{pod}" for namespace, pod, _ in holders))


def _load(sample: GpuSample | SliceSample) -> LoadView:
    load = sample.utilization
    return LoadView(
        utilization_ratio=load.graphics,
        sm_utilization_ratio=load.sm,
        tensor_utilization_ratio=load.tensor,
        dram_bandwidth_utilization_ratio=load.dram_bandwidth,
        memory_used_bytes=sample.memory_used_bytes,
        memory_total_bytes=sample.memory_total_bytes,
        processes=sample.processes,
    )


# -- cache ----------------------------------------------------------------------------------------------------------------


def cache_view(report: CacheReport, gate: Sequence[str]) -> CacheView:
    """``gate``: what the start-up taint of this node waits for."""
    return CacheView(
        at=report.at_seconds,
        refusal=report.refusal or "",
        models=tuple(_model(model) for model in report.models),
        used_bytes=report.disk.used_bytes,
        free_bytes=report.disk.free_bytes,
        total_bytes=report.disk.total_bytes,
        budget_bytes=report.budget_bytes,
        over=report.over or "",
        gate=tuple(gate),
    )


def _model(model: ModelReport) -> ModelView:
    return ModelView(
        name=model.name,
        repository=model.repository,
        revision=model.revision,
        commit=model.commit,
        state=model.state.value,
        reason=model.reason,
        message=model.message,
        size_bytes=model.size_bytes,
        fetched_bytes=model.fetched_bytes,
        since=model.since_seconds,
        next_try=model.next_try_seconds,
        because=model.because,
        gate=model.gate,
    )
