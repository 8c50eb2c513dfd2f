"""An operation under way: the next step on, or back. See Note [Every pass decides anew] in plan/partition.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from agent.model import labels
from agent.model.desired import Desired, Refusal, Unasked, Wish
from agent.model.labels import PLUGIN_CONFIG
from agent.model.operation import Operation
from agent.model.report import NodeStatus
from agent.model.snapshot import Snapshot
from agent.model.steps import (
    Change,
    Create,
    Destroy,
    End,
    Evict,
    GpuChange,
    Outcome,
    Pause,
    Plan,
    Prepare,
    Recordon,
    Refresh,
    RestartClient,
    Resume,
    SetMode,
    Step,
    Trim,
    Turn,
    Waiting,
)
from agent.plan import advertise, reboot
from agent.plan.casualties import failed_since_boot
from agent.plan.clients import stopping, with_clients_paused, with_newcomers
from agent.plan.drain import in_the_way
from agent.plan.sharing import DISCOVERY_SECONDS, config_on, config_towards, hint, in_words, word
from agent.plan.upgrade import upgrading
from agent.plan.way import DONE, Memory, Policy, Way, occupants, starting_pods, way_to

_TRIED = frozenset({"gpu-in-use", "driver-failing"})
"""Waits for something that a step on the hardware ran into."""

_DRAINS = frozenset({"draining", "budget", "eviction-failing", "refused"})
"""Waits for pods that have to go."""

_MOST_SHARES = 3
"""So often the device plugin's configuration is chosen in one operation; who takes it away each time has the last word."""

_SETTLING_SECONDS = 5.0
"""A pod's processes end within a moment after it is gone, and nobody tells when: so long a slice is looked at often."""
_LOOK_WHILE_SETTLING_SECONDS = 0.3

_SHORT_WAITS = _TRIED | {"before-failing", "device-busy", "pod-starting", "kubelet-unreachable", "rollback-failed"}
"""Waits that end by themselves, or never: after ``patience_seconds`` the node is given back, and tried again later."""


def midway(wish: Wish, seen: Snapshot, policy: Policy, memory: Memory, operation: Operation) -> Outcome:
    """Go on with an operation, or back."""
    if operation.outlived_by(wish):
        return Plan(DONE, (Turn(operation.anew().towards(wish)),))
    rebooting = reboot.under_way(wish, seen, policy, operation)
    if rebooting is not None:
        return _cordoned_again(seen, operation, DONE) or rebooting
    silent = operation.silent_in(seen.gpus)
    if silent:
        # See Note [A GPU that does not answer] in plan/partition.py.
        silent = {uuid: f"cannot be read: {why}" for uuid, why in silent.items()}
        if memory.waited("gpu-unknown", policy.patience_seconds, seen.now):
            return _without(operation, silent)
        return Waiting("gpu-unknown", _each(silent, seen))
    if reboot.has_come(wish, operation, seen):
        return Plan(DONE, (Turn(operation.anew()),))
    if isinstance(wish, Refusal) and wish.reason == "layouts-unreadable" and not operation.failure:
        # A file that is being replaced is no reason to undo half a change; one that stays away is.
        if memory.waited(wish.reason, policy.patience_seconds, seen.now):
            return Plan(DONE, (Turn(replace(operation, failure=wish.message)),))
        return Waiting("layouts-unreadable", wish.message)
    known = operation.before.keys()
    operation = operation.towards(wish).covering(wish, seen.gpus)
    back = bool(operation.failure) or not isinstance(wish, Desired)
    if back and operation.undone_in(seen.gpus):
        return _finish(wish, seen, policy, memory, operation)
    # What an earlier wish had begun to change, and this one does not name, goes back.
    wishes = {
        **reboot.ways_back(wish, operation, seen),
        **(wish.wishes if isinstance(wish, Desired) and not back else {}),
    }
    way = way_to(wishes, seen, policy, operation)
    if way.blockers:
        message = f"needs slices that cannot be freed: {'; '.join(way.blockers)}"
        if not back:
            return Plan(way.change, (Turn(replace(operation, failure=f"{operation.layout!r} {message}")),))
        if memory.waited("blocked", policy.patience_seconds, seen.now):
            return _not_put_back(seen, operation, f"that {message}")
        if way.change.empty:
            return Waiting("blocked", f"going back {message}", way.change, pods=way.blocking)
        # The GPUs that nobody holds up have their old layout back meanwhile.
    elif way.change.empty:
        return _finish(wish, seen, policy, memory, operation)
    if memory.waits_for in _SHORT_WAITS and memory.waited(memory.waits_for, policy.patience_seconds, seen.now):
        if back:
            return _not_put_back(seen, operation, memory.waits_message)
        failure = f"{operation.layout!r} did not get on for {policy.patience_seconds:.0f} s: {memory.waits_message}"
        return Plan(way.change, (Turn(replace(operation, failure=failure)),))
    return _go_on(seen, policy, memory, operation, way, operation.before.keys() <= known)


