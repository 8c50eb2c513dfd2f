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

from dataclasses import replace

from agent.model import labels
from agent.model.desired import Desired, Refusal, Unasked, Wish
from agent.model.operation import Before, Operation
from agent.model.report import NodeStatus
from agent.model.snapshot import Snapshot
from agent.model.steps import (
    Begin,
    Change,
    Outcome,
    Plan,
    Settled,
    Waiting,
)
from agent.plan import advertise
from agent.plan.applied import as_applied, drifted
from agent.plan.clients import client_pods, with_clients_paused
from agent.plan.drain import holdings
from agent.plan.midway import midway
from agent.plan.owners import second_owner
from agent.plan.placement import Ask, Tenants, choose
from agent.plan.sharing import config_for, config_on, in_words, word
from agent.plan.way import Memory, Policy, gpu_unknown, starting_pods, way_to

UPGRADE_IDLE = frozenset({"", "upgrade-done", "upgrade-required", "upgrade-failed"})
"""Values of GPU Operator's upgrade label that mean: no driver is being replaced now."""


def decide(wish: Wish, seen: Snapshot, policy: Policy, memory: Memory) -> Outcome:
    """The outcome of this pass."""
    if isinstance(wish, Desired):
        wish = as_applied(wish, seen.gpus, memory.last)
    unread = tuple(gpu for gpu in seen.gpus if gpu.unknown)
    if memory.operation is not None:
        # See Note [A GPU that does not answer].
        if unread and not memory.operation.before.keys() <= {gpu.uuid for gpu in seen.gpus if not gpu.unknown}:
            return gpu_unknown(unread)
        return midway(wish, seen, policy, memory, memory.operation)
    match wish:
        case Refusal(reason="no-mig" | "unknown-gpu" | "gpu-count-changed") if unread:
            # The GPU that it misses may be the one that does not answer.
            return gpu_unknown(unread)
        case Refusal():
            return wish
        case Unasked():
            return Settled("no layout is asked for", asked=False)
    return _fresh(wish, seen, policy, memory.last)


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
        return gpu_unknown(unread)
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
    return Settled(advertise.applied(seen))


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
    return starting_pods(seen, ideal)


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
