"""What to do next about the layout: one decision per pass, from the wish, the world and the journal alone.

# Note [Every pass decides anew]
# Nothing is remembered between passes but the operation record on the node. A plan holds only the steps that may be taken
# now; after them the world is read again. So a kill at any point is not special: the next pass finds the record and the
# hardware as they are, and goes on or back from there.

# Note [A GPU that does not answer]
# A call that outlived its deadline may still take effect, so of a GPU that cannot be read nothing is concluded: not that it
# is done, not that it cannot do MIG. An operation that it is part of waits for it; others go on, and end without success.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from agent.model import labels
from agent.model.desired import Desired, Refusal, Unasked, Wish
from agent.model.mig import Gpu, GpuWish
from agent.model.node import PodRef
from agent.model.operation import Before, Operation
from agent.model.report import NodeStatus
from agent.model.snapshot import Snapshot
from agent.model.steps import (
    Begin,
    Change,
    Create,
    Destroy,
    End,
    Evict,
    Outcome,
    Pause,
    Plan,
    Recordon,
    Refresh,
    RestartClient,
    Resume,
    SetMode,
    Settled,
    Step,
    Trim,
    Turn,
    Waiting,
)
from agent.plan import advertise
from agent.plan.applied import as_applied, drifted
from agent.plan.clients import client_pods, stopping, with_clients_paused, with_newcomers
from agent.plan.drain import DrainPolicy, Holdings, holdings, unlisted
from agent.plan.owners import second_owner
from agent.plan.placement import Ask, Tenants, choose, moves, not_free, solve
from agent.plan.sharing import DISCOVERY_SECONDS, config_for, config_on, config_towards, hint, in_words, word

UPGRADE_IDLE = frozenset({"", "upgrade-done", "upgrade-required", "upgrade-failed"})
"""Values of GPU Operator's upgrade label that mean: no driver is being replaced now."""


DONE = Change(())
"""Nothing is left to change on the hardware."""

_TRIED = frozenset({"gpu-in-use", "driver-failing"})
"""Waits for something that a step on the hardware ran into."""

