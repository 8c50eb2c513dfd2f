"""What to do next about the layout: one decision per pass, from the wish, the world and the journal alone.

# Note [Every pass decides anew]
# Nothing is remembered between passes but the operation record on the node. A plan holds only the steps that may be taken
# now; after them the world is read again. So a kill at any point is not special: the next pass finds the record and the
# hardware as they are, and goes on or back from there.

# Note [A GPU that does not answer]
# A call that outlived its deadline may still take effect, so of a GPU that cannot be read nothing is concluded: not that it
# is done, not that it cannot do MIG. An operation that it is part of waits for it as long as Policy says; then it is given up,
# and the operation ends with the others: on to the wish, or back, and without success. The same becomes of a GPU whose old
# layout cannot be put back. No other GPU of the node is kept from its pods for it.
"""

from __future__ import annotations

from dataclasses import replace

from agent.model import labels
from agent.model.desired import Desired, Refusal, Unasked, Wish
from agent.model.mig import GpuWish
from agent.model.operation import Operation, found
from agent.model.report import NodeStatus
from agent.model.snapshot import Snapshot
from agent.model.steps import (
    Begin,
    Change,
    GpuChange,
    Outcome,
    Plan,
    Settled,
    Waiting,
)
from agent.plan import advertise, reboot
from agent.plan.applied import as_applied, drifted
from agent.plan.clients import client_pods, with_clients_paused
from agent.plan.drain import holdings
from agent.plan.host_plugin import host_plugin
from agent.plan.midway import midway
from agent.plan.owners import second_owner
from agent.plan.placement import Ask, Tenants, choose
from agent.plan.sharing import config_for, config_on, in_words, word
from agent.plan.upgrade import upgrading
from agent.plan.way import DONE, Memory, Policy, gpu_unknown, overdue_pods, starting_pods, way_to

_MOST_RESTARTS = 2
"""So often GPU clients are started anew for a node that does not show the layout that it has."""


def decide(wish: Wish, seen: Snapshot, policy: Policy, memory: Memory) -> Outcome:
    """The outcome of this pass."""
    if isinstance(wish, Desired):
        wish = as_applied(wish, seen.gpus, memory.last)
        waits = policy.wait_for_jobs_seconds
        policy = policy.sparing_jobs(waits > 0 and not memory.waited_for_jobs(wish.revision, waits, seen.now))
    if memory.operation is not None:
        return midway(wish, seen, policy, memory, memory.operation)
    match wish:
        case Refusal():
            return wish
        case Unasked():
            return _called_off(wish, seen, policy, memory.last) or Settled("no layout is asked for", asked=False)
    return _fresh(wish, seen, policy, memory)


def _fresh(wish: Desired, seen: Snapshot, policy: Policy, memory: Memory) -> Outcome:
    last = memory.last
    unread = tuple(gpu for gpu in seen.gpus if gpu.uuid in wish.unread)
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
        return _called_off(wish, seen, policy, last) or _settled(wish, seen, policy, memory)
    service = "" if policy.refreshes else host_plugin(seen)
    if service:
        return Refusal("host-plugin", f"{wish.layout!r} would not be shown: {service}", wish.layout)
    ideal = replace(ideal, sharing=sharing)
    refusal = reboot.still_required(wish, seen, policy, last, ideal)
    if refusal is not None:
        return refusal
    waiting = drifted(wish, seen, last, ideal) or _not_now(wish, seen, memory, ideal)
    if waiting is not None:
        return waiting
    way = way_to(wish.wishes, seen, policy, None)
    if way.blockers:
        names = "; ".join(way.blockers)
        if policy.drain.spares_jobs and not way_to(wish.wishes, seen, policy.sparing_jobs(False), None).blockers:
            words = f"to end by themselves, for {policy.wait_for_jobs_seconds:.0f} s at most"
            return Waiting(
                "job-running", f"{wish.layout!r} waits for pods of Jobs {words}: {names}", ideal, pods=way.blocking
            )
        words = f"{wish.layout!r} needs slices that cannot be freed: {names}"
        return Waiting("blocked", words, ideal, pods=way.blocking)
    change = replace(way.change, sharing=sharing)
    if seen.unready and change.takes_away:
        words = f"{wish.layout!r} takes slices away, and waits for the gated models of this node: {seen.unready}"
        return Waiting("model-not-ready", words, change, 60.0)
    if seen.node.annotations.get(labels.DRY_RUN) == "true":
        return Waiting("dry-run", f"dry run of {wish.layout!r}: see annotation {labels.PLAN}", change, 60.0)
    return Plan(change, (Begin(_operation(wish, seen, policy, change, last), _guards(seen)),))


