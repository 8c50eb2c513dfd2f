"""Who holds a slice, and which of them may be moved.

# Note [The server of MPS]
# Under MPS the GPU is held by a server, a process that no pod of PodResources is known to be. It stays when its last client has
# gone, and ends with the control daemon, which GPU Operator runs where the device plugin runs. So where the plugin can be
# stopped by its label the server is none of those in the way: it ends when the clients are paused, and the change of mode is
# tried until then. Where the plugin cannot be stopped so, the server blocks before any pod is moved.

# Note [Two witnesses]
# The kubelet says which pod was given a device, the kernel in which pod a process runs that NVML shows there. Either makes a
# holder: a pod may have a GPU that no device plugin gave it (DRA, NVIDIA_VISIBLE_DEVICES=all, privileged), and two may be on
# one slice. Where the kernel cannot be asked, the processes on a slice count as those of the pods that the kubelet lists for
# it; with no pod listed they block, and the sentence says what the agent lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from agent.model.labels import DEVICE_PLUGIN, EVICT, SAFE_TO_EVICT
from agent.model.mig import Gpu, GpuProcess, Layout, Part
from agent.model.node import Budget, DeviceOwner, Pod, PodRef
from agent.model.operation import Operation
from agent.model.report import PodWorkload, WaitedFor
from agent.model.snapshot import Snapshot
from agent.plan.advertise import not_offered
from agent.plan.clients import is_paused_by_label
from agent.plan.placement import Tenants


@dataclass(frozen=True, slots=True)
class DrainPolicy:
    """What may be evicted without asking, in kubectl's classes. The cluster autoscaler's pod annotation ``safe-to-evict``
    overrides it, and ``warmslice.dev/evict`` both. ``spares_jobs``: pods of a Job are left to their end for now."""

    unmanaged: bool = False
    disk_scratch: bool = False
    spares_jobs: bool = False


@dataclass(frozen=True, slots=True)
class Holdings:
    """The holders of one GPU, and for each slice that cannot be freed who is in the way and why; ``immovable`` are the pods of
    these, by slice (None: of the GPU as a whole). ``strangers`` are the slices of those that no pod of the API server accounts
    for."""

    tenants: Tenants
    reasons: Mapping[Part, tuple[str, ...]] = field(default_factory=dict)
    strangers: frozenset[Part] = frozenset()
    immovable: Mapping[Part | None, frozenset[PodRef]] = field(default_factory=dict)


def holdings(gpu: Gpu, seen: Snapshot, policy: DrainPolicy, operation: Operation | None) -> Holdings:
    """Who holds what on this GPU: owners of devices by the kubelet, joined with the processes that NVML shows.

    A process outside every pod, or a pod that only the kubelet still knows, makes its slice fixed. In an operation it is what
    an evicted pod leaves behind for a moment, and the change waits for it; but one that was there when the operation began
    is none of that, and its slice stays fixed.
    """
    midway = operation is not None
    begun_with = frozenset(operation.strangers.get(gpu.uuid, ())) if operation is not None else frozenset[Part]()
    found: set[Part] = set()
    census = _Census(seen, policy)
    movable: dict[Part, frozenset[PodRef]] = {}
    fixed: dict[Part, tuple[str, ...]] = {}
    leaving: dict[Part, tuple[str, ...]] = {}
    immovable: dict[Part | None, frozenset[PodRef]] = {}
    for part, compute, device in _slices(gpu):
        there = census.holders(device, _processes(gpu, *compute), whole=False)
        if there.strangers:
            found.add(part)
        stays = () if midway and part not in begun_with else there.strangers
        goes = there.ending if stays else there.strangers + there.ending
        if there.pods:
            movable[part] = there.pods
        if there.fixed or stays:
            fixed[part] = there.fixed + stays
            immovable[part] = there.immovable
        if goes:
            leaving[part] = goes
    on_gpu = [process for process in gpu.processes if process.gpu_instance is None and not gpu.mig_enabled]
    undivided = census.holders(gpu.uuid, on_gpu, whole=True)
    tenants = Tenants(
        fixed=frozenset(fixed),
        pods=movable,
        spent=census.spent,
        ending=census.ending,
        whole=undivided.pods,
        whole_fixed=undivided.fixed if midway else undivided.fixed + undivided.strangers,
        leaving=leaving,
        whole_leaving=undivided.strangers + undivided.ending if midway else undivided.ending,
    )
    return Holdings(tenants, fixed, frozenset(found), {**immovable, None: undivided.immovable})


def in_use(gpu: Gpu, seen: Snapshot) -> Layout:
    """The instances that somebody is on: a pod, whether it could be moved or not, or a process."""
    tenants = holdings(gpu, seen, DrainPolicy(), None).tenants
    places = {part.placement for part in (*tenants.fixed, *tenants.pods)}
    return tuple(slot for slot in gpu.layout if slot.placement in places)


def _slices(gpu: Gpu) -> Iterator[tuple[Part, tuple[int, int | None], str]]:
    """(slice, its GPU instance id and compute instance id, MIG UUID); an orphan has no compute instance and no UUID."""
    for instance in gpu.instances:
        if not instance.compute:
            yield Part(instance.placement), (instance.id, None), ""
        for compute in instance.compute:
            yield Part(instance.placement, compute.start), (instance.id, compute.id), compute.uuid


def _processes(gpu: Gpu, instance: int | None, compute: int | None) -> list[GpuProcess]:
    """Processes there. One that names no compute instance may use any of its GPU instance."""
    return [
        process
        for process in gpu.processes
        if process.gpu_instance == instance and (compute is None or process.compute_instance in (None, compute))
    ]


def _is_mps_server(process: GpuProcess) -> bool:
    return process.command.partition(" ")[0].rpartition("/")[2] == "nvidia-cuda-mps-server"


def _in_words(process: GpuProcess) -> str:
    """A process that is in no pod of the API server's."""
    what = f"process {process.pid} ({process.command or 'unknown command'}"
    match process.pod:
        case None:
            return f"{what}), which cannot be seen from here: without hostPID nobody knows whose it is"
        case "":
            return f"{what}{f', user {process.user}' if process.user else ''}) outside any pod"
        case uid:
            return f"{what}) of pod {uid}, which the API server does not know"