def _without(operation: Operation, given_up: Mapping[str, str]) -> Plan:
    """The operation goes on without these GPUs."""
    return Plan(DONE, (Turn(replace(operation, given_up={**operation.given_up, **given_up})),))


def _not_put_back(seen: Snapshot, operation: Operation, why: str) -> Plan:
    """What does not get back to what it was is given up, so that the node is not kept from its pods for ever."""
    words = f"its old layout cannot be put back: {why}"
    return _without(operation, dict.fromkeys(sorted(operation.differing_in(seen.gpus)), words))


def _cordoned_again(seen: Snapshot, operation: Operation, change: Change) -> Plan | None:
    if not operation.cordoned or seen.node.unschedulable or operation.recordoned:
        return None
    return Plan(change, (Recordon(replace(operation, recordoned=True)),))


def _go_on(seen: Snapshot, policy: Policy, memory: Memory, operation: Operation, way: Way, recorded: bool) -> Outcome:
    """The hardware still differs: drain, pause, act. ``recorded``: the record on the node has every GPU that is asked for."""
    change = way.change
    again = _cordoned_again(seen, operation, change)
    if again is not None:
        return again
    if reboot.is_under_way(operation, seen) and (outcome := reboot.at_reboot(seen, policy, operation, change)):
        return outcome
    if seen.owners is None and change.takes_away:
        return Waiting("kubelet-unreachable", f"who holds which slice is not known: {seen.owners_error}", change)
    ending = {pod.ref for pod in seen.pods if pod.terminating}
    if change.moves:
        if _has_drained_too_long(seen, policy, memory, operation):
            words = f"pods did not go within {policy.drain_seconds:.0f} s: {in_the_way(change.moves, seen)}"
            if operation.failure:
                return _not_put_back(seen, operation, words)
            return Plan(change, (Turn(operation.failed(f"{operation.layout!r}: {words}", "drain-timeout")),))
        evictions: tuple[Step, ...] = tuple(one for one in _by_priority(change, seen) if one.pod not in ending)
        if evictions:
            return Plan(change, evictions)
        names = ", ".join(map(str, change.moves))
        return Waiting("draining", f"waiting for pods to end: {names}", change, pods=change.moves)
    if way.not_free:
        free = tuple(gpu for gpu in change.gpus if gpu.gpu not in way.not_free)
        if not operation.failure or all(gpu.empty for gpu in free):
            names = "; ".join(name for names in way.not_free.values() for name in names)
            settling = not memory.waited("device-busy", _SETTLING_SECONDS, seen.now)
            look_again = _LOOK_WHILE_SETTLING_SECONDS if settling else 2.0
            return Waiting("device-busy", f"waiting for slices to be let go: {names}", change, look_again)
        change = replace(change, gpus=free)
    starting = starting_pods(seen, change)
    if starting is not None and seen.owners is not None:
        return starting
    paused = with_clients_paused(seen, operation, change)
    if paused != operation or not recorded:
        return Plan(change, (Pause(paused),))
    still_here = stopping(seen, operation)
    waited = memory.waits_for in _TRIED or memory.waited("clients-stopping", policy.clients_stop_seconds, seen.now)
    if still_here and not waited:
        names = ", ".join(str(pod.ref) for pod in still_here)
        pods = tuple(pod.ref for pod in still_here)
        return Waiting("clients-stopping", f"waiting for GPU clients to stop: {names}", change, pods=pods)
    outcome = reboot.at_reboot(seen, policy, operation, change)
    if outcome is not None:
        return outcome
    if policy.prepares and operation.prepared != seen.node.boot_id:
        return Plan(change, (Prepare(), Turn(replace(operation, prepared=seen.node.boot_id))))
    others = occupants(way.wishes, seen, policy, operation) if any(gpu.switches for gpu in change.gpus) else ()
    return Plan(change, hardware_steps(reboot.yet_to_ask(operation, seen, change), others))


