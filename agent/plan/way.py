"""What a decision about the layout is made from beside the world, and the way from what is to what is wished."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from agent.model.mig import Gpu, GpuWish, Part
from agent.model.node import Pod, PodRef
from agent.model.operation import Operation
from agent.model.report import NodeStatus
from agent.model.snapshot import Snapshot
from agent.model.steps import Change, Waiting
from agent.plan.drain import DrainPolicy, Holdings, holdings, unlisted
from agent.plan.placement import Ask, Tenants, choose, moves, not_free, solve

_LONGEST_ADMISSION_SECONDS = 30.0
"""A kubelet gives devices when it admits a pod, before it pulls images; this is many times what that takes."""

DONE = Change(())
"""Nothing is left to change on the hardware."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What an administrator may set about a change. ``wait_for_jobs_seconds`` is how long pods of Jobs are waited for before they
    are moved; ``drain_seconds`` is how long pods have to go, 0 for as long as they take. ``prepares``: there are commands that
    come before a change, ``refreshes``: some that come after it. ``reboots``: there is a command that reboots the machine, which
    has gone ``reboot_seconds`` later at the latest."""

    drain: DrainPolicy = field(default_factory=DrainPolicy)
    wait_for_jobs_seconds: float = 0.0
    drain_seconds: float = 3600.0
    clients_stop_seconds: float = 60.0
    patience_seconds: float = 300.0
    advertise_seconds: float = 300.0
    prepares: bool = False
    refreshes: bool = False
    reboots: bool = False
    reboot_seconds: float = 600.0

    def sparing_jobs(self, spared: bool) -> Policy:
        """The same, with pods of Jobs left to their end, or moved as any."""
        return replace(self, drain=replace(self.drain, spares_jobs=spared))


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known besides the world of now: the journal, the status last written (for back-off), and since when (seconds
    since the epoch) this process has been waiting for what, and for which pods that are about to take a slice. The last two are
    lost with the process; then the wait begins anew.
    """

    operation: Operation | None = None
    last: NodeStatus | None = None
    waits_for: str = ""
    waits_since: float = 0.0
    waits_message: str = ""
    starting: Mapping[PodRef, float] = field(default_factory=dict)

    def waited_for_jobs(self, revision: str, seconds: float, now: float) -> bool:
        """Whether that wish has waited that long for pods of Jobs."""
        jobs = self.last.jobs if self.last is not None else None
        return jobs is not None and jobs.revision == revision and now - jobs.since >= seconds

    def waited(self, reason: str, seconds: float, now: float) -> bool:
        """Whether this has been waited for that long."""
        return self.waits_for == reason and now - self.waits_since >= seconds


@dataclass(frozen=True, slots=True)
class Way:
    """How to get to some wishes, or who stands in the way (``blockers``, one name and reason each; ``blocking`` are the pods).

    ``not_free`` is, by GPU, what is still on slices that have to go, though nobody is left to move. ``wishes`` are those it
    leads to.
    """

    change: Change
    blockers: tuple[str, ...] = ()
    blocking: tuple[PodRef, ...] = ()
    not_free: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    wishes: Mapping[str, GpuWish] = field(default_factory=dict)


def way_to(wishes: Mapping[str, GpuWish], seen: Snapshot, policy: Policy, operation: Operation | None) -> Way:
    """The change of every GPU named; GPUs that could not be read, or are given up, are left out."""
    left_out = operation.given_up if operation is not None else {}
    asked = [gpu for gpu in seen.gpus if gpu.uuid in wishes and not gpu.unknown and gpu.uuid not in left_out]
    held = {gpu.uuid: holdings(gpu, seen, policy.drain, operation) for gpu in asked}
    choice = choose([Ask(gpu, wishes[gpu.uuid], held[gpu.uuid].tenants) for gpu in asked])
    tenants = [(change, held[change.gpu].tenants) for change in choice.changes]
    moved = frozenset[PodRef]().union(*(moves(change, them) for change, them in tenants))
    stuck = [_in_the_way(ask.gpu, ask.wish, held[ask.gpu.uuid]) for ask in choice.stuck]
    return Way(
        Change(choice.changes, tuple(sorted(moved)), choice.exact),
        tuple(name for names, _ in stuck for name in names),
        tuple(sorted(frozenset[PodRef]().union(*(pods for _, pods in stuck)))),
        {change.gpu: names for change, them in tenants if (names := not_free(change, them))},
        wishes,
    )