@dataclass(frozen=True, slots=True)
class _There:
    """Who is on one device: pods that can be moved, those that cannot and why, those that no pod of the API server accounts
    for, and what finished pods leave behind for a moment."""

    pods: frozenset[PodRef]
    immovable: frozenset[PodRef]
    fixed: tuple[str, ...]
    strangers: tuple[str, ...]
    ending: tuple[str, ...]


class _Census:
    """Who is on this node, looked up by device and by process. See Note [Two witnesses]."""

    def __init__(self, seen: Snapshot, policy: DrainPolicy) -> None:
        self._seen = seen
        self._policy = policy
        self._pods = {(pod.ref.namespace, pod.ref.name): pod for pod in seen.pods}
        self._by_uid = {pod.ref.uid: pod for pod in seen.pods}
        self._owners = _owners_by_device(seen)
        self._anywhere = [
            f"{owner.namespace}/{owner.name} (it has {', '.join(owner.claimed)} by a claim; which slice that is is not known)"
            for owner in seen.owners or ()
            if (owner.namespace, owner.name) not in self._pods and _may_be_any(owner, seen)
        ]
        self.spent = frozenset(
            pod.ref for pod in seen.pods if any(budget.disruptions_allowed < 1 for budget in _covering(pod, seen))
        )
        self.ending = frozenset(pod.ref for pod in seen.pods if pod.terminating)

    def holders(self, device: str, processes: Iterable[GpuProcess], *, whole: bool) -> _There:
        """Whoever has the device by the kubelet or runs a process there; ``whole``: it is a GPU that is not divided."""
        names = sorted(self._owners.get(device, ()))
        pods = {pod.ref: pod for name in names if (pod := self._pods.get(name)) is not None and not pod.finished}
        ghosts = [name for name in names if name not in self._pods]
        strangers = [f"{'/'.join(name)} (the kubelet lists it, the API server does not)" for name in ghosts]
        strangers += self._anywhere
        ending = []
        for process in processes:
            pod = self._by_uid.get(process.pod or "")
            if self._ends_with_the_clients(process, pod, whole=whole):
                continue
            if pod is not None and pod.finished:
                ending.append(f"process {process.pid} of {pod.ref}, which has finished")
            elif pod is not None:
                pods[pod.ref] = pod
            elif process.pod is None and (pods or ghosts) and not _is_mps_server(process):
                continue
            elif not (process.pod and ghosts):
                strangers.append(_in_words(process))
        why = {ref: _why_fixed(pods[ref], self._seen, self._policy) for ref in sorted(pods)}
        return _There(
            frozenset(ref for ref, reason in why.items() if not reason),
            frozenset(ref for ref, reason in why.items() if reason),
            tuple(reason for reason in why.values() if reason),
            tuple(strangers),
            tuple(ending),
        )

    def _ends_with_the_clients(self, process: GpuProcess, pod: Pod | None, *, whole: bool) -> bool:
        """Whether it is a GPU client's that a change pauses before it touches anything."""
        if _is_mps_server(process):
            # See Note [The server of MPS].
            return self._seen.node.labels.get(DEVICE_PLUGIN, "false") != "false"
        return pod is not None and is_paused_by_label(pod, self._seen.node, mode=whole)