def _has_drained_too_long(seen: Snapshot, policy: Policy, memory: Memory, operation: Operation) -> bool:
    """By the record where draining is all that was done since the begin, else since this process waits for pods."""
    if not policy.drain_seconds:
        return False
    if not operation.touched and operation.begun_for == operation.revision:
        return seen.now - operation.started >= policy.drain_seconds
    return memory.waits_for in _DRAINS and seen.now - memory.waits_since >= policy.drain_seconds


def hardware_steps(change: Change, others: tuple[tuple[str, str], ...]) -> tuple[Step, ...]:
    """Modes first, since a switch may end in a reboot or take other GPUs' instances; before each what is in its way. Then per
    GPU what is in the way of new instances, and these, the largest first. ``others``: who is on each GPU."""
    steps: list[Step] = []
    for gpu in change.gpus:
        if gpu.mode is not None:
            steps += [*_clearing(gpu), SetMode(gpu.gpu, gpu.mode, tuple(o for o in others if o[0] != gpu.gpu))]
    for gpu in change.gpus:
        if gpu.mode is None:
            steps += _clearing(gpu)
        steps += [Create(gpu.gpu, slot.placement, slot.shape) for slot in (*gpu.finish, *gpu.create)]
    return tuple(steps)


def _clearing(gpu: GpuChange) -> list[Step]:
    destroy = [Destroy(gpu.gpu, placement, profile) for placement, profile in gpu.remove]
    return [*destroy, *(Trim(gpu.gpu, trim.placement, trim.profile, trim.parts) for trim in gpu.trim)]


def _by_priority(change: Change, seen: Snapshot) -> list[Evict]:
    priority = {pod.ref: pod.priority for pod in seen.pods}
    return sorted((Evict(ref, priority.get(ref, 0)) for ref in change.moves), key=lambda one: (one.priority, one.pod))


def _finish(wish: Wish, seen: Snapshot, policy: Policy, memory: Memory, operation: Operation) -> Outcome:
    """The hardware is where it shall be: the host follows it, clients back, shown by the advertiser, end."""
    config = config_towards(wish, operation, seen.node)
    if operation.touched and not operation.resumed:
        return Plan(DONE, (Refresh(), Resume(with_newcomers(seen, operation), config)))
    if config != config_on(seen.node) and not (operation.failure and operation.shares >= _MOST_SHARES):
        return _share(seen, policy, memory, operation, config)
    if operation.touched:
        stale = [p for p in seen.pods if p.ref.uid in operation.clients and not p.terminating and not p.finished]
        if stale:
            return Plan(DONE, tuple(RestartClient(pod.ref) for pod in stale))
        waiting = _advertised(wish, seen, policy, memory, operation)
        if waiting is not None:
            return waiting
    upgrade = upgrading(seen.node)
    if upgrade:
        return Waiting("driver-upgrade", f"done, but for a driver upgrade that has still to end ({upgrade})", DONE)
    return Plan(DONE, (_verdict(wish, seen, operation, memory.last),))