def occupants(
    wishes: Mapping[str, GpuWish], seen: Snapshot, policy: Policy, operation: Operation
) -> tuple[tuple[str, str], ...]:
    """Who is on each GPU, "" for nobody: then it may be reset with another one, for what it loses comes back."""
    ours = {uuid: wish for uuid, wish in wishes.items() if uuid not in operation.given_up}
    return tuple((gpu.uuid, _occupant(gpu, ours.get(gpu.uuid), seen, policy, operation)) for gpu in seen.gpus)


def _occupant(gpu: Gpu, wish: GpuWish | None, seen: Snapshot, policy: Policy, operation: Operation) -> str:
    if gpu.unknown:
        return f"GPU {gpu.index} cannot be read"
    held = holdings(gpu, seen, policy.drain, operation)
    tenants = held.tenants
    pods = sorted(tenants.whole.union(*tenants.pods.values()))
    names = [*map(str, pods), *tenants.whole_fixed, *tenants.whole_leaving]
    names += [text for texts in (*held.reasons.values(), *tenants.leaving.values()) for text in texts]
    names += [] if names else [f"process {process.pid}" for process in gpu.processes]
    if not names and gpu.instances and wish is None:
        names = ["slices that no wish would bring back"]
    if not names and wish is None and gpu.mig_pending != gpu.mig_enabled:
        names = ["a pending MIG mode that the reset would bring, and that is not ours"]
    return f"GPU {gpu.index} has {', '.join(names)}" if names else ""


def _in_the_way(gpu: Gpu, wish: GpuWish, held: Holdings) -> tuple[list[str], frozenset[PodRef]]:
    """Those whose leaving alone would open a way, in words, and the pods of these; all of them where none alone would."""
    alone: list[Part | None] = []
    for part in sorted(held.reasons):
        without: Tenants = replace(held.tenants, fixed=held.tenants.fixed - {part})
        if solve(gpu, wish, without) is not None:
            alone.append(part)
    parts = alone or [*sorted(held.reasons), None]
    texts = [text for part in parts for text in (held.tenants.whole_fixed if part is None else held.reasons[part])]
    pods = frozenset[PodRef]().union(*(held.immovable.get(part, frozenset()) for part in parts))
    return [f"{text} on GPU {gpu.index}" for text in texts], pods


def starting_pods(seen: Snapshot, change: Change) -> Waiting | None:
    """Wait for pods that may come to hold any slice; None where there are none."""
    starting = unlisted(seen)
    if not starting:
        return None
    names = ", ".join(str(pod.ref) for pod in starting)
    return Waiting(
        "pod-starting", f"bound to this node and about to take a slice: {names}", change, 2.0, _refs(starting)
    )


def overdue_pods(seen: Snapshot, change: Change, memory: Memory) -> Waiting | None:
    """Pods that the kubelet gives nothing for longer than admitting one takes: they may come to hold any slice, or never."""
    overdue = [
        pod for pod in unlisted(seen) if seen.now - memory.starting.get(pod.ref, seen.now) >= _LONGEST_ADMISSION_SECONDS
    ]
    if not overdue:
        return None
    names = ", ".join(f"{pod.ref}{_by_claims(pod, seen)}" for pod in overdue)
    words = f"bound to this node and asking for a GPU, but known to have none for {_LONGEST_ADMISSION_SECONDS:.0f} s"
    return Waiting("blocked", f"{words}, so they may take any slice: {names}", change, pods=_refs(overdue))


def _refs(pods: Iterable[Pod]) -> tuple[PodRef, ...]:
    return tuple(pod.ref for pod in pods)


def _by_claims(pod: Pod, seen: Snapshot) -> str:
    """The devices that it has by claims and that nobody can name, in words."""
    owners = [
        owner for owner in seen.owners or () if (owner.namespace, owner.name) == (pod.ref.namespace, pod.ref.name)
    ]
    claimed = sorted({name for owner in owners for name in owner.claimed})
    unread = sorted({owner.claim for owner in owners if owner.unread})
    words = [f"no ResourceSlice of this node has its {', '.join(claimed)}"] if claimed else []
    words += [f"what it has by {', '.join(unread)} cannot be read"] if unread else []
    return f" ({'; '.join(words)})" if words else ""


def gpu_unknown(unread: tuple[Gpu, ...]) -> Waiting:
    """Nothing can be concluded while these do not answer."""
    return Waiting("gpu-unknown", "; ".join(f"GPU {gpu.index} cannot be read: {gpu.unknown}" for gpu in unread))