def unlisted(seen: Snapshot) -> tuple[Pod, ...]:
    """Pods bound here that may come to hold any slice: they ask for GPUs and the kubelet has given them nothing yet, or which
    slice they have by a claim is not known."""
    owners = seen.owners or ()
    listed = {(owner.namespace, owner.name) for owner in owners if owner.of_gpus}
    unsure = {(owner.namespace, owner.name) for owner in owners if _may_be_any(owner, seen)}
    return tuple(
        pod
        for pod in seen.pods
        if not pod.finished
        and (
            (pod.ref.namespace, pod.ref.name) in unsure
            or (pod.gpus and not pod.terminating and (pod.ref.namespace, pod.ref.name) not in listed)
        )
    )


def _may_be_any(owner: DeviceOwner, seen: Snapshot) -> bool:
    """Whether nobody can say which slice this is. Where all that is there is offered, a claim on another one is on one that is
    not there: as after a reboot, when pods wait for the slices that they had."""
    return owner.unread or (bool(owner.claimed) and bool(not_offered(seen.offers, seen.gpus)))


def in_the_way(refs: Iterable[PodRef], seen: Snapshot) -> str:
    """Pods that have to go and are here still, with what a person needs to see to it: owner and budgets."""
    known = {pod.ref: pod for pod in seen.pods}
    return "; ".join(_with_ties(known[ref], seen) if ref in known else str(ref) for ref in sorted(refs))


def waited_for(refs: Iterable[PodRef], seen: Snapshot) -> tuple[WaitedFor, ...]:
    """The same for programs, once for each budget."""
    known = {pod.ref: pod for pod in seen.pods}
    return tuple(
        WaitedFor(ref.namespace, ref.name, f"{pod.owner_kind}/{pod.owner_name}" if pod.owner_kind else "", budget)
        for ref in sorted(refs)
        if (pod := known.get(ref)) is not None
        for budget in [one.name for one in _covering(pod, seen)] or [""]
    )


def workloads_of_holders(seen: Snapshot) -> tuple[PodWorkload, ...]:
    """Of the pods that have GPUs or slices by the kubelet's word, what they belong to."""
    holding = {(owner.namespace, owner.name) for owner in seen.owners or () if owner.of_gpus}
    return tuple(
        PodWorkload(pod.ref.namespace, pod.ref.name, *pod.workload)
        for pod in sorted(seen.pods, key=lambda pod: pod.ref)
        if (pod.ref.namespace, pod.ref.name) in holding and not pod.finished
    )


def _with_ties(pod: Pod, seen: Snapshot) -> str:
    ties = [f"{pod.owner_kind} {pod.owner_name}" if pod.owner_kind else "no controller"]
    ties += [f"budget {budget.name} allows {budget.disruptions_allowed}" for budget in _covering(pod, seen)]
    ties += ["it is ending"] if pod.terminating else []
    return f"{pod.ref} ({', '.join(ties)})"


def _owners_by_device(seen: Snapshot) -> dict[str, set[tuple[str, str]]]:
    """UUID of a device to the pods that have it."""
    found: dict[str, set[tuple[str, str]]] = {}
    for owner in seen.owners or ():
        for uuid in owner.uuids:
            found.setdefault(uuid, set()).add((owner.namespace, owner.name))
    return found


def _covering(pod: Pod, seen: Snapshot) -> Iterable[Budget]:
    return (budget for budget in seen.budgets if budget.covers(pod))


def _why_fixed(pod: Pod, seen: Snapshot, policy: DrainPolicy) -> str:
    """Why this pod cannot be moved, beginning with its name; empty when it can."""
    where = str(pod.ref)
    owner = f"{pod.owner_kind} {pod.owner_name}: " if pod.owner_kind else ""
    if pod.terminating:
        return ""
    wish = pod.annotations.get(EVICT)
    names = [budget.name for budget in _covering(pod, seen)]
    if pod.mirror:
        return f"{where} (static pod)"
    if pod.owner_kind == "DaemonSet":
        return f"{where} (DaemonSet {pod.owner_name}: it would come straight back)"
    if pod.ref.namespace == "kube-system":
        return f"{where} ({owner}namespace kube-system)"
    if wish in ("false", "wait"):
        return f"{where} ({owner}annotation {EVICT}={wish}{': until it ends by itself' if wish == 'wait' else ''})"
    if len(names) > 1:
        return f"{where} ({owner}two disruption budgets, {names[0]} and {names[1]}: the eviction API refuses that)"
    if wish == "true":
        return ""
    safe = pod.annotations.get(SAFE_TO_EVICT)
    if safe == "false":
        return f"{where} ({owner}annotation {SAFE_TO_EVICT}=false; allow with {EVICT}=true)"
    if not pod.owner_kind and not policy.unmanaged and safe != "true":
        return f"{where} (no controller would start it again; allow with {EVICT}=true)"
    if pod.disk_scratch and not policy.disk_scratch and safe != "true":
        return f"{where} ({owner}emptyDir data on disk would be lost; allow with {EVICT}=true)"
    if pod.owner_kind == "Job" and policy.spares_jobs:
        return f"{where} (Job {pod.owner_name})"
    return ""