def _share(seen: Snapshot, policy: Policy, memory: Memory, operation: Operation, config: str | None) -> Outcome:
    """Another configuration of the device plugin, on hardware that stays. See Note [A change of sharing]."""
    starting = starting_pods(seen, DONE)
    if starting is not None and not memory.waited(starting.reason, policy.patience_seconds, seen.now):
        return starting
    if operation.shares >= _MOST_SHARES:
        words = f"label {PLUGIN_CONFIG} was changed back {operation.shares} times by somebody else, to {config_on(seen.node)!r}"
        return Plan(DONE, (Turn(operation.failed(f"{operation.layout!r}: {words}", "sharing-config-taken")),))
    # A client that has stopped for nothing has seen no old layout, and is not started anew.
    operation = operation if operation.touched else replace(operation, clients=())
    operation = replace(operation, shares=operation.shares + 1)
    return Plan(Change((), sharing=in_words(config, seen.node)), (Resume(operation, config),))


def _advertised(wish: Wish, seen: Snapshot, policy: Policy, memory: Memory, operation: Operation) -> Outcome | None:
    """None once the node shows what it has, or after the way back has waited long enough for that."""
    waited = memory.waited("not-advertised", DISCOVERY_SECONDS, seen.now)
    wrong = advertise.not_shown(seen, word(operation, seen.node, waited), operation)
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
    end = _end(seen, operation, "failed", "not-advertised", f"not shown: {wrong}")
    return Plan(DONE, (replace(end, reboot=reboot.kept(wish, operation, seen, memory.last)),))


def _verdict(wish: Wish, seen: Snapshot, operation: Operation, last: NodeStatus | None) -> End:
    unread = {gpu.uuid: f"cannot be read: {gpu.unknown}" for gpu in seen.gpus if gpu.unknown}
    asked = wish.unread if isinstance(wish, Desired) else ()
    record = reboot.kept(wish, operation, seen, last)
    without = {**{uuid: why for uuid, why in unread.items() if uuid in asked}, **operation.given_up}
    if without and not operation.failure and isinstance(wish, Desired):
        words = f"{operation.layout!r} is not on every GPU: {_each(without, seen)}"
        return replace(_end(seen, operation, "failed", "gpu-unknown", words), reboot=record)
    back = f"; the old layout is back{reboot.but_for(operation, seen)}"
    match wish:
        # A reboot that was missing says nothing to those who have withdrawn the wish for it.
        case _ if operation.failure and (isinstance(wish, Desired) or operation.failure_reason == "rolled-back"):
            reason, why = operation.failure_reason, operation.failure
        case Desired():
            lost = failed_since_boot(seen, operation, last)
            return _end(
                seen, operation, "success", "applied", f"{wish.layout!r} {advertise.applied(seen, operation)}{lost}"
            )
        case Refusal():
            reason, why, back = wish.reason, wish.message, ""
        case Unasked():
            reason, why = "withdrawn", f"{operation.layout!r} was withdrawn in mid-change"
    if operation.given_up:
        reason = "gpu-unknown" if operation.given_up.keys() <= unread.keys() else "rollback-failed"
        back = f"; {_each(operation.given_up, seen)}"
    return replace(_end(seen, operation, "failed", reason, why + back), reboot=record)


def _each(why: Mapping[str, str], seen: Snapshot) -> str:
    """GPUs with what is said of each; what is said of several is said once."""
    index = {gpu.uuid: str(gpu.index) for gpu in seen.gpus}
    said: dict[str, list[str]] = {}
    for uuid, words in sorted(why.items(), key=lambda item: index.get(item[0], item[0])):
        said.setdefault(words, []).append(index.get(uuid, uuid))
    return "; ".join(f"GPU {', '.join(names)} {words}" for words, names in said.items())


def _end(seen: Snapshot, operation: Operation, state: Literal["success", "failed"], reason: str, message: str) -> End:
    keep = seen.node.annotations.get(labels.KEEP_CORDONED) == "true"
    return End(operation, state, reason, message, uncordon=operation.cordoned and not keep)
