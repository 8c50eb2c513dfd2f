"""Who holds a slice, and which of them may be moved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.model.labels import EVICT
from agent.model.mig import Gpu, Placement
from agent.model.node import Budget, Pod, PodRef
from agent.model.snapshot import Snapshot
from agent.plan.geometry import Tenants


@dataclass(frozen=True, slots=True)
class DrainPolicy:
    """What may be evicted without asking, in kubectl's classes; the pod annotation ``warmslice.dev/evict`` overrides it."""

    unmanaged: bool = False
    disk_scratch: bool = False


@dataclass(frozen=True, slots=True)
class Holdings:
    """The holders of one GPU, and for each placement that cannot be freed who is in the way and why."""

    tenants: Tenants
    reasons: Mapping[Placement, tuple[str, ...]] = field(default_factory=dict)


def holdings(gpu: Gpu, seen: Snapshot, policy: DrainPolicy, midway: bool) -> Holdings:
    """Who holds what on this GPU: owners of devices by the kubelet, joined with the processes that NVML shows.

    A process outside every pod makes its slice fixed, except midway: then it is what an evicted pod leaves behind for a
    moment, and the change waits for it.
    """
    pods = {(pod.ref.namespace, pod.ref.name): pod for pod in seen.pods if not pod.finished}
    spent = frozenset(pod.ref for pod in pods.values() if any(b.disruptions_allowed < 1 for b in _covering(pod, seen)))
    movable: dict[Placement, set[PodRef]] = {}
    reasons: dict[Placement, list[str]] = {}
    whole: set[PodRef] = set()
    whole_reasons: list[str] = []
    owners = _owners_by_device(seen)
    for instance in gpu.instances:
        devices = [compute.uuid for compute in instance.compute]
        held_by = {owner for device in devices for owner in owners.get(device, ())}
        for name in sorted(held_by):
            pod = pods.get(name)
            why = _why_fixed(name, pod, seen, policy)
            if why or pod is None:
                reasons.setdefault(instance.placement, []).append(why)
            else:
                movable.setdefault(instance.placement, set()).add(pod.ref)
        strangers = [p for p in gpu.processes if p.gpu_instance == instance.id]
        if strangers and not held_by and not midway:
            first = strangers[0]
            text = f"process {first.pid} ({first.command or 'unknown command'}) outside any pod"
            reasons.setdefault(instance.placement, []).append(text)
    for name in sorted(owners.get(gpu.uuid, ())):
        pod = pods.get(name)
        why = _why_fixed(name, pod, seen, policy)
        if why or pod is None:
            whole_reasons.append(why)
        else:
            whole.add(pod.ref)
    tenants = Tenants(
        fixed=frozenset(reasons),
        pods={placement: frozenset(refs) for placement, refs in movable.items()},
        spent=spent,
        whole=frozenset(whole),
        whole_fixed=tuple(whole_reasons),
    )
    return Holdings(tenants, {placement: tuple(texts) for placement, texts in reasons.items()})


def unlisted(seen: Snapshot) -> tuple[Pod, ...]:
    """Pods bound here that ask for GPUs and that the kubelet has given nothing yet: they may come to hold any slice."""
    listed = {(owner.namespace, owner.name) for owner in seen.owners or ()}
    return tuple(
        pod
        for pod in seen.pods
        if pod.gpus and not pod.finished and not pod.terminating and (pod.ref.namespace, pod.ref.name) not in listed
    )


def _owners_by_device(seen: Snapshot) -> dict[str, set[tuple[str, str]]]:
    """Device id (``uuid::n`` without its replica) to the pods that have it."""
    found: dict[str, set[tuple[str, str]]] = {}
    for owner in seen.owners or ():
        for device in owner.devices:
            found.setdefault(device.partition("::")[0], set()).add((owner.namespace, owner.name))
    finished = {(pod.ref.namespace, pod.ref.name) for pod in seen.pods if pod.finished}
    return {device: names - finished for device, names in found.items()}


def _covering(pod: Pod, seen: Snapshot) -> Iterable[Budget]:
    return (budget for budget in seen.budgets if budget.covers(pod))


def _why_fixed(name: tuple[str, str], pod: Pod | None, seen: Snapshot, policy: DrainPolicy) -> str:
    """Why this pod cannot be moved, beginning with its name; empty when it can."""
    where = "/".join(name)
    if pod is None:
        return f"{where} (the kubelet lists it, the API server does not)"
    if pod.terminating:
        return ""
    wish = pod.annotations.get(EVICT)
    names = [budget.name for budget in _covering(pod, seen)]
    if pod.mirror:
        return f"{where} (static pod)"
    if pod.owner_kind == "DaemonSet":
        return f"{where} (DaemonSet {pod.owner_name}: it would come straight back)"
    if pod.ref.namespace == "kube-system":
        return f"{where} (namespace kube-system)"
    if wish in ("false", "wait"):
        return f"{where} (annotation {EVICT}={wish})"
    if len(names) > 1:
        return f"{where} (two disruption budgets, {names[0]} and {names[1]}: the eviction API refuses that)"
    if wish == "true":
        return ""
    if not pod.owner_kind and not policy.unmanaged:
        return f"{where} (no controller would start it again; allow with {EVICT}=true)"
    if pod.disk_scratch and not policy.disk_scratch:
        return f"{where} (emptyDir data on disk would be lost; allow with {EVICT}=true)"
    return ""