def _called_off(wish: Desired | Unasked, seen: Snapshot, policy: Policy, last: NodeStatus | None) -> Plan | None:
    """A mode that a change of ours left pending for the next reboot, and that nobody asks for any more, goes. It is a way back
    to the mode of now."""
    asked = wish.wishes.keys() | wish.unread if isinstance(wish, Desired) else frozenset()
    ours = reboot.left_by_us(seen, last).keys() - asked
    gpus = {gpu.uuid: gpu for gpu in seen.gpus if gpu.uuid in ours and not gpu.unknown}
    if not gpus or last is None or second_owner(seen) or seen.node.annotations.get(labels.DRY_RUN) == "true":
        return None
    changes = tuple(GpuChange(uuid, gpu.layout, mode=gpu.mig_enabled, in_force=True) for uuid, gpu in gpus.items())
    of_now = {uuid: GpuWish(bool(gpu.mig_enabled)) for uuid, gpu in gpus.items()}
    of = wish if isinstance(wish, Desired) else last
    begun = _operation(Desired(of.layout, of.revision, of_now), seen, policy, Change(changes), last)
    before = {uuid: replace(one, mig_pending=one.mig_enabled) for uuid, one in found(gpus, seen.gpus).items()}
    return Plan(Change(changes), (Begin(replace(begun, before=before, reboot=None), _guards(seen)),))


def _settled(wish: Desired, seen: Snapshot, policy: Policy, memory: Memory) -> Outcome:
    """The hardware is as wished. A node that does not show it has its GPU clients started anew, twice at most: a call of ours
    that came back late may have changed the GPUs behind them, and a change that ended so may not have seen which of them ran."""
    wrong = advertise.not_shown(seen, word(None, seen.node))
    if not wrong:
        return Settled(advertise.applied(seen))
    last = memory.last
    tried = (
        last is not None
        and (last.state, last.reason) == ("failed", "not-advertised")
        and last.attempts >= _MOST_RESTARTS
    )
    asked_only = seen.node.annotations.get(labels.DRY_RUN) == "true"
    if memory.waited("not-advertised", policy.advertise_seconds, seen.now) and not (tried or asked_only):
        later = _not_now(wish, seen, memory, DONE)
        if later is not None:
            return later
        operation = with_clients_paused(seen, _operation(wish, seen, policy, DONE, memory.last), DONE)
        return Plan(DONE, (Begin(operation, _guards(seen)),))
    return Waiting("not-advertised", f"the GPUs have the layout, but the node does not show it: {wrong}")


def _not_now(wish: Desired, seen: Snapshot, memory: Memory, ideal: Change) -> Waiting | None:
    """Reasons to begin later that have nothing to do with who holds which slice."""
    last = memory.last
    upgrade = upgrading(seen.node)
    if upgrade:
        return Waiting("driver-upgrade", f"a driver upgrade runs on this node ({upgrade})", ideal)
    tried = last is not None and last.tried == wish.revision and not reboot.is_another_boot(seen, last)
    if last is not None and tried and (last.next_try or 0.0) > seen.now:
        rest = (last.next_try or 0.0) - seen.now
        why = f" ({last.message})" if last.state == "failed" else ""
        return Waiting("back-off", f"the last attempt failed{why}; the next is in {rest:.0f} s", ideal, rest)
    if seen.owners is None:
        return Waiting("kubelet-unreachable", f"who holds which slice is not known: {seen.owners_error}", ideal)
    return overdue_pods(seen, ideal, memory) or starting_pods(seen, ideal)


def _operation(wish: Desired, seen: Snapshot, policy: Policy, change: Change, last: NodeStatus | None) -> Operation:
    """The record that begins a change. Where no pod has to move, clients are paused in the same write; a change of sharing
    alone (see Note [A change of sharing]) stops none. What earlier operations could not put back, a failure of this one leads
    back to."""
    changed = {gpu.gpu for gpu in change.gpus if not gpu.empty}
    owed = last.owed if last is not None and (last.tried, last.owed_in) == (wish.revision, seen.node.boot_id) else {}
    mode = any(gpu.mode is not None for gpu in change.gpus)
    # What we left pending for an earlier wish is not how the GPU was found.
    ours = reboot.left_by_us(seen, last)
    operation = Operation(
        id=f"{wish.revision}-{int(seen.now)}",
        revision=wish.revision,
        layout=wish.layout,
        boot_id=seen.node.boot_id,
        started=seen.now,
        cordoned=not seen.node.unschedulable,
        before={
            uuid: owed[uuid]
            if uuid in owed and uuid in changed
            else (replace(one, mig_pending=one.mig_enabled) if uuid in ours else one)
            for uuid, one in found(wish.wishes, seen.gpus).items()
        },
        annotations={key: seen.node.annotations.get(key) for key in labels.AUTOSCALER_GUARDS},
        clients=tuple(sorted(pod.ref.uid for pod in client_pods(seen, mode))),
        plugin_config=config_on(seen.node),
        plugin=advertise.has_plugin(seen),
        driver=advertise.has_driver(seen),
        reboot=reboot.remembered(wish, last),
        strangers={
            gpu.uuid: tuple(sorted(there))
            for gpu in seen.gpus
            if not gpu.unknown and (there := holdings(gpu, seen, policy.drain, None).strangers)
        },
    )
    return operation if change.moves or change.empty else with_clients_paused(seen, operation, change)


def _guards(seen: Snapshot) -> tuple[tuple[str, str], ...]:
    return tuple((k, v) for k, v in labels.AUTOSCALER_GUARDS.items() if seen.node.annotations.get(k) != v)