_SHORT_WAITS = _TRIED | {"device-busy", "pod-starting"}
"""Waits that end by themselves, or never: after ``patience_seconds`` the node is given back, and tried again later."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What an administrator may set about a change."""

    drain: DrainPolicy = field(default_factory=DrainPolicy)
    clients_stop_seconds: float = 60.0
    patience_seconds: float = 300.0
    advertise_seconds: float = 300.0


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known besides the world of now: the journal, the status last written (for back-off), and since when (seconds
    since the epoch) this process has been waiting for what. The last is lost with the process; then the wait begins anew.
    """

    operation: Operation | None = None
    last: NodeStatus | None = None
    waits_for: str = ""
    waits_since: float = 0.0
    waits_message: str = ""

    def waited(self, reason: str, seconds: float, now: float) -> bool:
        """Whether this has been waited for that long."""
        return self.waits_for == reason and now - self.waits_since >= seconds


@dataclass(frozen=True, slots=True)
class Way:
    """How to get to some wishes, or who stands in the way (``blockers``, one name and reason each).

    ``not_free`` is what is still on slices that have to go, though nobody is left to move.
    """

    change: Change
    blockers: tuple[str, ...] = ()
    not_free: tuple[str, ...] = ()


def decide(wish: Wish, seen: Snapshot, policy: Policy, memory: Memory) -> Outcome:
    """The outcome of this pass."""
    if isinstance(wish, Desired):
        wish = as_applied(wish, seen.gpus, memory.last)
    unread = tuple(gpu for gpu in seen.gpus if gpu.unknown)
    if memory.operation is not None:
        # See Note [A GPU that does not answer].
        if unread and not memory.operation.before.keys() <= {gpu.uuid for gpu in seen.gpus if not gpu.unknown}:
            return _unknown(unread)
        return _midway(wish, seen, policy, memory, memory.operation)
    match wish:
        case Refusal(reason="no-mig" | "unknown-gpu" | "gpu-count-changed") if unread:
            # The GPU that it misses may be the one that does not answer.
            return _unknown(unread)
        case Refusal():
            return wish
        case Unasked():
            return Settled("no layout is asked for", asked=False)
    return _fresh(wish, seen, policy, memory.last)


def _unknown(unread: tuple[Gpu, ...]) -> Waiting:
    return Waiting("gpu-unknown", _unknown_words(unread))


def _unknown_words(unread: tuple[Gpu, ...]) -> str:
    return "; ".join(f"GPU {gpu.index} cannot be read: {gpu.unknown}" for gpu in unread)


def way_to(wishes: Mapping[str, GpuWish], seen: Snapshot, policy: Policy, operation: Operation | None) -> Way:
    """The change of every GPU named; GPUs that could not be read are left out."""
    asked = [gpu for gpu in seen.gpus if gpu.uuid in wishes and not gpu.unknown]
    held = {gpu.uuid: holdings(gpu, seen, policy.drain, operation) for gpu in asked}
    choice = choose([Ask(gpu, wishes[gpu.uuid], held[gpu.uuid].tenants) for gpu in asked])
    tenants = [(change, held[change.gpu].tenants) for change in choice.changes]
    moved = frozenset[PodRef]().union(*(moves(change, them) for change, them in tenants))
    return Way(
        Change(choice.changes, tuple(sorted(moved)), choice.exact),
        tuple(name for ask in choice.stuck for name in _in_the_way(ask.gpu, ask.wish, held[ask.gpu.uuid])),
        tuple(name for change, them in tenants for name in not_free(change, them)),
    )


def _in_the_way(gpu: Gpu, wish: GpuWish, held: Holdings) -> list[str]:
    """Those whose leaving alone would open a way; all of them where none alone would."""
    everyone = [f"{text} on GPU {gpu.index}" for texts in held.reasons.values() for text in texts]
    everyone += [f"{text} on GPU {gpu.index}" for text in held.tenants.whole_fixed]
    alone = []
    for part, texts in sorted(held.reasons.items()):
        without: Tenants = replace(held.tenants, fixed=held.tenants.fixed - {part})
        if solve(gpu, wish, without) is not None:
            alone += [f"{text} on GPU {gpu.index}" for text in texts]
    return alone or everyone


def _fresh(wish: Desired, seen: Snapshot, policy: Policy, last: NodeStatus | None) -> Outcome:
    unread = tuple(gpu for gpu in seen.gpus if gpu.unknown)
    ideal = Change(
        choose(
            [
                Ask(gpu, wish.wishes[gpu.uuid], Tenants())
                for gpu in seen.gpus
                if gpu.uuid in wish.wishes and not gpu.unknown
            ]
        ).changes
    )
    other = second_owner(seen)
    if other:
        return Waiting("second-owner", other, ideal, 60.0)
    sharing = in_words(config_for(wish, seen.node), seen.node)
    if ideal.empty and unread:
        return _unknown(unread)
    if ideal.empty and not sharing:
        return _settled(seen)
    ideal = replace(ideal, sharing=sharing)
    waiting = drifted(wish, seen, last, ideal) or _not_now(wish, seen, last, ideal)
    if waiting is not None:
        return waiting
    way = way_to(wish.wishes, seen, policy, None)
    if way.blockers:
        return Waiting(
            "blocked", f"{wish.layout!r} needs slices that cannot be freed: {'; '.join(way.blockers)}", ideal
        )
    change = replace(way.change, sharing=sharing)
    if seen.node.annotations.get(labels.DRY_RUN) == "true":
        return Waiting("dry-run", f"dry run of {wish.layout!r}: see annotation {labels.PLAN}", change, 60.0)
    return Plan(change, (Begin(_operation(wish, seen, policy, change), _guards(seen)),))


def _settled(seen: Snapshot) -> Outcome:
    wrong = advertise.difference(seen.node, seen.gpus, word(None, seen.node))
    if wrong and advertise.has_advertiser(seen):
        return Waiting("not-advertised", f"the GPUs have the layout, but the node does not show it: {wrong}")
    return Settled(_applied(seen))


def _applied(seen: Snapshot) -> str:
    if advertise.has_advertiser(seen):
        return "applied"
    return "applied; no device plugin runs here, so the hardware's word alone counts"


def _not_now(wish: Desired, seen: Snapshot, last: NodeStatus | None, ideal: Change) -> Waiting | None:
    """Reasons to begin later that have nothing to do with who holds which slice."""
    upgrade = seen.node.labels.get(labels.DRIVER_UPGRADE_STATE, "")
    if upgrade not in UPGRADE_IDLE:
        return Waiting("driver-upgrade", f"a driver upgrade runs on this node ({upgrade})", ideal)
    if last is not None and last.revision == wish.revision and (last.next_try or 0.0) > seen.now:
        rest = (last.next_try or 0.0) - seen.now
        return Waiting(
            "back-off", f"the last attempt failed ({last.message}); the next is in {rest:.0f} s", ideal, rest
        )
    if seen.owners is None:
        return Waiting("kubelet-unreachable", f"who holds which slice is not known: {seen.owners_error}", ideal)
    return _starting(seen, ideal)


def _starting(seen: Snapshot, change: Change) -> Waiting | None:
    starting = unlisted(seen)
    if not starting:
        return None
    names = ", ".join(str(pod.ref) for pod in starting)
    return Waiting("pod-starting", f"bound to this node and about to take a slice: {names}", change, 2.0)


def _operation(wish: Desired, seen: Snapshot, policy: Policy, change: Change) -> Operation:
    """The record that begins a change. Where no pod has to move, clients are paused in the same write; a change of sharing
    alone (see Note [A change of sharing]) stops none."""
    mode = any(gpu.mode is not None for gpu in change.gpus)
    operation = Operation(
        id=f"{wish.revision}-{int(seen.now)}",
        revision=wish.revision,
        layout=wish.layout,
        boot_id=seen.node.boot_id,
        started=seen.now,
        cordoned=not seen.node.unschedulable,
        before={
            gpu.uuid: Before(gpu.mig_enabled, gpu.layout, gpu.mig_pending)
            for gpu in seen.gpus
            if gpu.mig_enabled is not None and not gpu.unknown
        },
        annotations={key: seen.node.annotations.get(key) for key in labels.AUTOSCALER_GUARDS},
        clients=tuple(sorted(pod.ref.uid for pod in client_pods(seen, mode))),
        plugin_config=config_on(seen.node),
        strangers={
            gpu.uuid: tuple(sorted(found))
            for gpu in seen.gpus
            if not gpu.unknown and (found := holdings(gpu, seen, policy.drain, None).strangers)
        },
    )
    return operation if change.moves or change.empty else with_clients_paused(seen, operation, change)


def _guards(seen: Snapshot) -> tuple[tuple[str, str], ...]:
    return tuple((k, v) for k, v in labels.AUTOSCALER_GUARDS.items() if seen.node.annotations.get(k) != v)


def _midway(wish: Wish, seen: Snapshot, policy: Policy, memory: Memory, operation: Operation) -> Outcome:
    """Go on with an operation, or back."""
    if operation.outlived_by(wish):
        return Plan(DONE, (Turn(replace(operation, failure="").towards(wish)),))
    if isinstance(wish, Refusal) and wish.reason == "layouts-unreadable" and not operation.failure:
        # A file that is being replaced is no reason to undo half a change; one that stays away is.
        if memory.waited(wish.reason, policy.patience_seconds, seen.now):
            return Plan(DONE, (Turn(replace(operation, failure=wish.message)),))
        return Waiting("layouts-unreadable", wish.message)
    operation = operation.towards(wish)
    back = bool(operation.failure) or not isinstance(wish, Desired)
    if back and operation.undone_in(seen.gpus):
        return _finish(wish, seen, policy, memory, operation)
    wishes = wish.wishes if isinstance(wish, Desired) and not operation.failure else operation.way_back()
    way = way_to(wishes, seen, policy, operation)
    if way.blockers:
        return _blocked_midway(operation, way, back)
    if way.change.empty:
        return _finish(wish, seen, policy, memory, operation)
    return _go_on(seen, policy, memory, operation, way)


def _blocked_midway(operation: Operation, way: Way, back: bool) -> Outcome:
    message = f"needs slices that cannot be freed: {'; '.join(way.blockers)}"
    if back:
        return Waiting("blocked", f"going back {message}", way.change)
    return Plan(way.change, (Turn(replace(operation, failure=f"{operation.layout!r} {message}")),))


def _go_on(seen: Snapshot, policy: Policy, memory: Memory, operation: Operation, way: Way) -> Outcome:
    """The hardware still differs: drain, pause, act."""
    change = way.change
    if (
        memory.waits_for in _SHORT_WAITS
        and memory.waited(memory.waits_for, policy.patience_seconds, seen.now)
        and not operation.failure
    ):
        failure = f"{operation.layout!r} did not get on for {policy.patience_seconds:.0f} s: {memory.waits_message}"
        return Plan(change, (Turn(replace(operation, failure=failure)),))
    if operation.cordoned and not seen.node.unschedulable and not operation.recordoned:
        return Plan(change, (Recordon(replace(operation, recordoned=True)),))
    if seen.owners is None:
        return Waiting("kubelet-unreachable", f"who holds which slice is not known: {seen.owners_error}", change)
    ending = {pod.ref for pod in seen.pods if pod.terminating}
    if change.moves:
        evictions: tuple[Step, ...] = tuple(Evict(ref) for ref in _by_priority(change, seen) if ref not in ending)
        if evictions:
            return Plan(change, evictions)
        return Waiting("draining", f"waiting for pods to end: {', '.join(map(str, change.moves))}", change)
    if way.not_free:
        return Waiting("device-busy", f"waiting for slices to be let go: {'; '.join(way.not_free)}", change, 2.0)
    starting = _starting(seen, change)
    if starting is not None:
        return starting
    paused = with_clients_paused(seen, operation, change)
    if paused != operation:
        return Plan(change, (Pause(paused),))
    still_here = stopping(seen, operation)
    waited = memory.waits_for in _TRIED or memory.waited("clients-stopping", policy.clients_stop_seconds, seen.now)
    if still_here and not waited:
        names = ", ".join(str(pod.ref) for pod in still_here)
        return Waiting("clients-stopping", f"waiting for GPU clients to stop: {names}", change)
    return Plan(change, hardware_steps(change))


def hardware_steps(change: Change) -> tuple[Step, ...]:
    """Per GPU: what is in the way of a mode change or of new instances goes first; then the mode; then the largest first."""
    steps: list[Step] = []
    for gpu in change.gpus:
        steps += [Destroy(gpu.gpu, placement, profile) for placement, profile in gpu.remove]
        steps += [Trim(gpu.gpu, trim.placement, trim.profile, trim.parts) for trim in gpu.trim]
        if gpu.mode is not None:
            steps.append(SetMode(gpu.gpu, gpu.mode))
        steps += [Create(gpu.gpu, slot.placement, slot.shape) for slot in (*gpu.finish, *gpu.create)]
    return tuple(steps)


def _by_priority(change: Change, seen: Snapshot) -> list[PodRef]:
    priority = {pod.ref: pod.priority for pod in seen.pods}
    return sorted(change.moves, key=lambda ref: (priority.get(ref, 0), ref))


def _finish(wish: Wish, seen: Snapshot, policy: Policy, memory: Memory, operation: Operation) -> Outcome:
    """The hardware is where it shall be: the host follows it, clients back, shown by the advertiser, end."""
    config = config_towards(wish, operation, seen.node)
    if operation.touched and not operation.resumed:
        return Plan(DONE, (Refresh(), Resume(with_newcomers(seen, operation), config)))
    if config != config_on(seen.node):
        return _share(seen, policy, memory, operation, config)
    if operation.touched:
        stale = [p for p in seen.pods if p.ref.uid in operation.clients and not p.terminating and not p.finished]
        if stale:
            return Plan(DONE, tuple(RestartClient(pod.ref) for pod in stale))
        if advertise.has_advertiser(seen):
            waiting = _advertised(seen, policy, memory, operation)
            if waiting is not None:
                return waiting
    return Plan(DONE, (_verdict(wish, seen, operation),))


def _share(seen: Snapshot, policy: Policy, memory: Memory, operation: Operation, config: str | None) -> Outcome:
    """Another configuration of the device plugin, on hardware that stays. See Note [A change of sharing]."""
    starting = _starting(seen, DONE)
    if starting is not None and not memory.waited(starting.reason, policy.patience_seconds, seen.now):
        return starting
    # A client that has stopped for nothing has seen no old layout, and is not started anew.
    operation = operation if operation.touched else replace(operation, clients=())
    return Plan(Change((), sharing=in_words(config, seen.node)), (Resume(operation, config),))


def _advertised(seen: Snapshot, policy: Policy, memory: Memory, operation: Operation) -> Outcome | None:
    """None once the node shows what it has, or after the way back has waited long enough for that."""
    waited = memory.waited("not-advertised", DISCOVERY_SECONDS, seen.now)
    wrong = advertise.difference(seen.node, seen.gpus, word(operation, seen.node, waited))
    if not wrong:
        return None
    wrong += hint(seen.node)
    if not memory.waited("not-advertised", policy.advertise_seconds, seen.now):
        return Waiting("not-advertised", f"waiting for the node to show the layout: {wrong}", DONE)
    if operation.failure:
        return None
    if config_on(seen.node) != operation.plugin_config:
        # Under a configuration that the plugin cannot take it may show nothing at all: the old one is better.
        return Plan(DONE, (Turn(replace(operation, failure=f"{operation.layout!r} was not shown: {wrong}")),))
    return Plan(DONE, (_end(seen, operation, "failed", "not-advertised", f"not shown: {wrong}"),))


def _verdict(wish: Wish, seen: Snapshot, operation: Operation) -> End:
    if operation.failure:
        return _end(seen, operation, "failed", "rolled-back", f"{operation.failure}; the old layout is back")
    unread = tuple(gpu for gpu in seen.gpus if gpu.unknown)
    match wish:
        case Desired() if unread:
            return _end(seen, operation, "failed", "gpu-unknown", _unknown_words(unread))
        case Desired():
            return _end(seen, operation, "success", "applied", f"{wish.layout!r} {_applied(seen)}")
        case Refusal():
            return _end(seen, operation, "failed", wish.reason, wish.message)
        case Unasked():
            message = f"{operation.layout!r} was withdrawn in mid-change; the old layout is back"
            return _end(seen, operation, "failed", "withdrawn", message)


def _end(seen: Snapshot, operation: Operation, state: Literal["success", "failed"], reason: str, message: str) -> End:
    keep = seen.node.annotations.get(labels.KEEP_CORDONED) == "true"
    return End(operation, state, reason, message, uncordon=operation.cordoned and not keep)
