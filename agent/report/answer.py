"""From an outcome to the answer that people and programs read. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.model.answer import Answer, GpuAnswer
from agent.model.desired import Desired, Refusal, Wish
from agent.model.mig import Gpu, GpuInstance
from agent.model.snapshot import Snapshot
from agent.model.steps import Change, GpuChange, Outcome, Plan, Settled, Waiting
from agent.report.slices import holders_by_slice
from agent.report.status import in_words

_LONGEST_HOLDER = 80
"""A process may call itself anything."""


def answer_of(outcome: Outcome, wish: Wish, seen: Snapshot) -> Answer:
    """What this outcome means for the node. It says the same while the world is the same: no times, everything in order."""
    layout = wish.layout if isinstance(wish, Desired | Refusal) else ""
    match outcome:
        case Settled():
            return Answer(layout, "nothing", "applied", outcome.message, _gpus(Change(()), seen))
        case Refusal():
            return Answer(layout, "refused", outcome.reason, outcome.message, _gpus(Change(()), seen))
        case Waiting(reason="dry-run") | Plan():
            change = outcome.change or Change(())
            return _with_pods(change, seen, Answer(layout, "change", "change", in_words(change, seen.gpus)))
        case Waiting():
            change = outcome.change or Change(())
            return _with_pods(change, seen, Answer(layout, "wait", outcome.reason, outcome.message))


def _with_pods(change: Change, seen: Snapshot, answer: Answer) -> Answer:
    budgets = budgets_of(change.moves, seen)
    return Answer(
        answer.layout,
        answer.verdict,
        answer.reason,
        answer.message,
        gpus=_gpus(change, seen),
        pods=tuple(str(ref) for ref in change.moves),
        budgets=budgets,
        held_back=held_back(budgets, seen),
        exact=change.exact,
    )


def budgets_of(pods: Iterable[object], seen: Snapshot) -> dict[str, tuple[str, ...]]:
    """The names of the budgets that cover each of these pods; none for a pod without."""
    known = {pod.ref: pod for pod in seen.pods}
    return {
        str(ref): tuple(sorted(b.name for b in seen.budgets if ref in known and b.covers(known[ref]))) for ref in pods
    }


def held_back(budgets: Mapping[str, tuple[str, ...]], seen: Snapshot) -> tuple[str, ...]:
    """Those of which a budget lets none go now."""
    spent = {(b.namespace, b.name) for b in seen.budgets if b.disruptions_allowed < 1}
    return tuple(pod for pod, names in budgets.items() if any((pod.partition("/")[0], name) in spent for name in names))


def _gpus(change: Change, seen: Snapshot) -> tuple[GpuAnswer, ...]:
    changes = {gpu.gpu: gpu for gpu in change.gpus}
    return tuple(
        _gpu(gpu, changes.get(gpu.uuid), seen) for gpu in seen.gpus if gpu.mig_enabled is not None and not gpu.unknown
    )


def _gpu(gpu: Gpu, change: GpuChange | None, seen: Snapshot) -> GpuAnswer:
    now = tuple(map(_name, gpu.instances))
    kept = now if change is None else tuple(str(slot) for slot in change.keep)
    return GpuAnswer(
        gpu=gpu.index,
        uuid=gpu.uuid,
        name=gpu.name,
        memory_slices=memory_slices(gpu),
        mode=change.mode if change is not None else None,
        now=now,
        keep=kept,
        destroy=(
            *(name for name in now if _destroyed(name, change)),
            *(map(str, change.trim) if change is not None else ()),
        ),
        create=tuple(str(slot) for slot in (*change.finish, *change.create)) if change is not None else (),
        holders=holders_by_instance(gpu, seen),
    )


def memory_slices(gpu: Gpu) -> int:
    """How many a GPU has, by its placements; 0 where the driver lists none."""
    return max((place.end for profile in gpu.profiles for place in profile.placements), default=0)


def holders_by_instance(gpu: Gpu, seen: Snapshot) -> dict[str, tuple[str, ...]]:
    """Who is on each instance; those with nobody are not named."""
    return {_name(instance): names for instance in gpu.instances if (names := _holders(gpu, instance, seen))}


def _destroyed(name: str, change: GpuChange | None) -> bool:
    gone = {str(placement) for placement, _ in change.remove} if change is not None else set()
    return name.rpartition("@")[2] in gone


def _name(instance: GpuInstance) -> str:
    """As a slot is written; one without its compute instances as what it is."""
    return f"{instance.shape or instance.profile}@{instance.placement}"


def _holders(gpu: Gpu, instance: GpuInstance, seen: Snapshot) -> tuple[str, ...]:
    """Pods by the kubelet and by what runs there, and processes outside any pod."""
    by_slice = holders_by_slice(seen.owners or ())
    listed = {f"{space}/{pod}" for part in instance.compute for space, pod, _ in by_slice.get(part.uuid, ())}
    known = {pod.ref.uid: str(pod.ref) for pod in seen.pods}
    running = [process for process in gpu.processes if process.gpu_instance == instance.id]
    pods = listed | {known[p.pod] for p in running if p.pod is not None and p.pod in known}
    # A process of which nobody can say whose it is counts as that of the pod that has the slice.
    others = sorted((p.pid, p.command) for p in running if p.pod not in known and not (listed and p.pod != ""))
    words = (f"process {pid} ({command or 'unknown command'})"[:_LONGEST_HOLDER] for pid, command in others)
    return (*sorted(pods), *words)
