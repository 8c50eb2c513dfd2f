"""One GPU node in memory: node object, pods, kubelet, device plugin and GPUs, behind the agent's own doors.

It keeps the rules that matter to a change: merge patches with 409 on a stale version, budgets, overlap, IN_USE, a device
plugin that reads the GPUs once at its start, pods that take a turn to end. Time passes only in ``tick``. ``kill`` makes the
n-th effect the last one, before or after it (or in the middle of a create), as `kill -9` would; ``faults`` make effects fail
there.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

from agent.execute.partition import Hands
from agent.model import labels
from agent.model.errors import (
    AgentError,
    BudgetError,
    ConflictError,
    GoneError,
    HardwareError,
    InUseError,
    RebootError,
    RetryError,
)
from agent.model.mig import ComputeInstance, Gpu, GpuInstance, GpuProcess, Placement, Profile, Shape, Slot, arrange
from agent.model.node import DRA_DRIVER, Boot, DeviceOwner, Origin, PodRef
from agent.model.report import PartitionReport
from agent.model.sharing import Sharing, named_by
from agent.model.steps import Step
from agent.observe.claims import Claims
from agent.observe.paper import gpu_on_paper, instance_on_paper
from agent.observe.world import World
from agent.plan.way import Policy
from agent.reconcile.fleet import NoSlots, Slots
from agent.reconcile.partition import PartitionPass, Rules

Moment = Literal["before", "after", "middle"]


class Killed(BaseException):
    """The agent's process ends here."""


@dataclass
class Kill:
    """Which effect is the last."""

    number: int
    moment: Moment


@dataclass(eq=False)
class Fault:
    """The next ``times`` effects of these names fail with such an error; after they have happened, their answer is lost.
    ``first``: those before that number do not. Two that say the same are still two: each is used up by itself."""

    names: frozenset[str]
    error: type[AgentError]
    moment: Moment = "before"
    times: int = 1
    first: int = 0


class Effects:
    """Counts what reaches the world, and ends the agent at the chosen one. ``then``: what happens in the world right after an
    effect of that name. ``witness`` sees each effect, and what it is about, before it happens."""

    def __init__(self) -> None:
        self.kill: Kill | None = None
        self._died_of: Kill | None = None
        self.faults: list[Fault] = []
        self.then: dict[str, Callable[[], None]] = {}
        self.names: list[str] = []
        self.witness: Callable[[str, tuple[Any, ...]], None] = lambda name, about: None
        self._fault: Fault | None = None
        self._begun = False

    def happen(self, name: str, act: Callable[[], Any], *about: Any) -> Any:
        """One effect."""
        self.witness(name, about)
        number = len(self.names)
        self.names.append(name)
        if self.kill is not None and self._died_of is self.kill:
            # What else this process was about to do, it does not do either.
            raise Killed
        self._last_moment(number, "before")
        self._fault = next((f for f in self.faults if name in f.names and f.times and number >= f.first), None)
        try:
            self._fail("before", count=True)
            self._begun = True
            result = act()
            self.then.get(name, _nothing)()
            self._fail("after", "middle")
            return result
        finally:
            self._begun = False
            self._last_moment(number, "after")

    def middle(self) -> None:
        """Inside the effect that began last. What happens late, when nobody waits for it any more, is inside none."""
        if not self._begun:
            return
        self._last_moment(len(self.names) - 1, "middle")
        self._fail("middle")

    def _last_moment(self, number: int, moment: Moment) -> None:
        if self.kill is not None and (self.kill.number, self.kill.moment) == (number, moment):
            self._died_of = self.kill
            raise Killed

    def _fail(self, *moments: Moment, count: bool = False) -> None:
        if self._fault is None:
            return
        self._fault.times -= count
        if self._fault.moment in moments:
            raise self._fault.error("a fault of the test's making")


def _nothing() -> None:
    return


class MemoryGpus:
    """GPUs with NVML's rules for placements, media engines and use.

    A GPU in ``silent`` does not answer. ``hang``: the next change gets no answer in time, its GPU is silent from then on, and
    the change happens when the GPU ``answers`` again. ``away``: there is no driver. ``shy`` GPUs list their profiles only in
    MIG mode. In a ``guest`` a mode that Ampere switches by reset waits for a reboot; a ``forgetful`` one has lost it then, with
    a ``stubborn`` one it goes on waiting. A reset takes all of a ``board`` of peers, and their instances. So many as
    ``most_at_work`` GPUs were changed at the same time.
    """

    def __init__(self, effects: Effects, gpus: Iterable[Gpu]) -> None:
        self.gpus = {gpu.uuid: gpu for gpu in gpus}
        self.log: list[tuple[str, str, str, str]] = []
        self.failures: dict[tuple[str, str], HardwareError] = {}
        self.silent: set[str] = set()
        self.hang = False
        self.away = self.session = False
        self.shy: set[str] = set()
        self._late: list[tuple[str, Callable[[], None]]] = []
        self._known: set[str] = set()
        self._listed: set[str] = set()
        self.guest = self.forgetful = self.stubborn = False
        self.board: tuple[str, ...] = ()
        self.at_work: set[str] = set()
        self.most_at_work = 0
        self._effects = effects
        self._serial = itertools.count(1)

    async def read(self) -> tuple[Gpu, ...]:
        if self.away:
            raise RetryError("opening NVML: Driver Not Loaded")
        self.session = True
        return tuple(self._as_read(gpu) for gpu in self.gpus.values())

    async def release(self) -> None:
        self.session = False

    async def set_mode(self, gpu: str, enabled: bool, others: Mapping[str, str]) -> None:
        async with self._at_work(gpu):
            self._change("set_mode", gpu, lambda: self._set_mode(gpu, enabled, others), enabled)

    async def destroy(self, gpu: str, placement: Placement, profile: str) -> None:
        async with self._at_work(gpu):
            self._change("destroy", gpu, lambda: self._destroy(gpu, placement, profile), placement, profile)

    async def create(self, gpu: str, placement: Placement, shape: Shape) -> None:
        async with self._at_work(gpu):
            self._change("create", gpu, lambda: self._create(gpu, placement, shape), placement, shape)

    async def trim(self, gpu: str, placement: Placement, profile: str, parts: tuple[Placement, ...]) -> None:
        async with self._at_work(gpu):
            self._change("trim", gpu, lambda: self._trim(gpu, placement, profile, parts), placement, profile, parts)

    @contextlib.asynccontextmanager
    async def _at_work(self, gpu: str) -> AsyncIterator[None]:
        """A call takes its time; meanwhile those about other GPUs are made, and none about this one."""
        assert gpu not in self.at_work, f"two changes of {gpu} at once"
        self.at_work.add(gpu)
        self.most_at_work = max(self.most_at_work, len(self.at_work))
        try:
            await asyncio.sleep(0)
            yield
        finally:
            self.at_work.discard(gpu)

    def answers(self, uuid: str) -> None:
        """A silent GPU is back; what it was asked for meanwhile happens now, if it can."""
        self.silent.discard(uuid)
        late = [act for gpu, act in self._late if gpu == uuid]
        self._late = [(gpu, act) for gpu, act in self._late if gpu != uuid]
        for act in late:
            with contextlib.suppress(AgentError):
                act()

    def restarted(self) -> None:
        """Another process reads from now on: it has not seen what the one before has."""
        self._known.clear()
        self._listed.clear()

    def _as_read(self, gpu: Gpu) -> Gpu:
        if gpu.uuid in self.silent:
            lost = replace(
                gpu, unknown="a call to the driver has not come back", profiles=(), instances=(), processes=()
            )
            if gpu.uuid in self._known:
                return lost
            # It fell silent before its UUID was read, or behind that.
            uuid = gpu.uuid if gpu.index % 2 else f"GPU-unknown-{gpu.index}"
            return Gpu(uuid, gpu.index, "unknown", "", 0, None, None, False, unknown=lost.unknown)
        self._known.add(gpu.uuid)
        if gpu.mig_enabled:
            self._listed.add(gpu.uuid)
        elif gpu.uuid in self.shy - self._listed:
            return replace(gpu, profiles=(), profiles_unknown=True)
        return gpu

    def _change(self, name: str, uuid: str, act: Callable[[], None], *about: Any) -> None:
        def answered() -> None:
            if self.hang and uuid not in self.silent:
                self.hang = False
                self.silent.add(uuid)
                self._late.append((uuid, act))
            if uuid in self.silent:
                raise RetryError(f"GPU {uuid}: a call to the driver has not come back")
            act()

        self._effects.happen(name, answered, uuid, *about)

    def _set_mode(self, uuid: str, enabled: bool, others: Mapping[str, str]) -> None:
        """Before Hopper the mode is in force after a reset only, and that needs a GPU that nobody uses."""
        gpu = self.gpus[uuid]
        if gpu.mig_enabled != enabled:
            if gpu.instances or (gpu.processes and gpu.resetless):
                raise InUseError("the GPU is in use")
            if not gpu.resetless:
                self.gpus[uuid] = replace(gpu, mig_pending=enabled)
                self._effects.middle()
                if self.guest:
                    raise RebootError(f"GPU {uuid}: pending until this machine reboots")
                if gpu.processes:
                    raise InUseError("nvidia-smi --gpu-reset: In use by another client")
            self.log.append(("mode", uuid, "on" if enabled else "off", ""))
            self._reset_peers(uuid, others)
        self.gpus[uuid] = replace(gpu, mig_enabled=enabled, mig_pending=enabled)

    def _reset_peers(self, uuid: str, others: Mapping[str, str]) -> None:
        peers = [peer for peer in self.board if peer != uuid]
        if any(others[peer] for peer in peers):
            raise HardwareError(f"only together: {'; '.join(others[peer] for peer in peers if others[peer])}")
        for peer in peers:
            assert not self.gpus[peer].processes, "nobody resets a GPU under a process"
            self.gpus[peer] = replace(self.gpus[peer], instances=(), mig_enabled=self.gpus[peer].mig_pending)

    def _destroy(self, uuid: str, placement: Placement, profile: str) -> None:
        gpu = self.gpus[uuid]
        found = [i for i in gpu.instances if (i.placement, i.profile) == (placement, profile)]
        if not found:
            return
        if any(process.gpu_instance == found[0].id for process in gpu.processes):
            raise InUseError("a process uses the slice")
        self.log.append(("destroy", uuid, profile, str(placement)))
        self.gpus[uuid] = replace(gpu, instances=tuple(i for i in gpu.instances if i is not found[0]))

    def _create(self, uuid: str, placement: Placement, shape: Shape) -> None:
        failure = self.failures.get((shape.profile, str(placement)))
        if failure is not None:
            raise failure
        gpu = self.gpus[uuid]
        profile = gpu.profile(shape.profile)
        if not gpu.mig_enabled or profile is None or placement not in profile.placements:
            raise HardwareError("invalid argument")
        there = [i for i in gpu.instances if (i.placement, i.profile) == (placement, shape.profile)]
        if not there:
            names = [i.profile for i in gpu.instances]
            if any(i.placement.overlaps(placement) for i in gpu.instances) or not media_left(names, shape.profile):
                raise HardwareError("insufficient resources")
            there = [GpuInstance(next(self._serial), shape.profile, placement)]
            self.log.append(("create", uuid, shape.profile, str(placement)))
            self.gpus[uuid] = replace(gpu, instances=tuple(sorted((*gpu.instances, there[0]), key=_by_placement)))
        self._effects.middle()
        self._fill(uuid, there[0], shape, profile)

    def _fill(self, uuid: str, there: GpuInstance, shape: Shape, profile: Profile) -> None:
        """What is there already stays."""
        fresh = instance_on_paper(next(self._serial), Slot(there.placement, shape), profile)
        missing = Counter(one.slices for one in fresh.compute)
        missing.subtract(one.slices for one in there.compute)
        assert min(missing.values()) >= 0, "nobody asks for less than there is"
        widths = sorted(missing.elements(), reverse=True)
        rooms = fresh.rooms or (fresh.compute[0].placement,)
        places = arrange(widths, rooms, [one.placement for one in there.compute])
        if places is None:
            raise HardwareError("insufficient resources")
        ids = itertools.count(max((one.id for one in there.compute), default=-1) + 1)
        made = tuple(
            ComputeInstance(next(ids), place.size, not shape.compute, f"MIG-{next(self._serial)}", place.start)
            for place in places
        )
        self._replace(uuid, replace(there, compute=(*there.compute, *made), rooms=fresh.rooms))

    def _trim(self, uuid: str, placement: Placement, profile: str, parts: tuple[Placement, ...]) -> None:
        gpu = self.gpus[uuid]
        found = next((i for i in gpu.instances if (i.placement, i.profile) == (placement, profile)), None)
        if found is None:
            return
        gone = [one for one in found.compute if one.placement in parts]
        if any((p.gpu_instance, p.compute_instance) == (found.id, one.id) for p in gpu.processes for one in gone):
            raise InUseError("a process uses the slice")
        self.log += [("destroy", uuid, f"{one.slices}c.{profile}", str(placement)) for one in gone]
        self._replace(uuid, replace(found, compute=tuple(one for one in found.compute if one not in gone)))

    def _replace(self, uuid: str, instance: GpuInstance) -> None:
        gpu = self.gpus[uuid]
        instances = tuple(instance if one.id == instance.id else one for one in gpu.instances)
        self.gpus[uuid] = replace(gpu, instances=instances)

    def set_processes(self, uuid: str, processes: tuple[GpuProcess, ...]) -> None:
        """Replace who runs on a GPU."""
        self.gpus[uuid] = replace(self.gpus[uuid], processes=processes)


class GpusWithoutNvml(MemoryGpus):
    """For a whole agent: there is no NVML that its telemetry could ask."""

    async def on_reader(self, about: str, function: Callable[[], object]) -> NoReturn:
        raise RetryError("no driver")

    def before_closing(self, let_go: Callable[[], None]) -> None:
        """There is no session either."""


def media_left(there: Iterable[str], profile: str) -> bool:
    """Whether the media engines allow an instance of that profile beside those: one ``+me`` has what it needs of them,
    ``+me.all`` has them all, and then only those that ask for none (``-me``) can be there."""
    names = [*there, profile]
    if any(name.endswith("+me.all") for name in names):
        return sum(not name.endswith("-me") for name in names) == 1
    return sum(name.endswith("+me") for name in names) <= 1


def _by_placement(instance: GpuInstance) -> Placement:
    return instance.placement


class NodeWorld:
    """The node and everything around it. ``devices`` maps a pod's UID to the device that it holds, ``further`` to more of them.
    By UID too: ``idle`` pods run no process on what they hold; ``grace`` is how many seconds a pod takes to end, and
    ``remains`` for how many seconds more its process stays.

    ``ghosts`` are pods with their devices that only the kubelet still lists, ``strangers`` processes outside every pod, by
    GPU. ``unlisted`` pods, by UID, have their devices past the kubelet: only what runs there shows it; ``blind``: the kernel
    cannot be asked in which pod that is. ``freeze_plugin``: the device plugin runs and tells nothing. ``slow_daemonset``:
    nobody starts its next pod. ``lacking``: entries that
    the plugin's ConfigMap has not; it has every other of ours. ``foreign``: replicas by resource of the other entries there.
    ``on_reboot_command`` is what the hook does: the machine goes a moment after it.

    ``dra``: NVIDIA's DRA driver offers the GPUs, and no device plugin runs. Pods have their devices by claims then, of which
    the kubelet tells unless it is ``old``; ``wiped``: the ResourceSlices are gone.
    """

    def __init__(
        self,
        *gpus: Gpu,
        deploy_labels: bool = True,
        plugin: bool = True,
        strategy: str = "",
        name: str = "gpu-1",
        dra: bool = False,
    ) -> None:
        self.old = self.wiped = False
        self.claimed: dict[str, str] = {}
        self._dra = dra
        self._offered: dict[str, tuple[str, str]] = {}
        self.effects = Effects()
        self.gpus = MemoryGpus(self.effects, gpus)
        self.time = 1_000_000.0
        self.boot = Boot("boot-1", 900_000.0)
        self.events: list[dict[str, Any]] = []
        self.node_writes: list[dict[str, Any]] = []
        self.pods: dict[str, dict[str, Any]] = {}
        self.devices: dict[str, str] = {}
        self.further: dict[str, tuple[str, ...]] = {}
        self.idle: set[str] = set()
        self.grace: dict[str, float] = {}
        self.remains: dict[str, float] = {}
        self._ends: dict[str, float] = {}
        self._remaining: list[tuple[str, str, float]] = []
        self.unlisted: set[str] = set()
        self.blind = False
        self._pids: dict[str, int] = {}
        self.budgets_list: list[dict[str, Any]] = []
        self.reports: list[PartitionReport] = []
        self.counts = NoCounts()
        self.kubelet_down = False
        self.budgets_down = False
        self.layouts_file = str(Path(__file__).parents[1] / "data" / "no_layouts.yaml")
        self.freeze_plugin = False
        self.slow_daemonset = False
        self.services_run = True
        self.on_reboot_command: Callable[[], None] = self._go_soon
        self._going = False
        self.ghosts: list[tuple[dict[str, Any], str]] = []
        self.strangers: dict[str, tuple[GpuProcess, ...]] = {}
        self._serial = itertools.count(1)
        self._plugin = plugin and not dra
        self._plugin_sees: tuple[str, dict[str, int]] | None = None
        self._plugin_config = ""
        self.lacking: set[str] = set()
        self.foreign: dict[str, dict[str, int]] = {"": {}}
        self.plugin_crashes: list[str] = []
        self._plugin_crashed = False
        deploy = {"nvidia.com/gpu.deploy.dcgm-exporter": "true", **({} if dra else {labels.DEVICE_PLUGIN: "true"})}
        deploy = deploy if deploy_labels else {}
        self.node: dict[str, Any] = {
            "metadata": {
                "name": name,
                "uid": "node-uid",
                "resourceVersion": "1",
                "labels": {
                    "kubernetes.io/hostname": name,
                    **deploy,
                    **({labels.STRATEGY: strategy} if strategy else {}),
                },
                "annotations": {"someone/else": "keep"},
            },
            "spec": {},
            "status": {"allocatable": {}, "capacity": {}, "nodeInfo": {"bootID": "boot-1"}},
        }
        self.tick()

    # -- what the agent writes ------------------------------------------------------------------------------------

    async def patch_node(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        assert name == self.node["metadata"]["name"]
        node: dict[str, Any] = self.effects.happen("patch", lambda: self._patch(patch), patch)
        return node

    async def evict(self, pod: PodRef) -> None:
        self.effects.happen("evict", lambda: self._evict(pod), pod)

    async def delete_pod(self, pod: PodRef) -> None:
        self.effects.happen("delete", lambda: self._delete(pod), pod)

    async def create_event(self, namespace: str, event: dict[str, Any]) -> None:
        assert namespace == "default"
        if any(event["metadata"]["name"] == other["metadata"]["name"] for other in self.events):
            raise ConflictError("AlreadyExists")
        self.events.append(event)

    async def prepare(self) -> None:
        self.effects.happen("prepare", lambda: setattr(self, "services_run", False))

    async def refresh(self) -> None:
        self.effects.happen("refresh", lambda: setattr(self, "services_run", True))

    async def run_reboot_command(self) -> None:
        self.effects.happen("reboot_command", lambda: self.on_reboot_command())

    # -- what the agent reads -------------------------------------------------------------------------------------

    async def owners(self) -> tuple[DeviceOwner, ...]:
        if self.kubelet_down:
            raise RetryError("PodResources: connection refused")
        return tuple(
            self._owner(uid, p)
            for uid, p in self.pods.items()
            if uid in self.devices and uid not in self.unlisted and not (self.old and uid in self.claimed)
        ) + tuple(
            DeviceOwner(p["metadata"]["namespace"], p["metadata"]["name"], "main", "nvidia.com/gpu", (device,))
            for p, device in self.ghosts
        )

    def _owner(self, uid: str, pod: dict[str, Any]) -> DeviceOwner:
        namespace, name = pod["metadata"]["namespace"], pod["metadata"]["name"]
        if uid in self.claimed:
            device = f"{self.node['metadata']['name']}/{self.claimed[uid]}"
            return DeviceOwner(namespace, name, "main", DRA_DRIVER, claim=name, claimed=(device,))
        return DeviceOwner(namespace, name, "main", "nvidia.com/gpu", self.devices_of(uid))

    async def slices(self) -> tuple[dict[str, Any], ...] | None:
        """ResourceSlices of the node; one device each is as good as all in one."""
        if self.wiped:
            return ()
        node = self.node["metadata"]["name"]
        return tuple(
            {
                "metadata": {"name": f"{node}-{device}"},
                "spec": {
                    "driver": DRA_DRIVER,
                    "pool": {"name": node, "generation": 1, "resourceSliceCount": len(self._offered)},
                    "devices": [{"name": device, "attributes": {"type": {"string": kind}, "uuid": {"string": uuid}}}],
                },
            }
            for device, (kind, uuid) in self._offered.items()
        )

    def rest(self) -> None:
        return

    async def claim(self, namespace: str, name: str) -> dict[str, Any]:
        """Of the name of its pod."""
        [uid] = self.uids(name)
        result = {"driver": DRA_DRIVER, "pool": self.node["metadata"]["name"], "device": self.claimed[uid]}
        allocation = {"devices": {"results": [{"request": "gpu", **result}]}}
        return {"status": {"allocation": allocation, "reservedFor": [{"resource": "pods", "uid": uid}]}}

    def origin(self, pid: int) -> Origin | None:
        """In which pod a process runs."""
        if self.blind:
            return None
        return Origin(tuple(uid for uid, own in self._pids.items() if own == pid))

    async def budgets(self) -> list[dict[str, Any]]:
        if self.budgets_down:
            raise RetryError("HTTP 503")
        return copy.deepcopy(self.budgets_list)

    # -- the rest of the world ------------------------------------------------------------------------------------

    def label(self, key: str = labels.CONFIG, value: str | None = None) -> None:
        """What an administrator does."""
        self._patch({"metadata": {"labels": {key: value}}}, admin=True)

    def annotate(self, key: str, value: str | None) -> None:
        """What an administrator does."""
        self._patch({"metadata": {"annotations": {key: value}}}, admin=True)

    def cordon(self, unschedulable: bool = True) -> None:
        """What an administrator does."""
        self._patch({"spec": {"unschedulable": unschedulable or None}}, admin=True)

    def add_pod(
        self,
        name: str,
        device: str | None = None,
        owner: str = "ReplicaSet",
        annotations: dict[str, str] | None = None,
        pod_labels: dict[str, str] | None = None,
        namespace: str = "default",
        gpus: int | None = None,
    ) -> str:
        """A running pod; with a device it holds it. Its UID."""
        uid = f"uid-{next(self._serial)}"
        wants = (1 if device else 0) if gpus is None else gpus
        self.pods[uid] = {
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": uid,
                "resourceVersion": "1",
                "labels": pod_labels or {},
                "annotations": annotations or {},
                "creationTimestamp": _stamp(self.time),
                "ownerReferences": [{"kind": owner, "name": f"{name}-owner", "controller": True}] if owner else [],
            },
            "spec": {"containers": [{"resources": {"limits": {"nvidia.com/gpu": str(wants)}}}]},
            "status": {"phase": "Running", "startTime": _stamp(self.time)},
        }
        if device:
            self.devices[uid] = device
        if device and self._dra:
            self.claimed[uid] = next(name for name, (_, uuid) in self._offered.items() if uuid == device)
            self.pods[uid]["spec"] = {
                "resourceClaims": [{"name": "gpu", "resourceClaimName": name}],
                "containers": [{"resources": {"claims": [{"name": "gpu"}]}}],
            }
        self._follow_pods()
        return uid

    def device(self, gpu: int, start: int, compute: int = 0) -> str:
        """The MIG UUID of the slice that begins there; ``compute`` counts the compute instances of one GPU instance."""
        found = list(self.gpus.gpus.values())[gpu]
        return next(i.compute[compute].uuid for i in found.instances if i.placement.start == start)

    def devices_of(self, uid: str) -> tuple[str, ...]:
        """What a pod holds."""
        return (self.devices[uid], *self.further.get(uid, ())) if uid in self.devices else ()

    def uids(self, name: str) -> list[str]:
        """UIDs of the pods of that name."""
        return [uid for uid, pod in self.pods.items() if pod["metadata"]["name"] == name]

    def tick(self, seconds: float = 1.0) -> None:
        """Time passes: terminating pods end, the DaemonSet controller and the device plugin follow."""
        self.time += seconds
        if self._going:
            self.reboot()
        for uid, pod in list(self.pods.items()):
            if "deletionTimestamp" in pod["metadata"] and self._ends.setdefault(uid, self.time) <= self.time:
                self._end(uid)
        self._remaining = [one for one in self._remaining if one[-1] > self.time]
        self.node["status"]["nodeInfo"]["bootID"] = self.boot.id
        self._follow_pods()
        self._device_plugin()
        self._dra_driver()

    def restart_plugin(self) -> None:
        """What an administrator does."""
        for uid in self.uids("nvidia-device-plugin"):
            self.ends_in(uid, 0.0)
            self._plugin_sees = None

    def restart_driver(self) -> None:
        """Its pod ends; the DaemonSet makes another with the next tick."""
        for uid in self.uids("nvidia-dra-driver-gpu-kubelet-plugin"):
            self._end(uid)

    def ends_in(self, uid: str, seconds: float) -> None:
        """A pod is told to go."""
        self.pods[uid]["metadata"]["deletionTimestamp"] = "now"
        self._ends.setdefault(uid, self.time + seconds)

    def _end(self, uid: str) -> None:
        if uid in self.remains and uid not in self.idle:
            self._remaining += [(uid, device, self.time + self.remains[uid]) for device in self.devices_of(uid)]
        del self.pods[uid]
        self.claimed.pop(uid, None)
        self.devices.pop(uid, None)
        self.further.pop(uid, None)

    def reboot(self) -> None:
        """The machine starts anew: GPU instances are gone, MIG mode is kept by Ampere alone, and pods that had a device fail
        when the kubelet admits them again. The kubelet writes the new boot id with the next tick only."""
        number = int(self.boot.id.removeprefix("boot-")) + 1
        self.boot = Boot(f"boot-{number}", self.time)
        self._going = False
        self.strangers.clear()
        self.ghosts.clear()
        self._remaining.clear()
        self.reload_driver()
        for uid in list(self.devices):
            del self.devices[uid]
            self.pods[uid]["status"] |= {"phase": "Failed", "reason": "UnexpectedAdmissionError"}
            written = {"manager": "kubelet", "operation": "Update", "subresource": "status", "time": _stamp(self.time)}
            self.pods[uid]["metadata"]["managedFields"] = [written]
        self.further.clear()
        for uid in self.uids("nvidia-device-plugin"):
            del self.pods[uid]
        self._plugin_sees = None

    def reload_driver(self) -> None:
        """Every GPU instance is gone, and MIG mode is kept by Ampere alone."""
        for uuid, gpu in self.gpus.gpus.items():
            pending = gpu.mig_enabled if self.gpus.forgetful else gpu.mig_pending
            mode = None if gpu.mig_enabled is None else bool(pending) and not gpu.resetless
            current = gpu.mig_enabled if self.gpus.stubborn else mode
            self.gpus.gpus[uuid] = replace(gpu, mig_enabled=current, mig_pending=mode, instances=(), processes=())

    def _go_soon(self) -> None:
        self._going = True

    def _follow_pods(self) -> None:
        """Pods that hold a slice run a process there."""
        held = [(uid, device) for uid in self.devices if uid not in self.idle for device in self.devices_of(uid)]
        held += [(uid, device) for uid, device, _ in self._remaining]
        running = [(self._pids.setdefault(uid, 1000 + len(self._pids)), device) for uid, device in held]
        for uuid, gpu in self.gpus.gpus.items():
            self.gpus.set_processes(
                uuid,
                tuple(
                    GpuProcess(pid, i.id, c.id, 1, "serve")
                    for i in gpu.instances
                    for c in i.compute
                    for pid, device in running
                    if c.uuid == device
                )
                + tuple(GpuProcess(pid, None, None, 1, "serve") for pid, device in running if uuid == device)
                + self.strangers.get(uuid, ()),
            )

    def _device_plugin(self) -> None:
        running = [
            p for p in self.pods.values() if p["metadata"]["labels"].get("app") == "nvidia-device-plugin-daemonset"
        ]
        deploy = self.node["metadata"]["labels"].get(labels.DEVICE_PLUGIN, "true")
        if not self._plugin:
            return
        if deploy != "true":
            for pod in running:
                pod["metadata"]["deletionTimestamp"] = "now"
            self._plugin_sees = None
            self._end_mps_servers()
            self._status({})
            return
        config = self.node["metadata"]["labels"].get(labels.PLUGIN_CONFIG, "")
        there = config in self.foreign or (named_by(config) is not None and config not in self.lacking)
        if not running and self.slow_daemonset:
            return
        if not running:
            uid = self.add_pod(
                "nvidia-device-plugin",
                None,
                "DaemonSet",
                None,
                {"app": "nvidia-device-plugin-daemonset"},
                "gpu-operator",
            )
            # Without its entry the pod does not get beyond its init container.
            self._plugin_config = config if there else "(none)"
            self._plugin_sees = (uid, self._shown_now() if there else {})
        elif there and config != self._plugin_config:
            # The config-manager's signal: the plugin reads GPUs and configuration again. A missing entry ends it, not the plugin.
            self._plugin_config = config
            self._plugin_sees = (running[0]["metadata"]["uid"], self._shown_now())
        elif self._plugin_crashed and self._plugin_sees is not None:
            self._plugin_sees = (self._plugin_sees[0], self._shown_now())
        if self._plugin_sees is not None and not self.freeze_plugin:
            self._status(self._plugin_sees[1])

    def _dra_driver(self) -> None:
        """Its DaemonSet starts it again wherever it ends; it reads the GPUs once, at its start."""
        name = "nvidia-dra-driver-gpu-kubelet-plugin"
        if not self._dra or self.uids(name):
            return
        component = {"nvidia-dra-driver-gpu-component": "kubelet-plugin"}
        uid = self.add_pod(name, None, "DaemonSet", None, component, "nvidia-dra-driver-gpu")
        self.pods[uid]["spec"] = {"containers": [{"name": "gpus"}]}
        self._offered = self._devices_now()

    def _devices_now(self) -> dict[str, tuple[str, str]]:
        """Kind and UUID by the driver's name."""
        found = {f"gpu-{gpu.index}": ("gpu", gpu.uuid) for gpu in self.gpus.gpus.values() if not gpu.mig_enabled}
        for gpu in self.gpus.gpus.values():
            for i in gpu.instances if gpu.mig_enabled else ():
                for c in i.compute:
                    place = f"{i.placement.start}-{i.placement.size}-{c.start}-{c.slices}"
                    found[f"gpu-{gpu.index}-mig-{place}"] = ("mig", c.uuid)
        return found

    def _end_mps_servers(self) -> None:
        """Their control daemon runs where the plugin does."""
        kept = {
            uuid: tuple(p for p in processes if not p.command.endswith("nvidia-cuda-mps-server"))
            for uuid, processes in self.strangers.items()
        }
        if kept != self.strangers:
            self.strangers = kept
            self._follow_pods()

    def _shown_now(self) -> dict[str, int]:
        """What a plugin that starts now advertises; nothing where it crashes."""
        strategy = self.node["metadata"]["labels"].get(labels.STRATEGY, "mixed")
        sharing = named_by(self._plugin_config)
        replicas = sharing.resources if sharing is not None else self.foreign.get(self._plugin_config, {})
        shown: dict[str, int] = {}
        for gpu in self.gpus.gpus.values():
            names = [
                f"nvidia.com/mig-{'' if c.full else f'{c.slices}c.'}{i.profile.replace('+', '.')}"
                for i in gpu.instances
                for c in i.compute
            ]
            if not gpu.mig_enabled or strategy == "none":
                names = ["nvidia.com/gpu"]
            elif strategy == "single":
                names = ["nvidia.com/gpu"] * len(names)
            for name in names:
                shown[name] = shown.get(name, 0) + replicas.get(name, 1)
        self._plugin_crashed = self._crashes(strategy, sharing)
        if self._plugin_crashed:
            self.plugin_crashes.append(str([str(gpu.layout) for gpu in self.gpus.gpus.values()]))
            return {}
        return shown

    def advertises_what_is_there(self) -> bool:
        """Whether scheduler and kubelet know the GPUs as they are."""
        if self._dra:
            return self._offered == self._devices_now()
        shown = {name: int(count) for name, count in self.node["status"]["allocatable"].items() if count != "0"}
        return shown == self._shown_now()

    def _crashes(self, strategy: str, sharing: Sharing | None) -> bool:
        """MPS beside slices; with ``single`` a GPU without slices, slices of several kinds, and whole GPUs beside them."""
        gpus = list(self.gpus.gpus.values())
        cut = [gpu for gpu in gpus if gpu.mig_enabled]
        if sharing is not None and sharing.means == "mps" and any(gpu.instances for gpu in cut) and strategy != "none":
            return True
        if strategy != "single" or not cut:
            return False
        kinds = {(instance.profile, instance.shape) for gpu in cut for instance in gpu.instances}
        return len(cut) < len(gpus) or len(kinds) != 1 or not all(gpu.instances for gpu in cut)

    def _status(self, shown: dict[str, int]) -> None:
        old = self.node["status"]["allocatable"]
        merged = {**dict.fromkeys(old, "0"), **{name: str(count) for name, count in shown.items()}}
        if merged != old:
            self.node["status"]["allocatable"] = merged
            self.node["status"]["capacity"] = dict(merged)
            self._bump()

    def _bump(self) -> None:
        self.node["metadata"]["resourceVersion"] = str(int(self.node["metadata"]["resourceVersion"]) + 1)

    def _patch(self, patch: dict[str, Any], admin: bool = False) -> dict[str, Any]:
        version = patch.get("metadata", {}).get("resourceVersion")
        if version is not None and version != self.node["metadata"]["resourceVersion"]:
            raise ConflictError("the node has been modified")
        merged = _merge(self.node, patch)
        merged["metadata"]["resourceVersion"] = self.node["metadata"]["resourceVersion"]
        if merged != self.node:
            self.node = merged
            self._bump()
        if not admin:
            self.node_writes.append(copy.deepcopy(patch))
        return copy.deepcopy(self.node)

    def _evict(self, ref: PodRef) -> None:
        pod = self.pods.get(ref.uid)
        if pod is None:
            return
        for budget in self.budgets_list:
            selector = budget["spec"]["selector"]["matchLabels"].items()
            if selector <= pod["metadata"]["labels"].items():
                if budget["status"]["disruptionsAllowed"] < 1:
                    raise BudgetError(f"budget {budget['metadata']['name']} allows none")
                budget["status"]["disruptionsAllowed"] -= 1
        self.ends_in(ref.uid, self.grace.get(ref.uid, 0.0))

    def _delete(self, ref: PodRef) -> None:
        pod = self.pods.get(ref.uid)
        if pod is None:
            raise GoneError("not found")
        pod["metadata"]["deletionTimestamp"] = "now"
        if self._plugin_sees is not None and self._plugin_sees[0] == ref.uid:
            self._plugin_sees = None


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class _View:
    """What a watch would know."""

    def __init__(self, objects: Callable[[], Iterable[dict[str, Any]]]) -> None:
        self._objects = objects

    synced = True

    @property
    def objects(self) -> tuple[dict[str, Any], ...]:
        return tuple(copy.deepcopy(list(self._objects())))

    def put(self, item: dict[str, Any]) -> None:
        return


class NoCounts:
    """Takes counts and keeps them."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, ...]] = []

    def slice_changed(self, action: str) -> None:
        self.seen.append(("slice", action))

    def pod_evicted(self) -> None:
        self.seen.append(("evicted",))

    def reconfigured(self, outcome: str, reason: str) -> None:
        self.seen.append(("reconfigured", outcome, reason))

    def phase(self, phase: str, seconds: float) -> None:
        self.seen.append(("phase", phase))

    def drifted(self) -> None:
        self.seen.append(("drifted",))


class _Commands:
    """The configured commands of the host."""

    def __init__(self, world: NodeWorld) -> None:
        self._world = world

    async def prepare(self) -> None:
        await self._world.prepare()

    async def refresh(self) -> None:
        await self._world.refresh()

    async def reboot(self) -> None:
        await self._world.run_reboot_command()


class Steps(Hands):
    """The agent's hands, with a note of every step taken."""

    def __init__(self, world: NodeWorld) -> None:
        super().__init__(world, world.gpus, _Commands(world))
        self.taken: list[Step] = []

    async def perform(self, step: Step, node: Any, said: dict[str, Any]) -> dict[str, Any] | None:
        self.taken.append(step)
        return await super().perform(step, node, said)


def agent_on(
    world: NodeWorld,
    policy: Policy | None = None,
    sees: Callable[[], dict[str, Any]] | None = None,
    sees_pods: Callable[[], Iterable[dict[str, Any]]] | None = None,
    slots: Slots | None = None,
    catalog_file: str = "",
    spread_seconds: float = 0.0,
) -> tuple[PartitionPass, Steps]:
    """A freshly started agent: it knows nothing but what the world tells. ``sees`` is the node as its watch shows it,
    ``sees_pods`` are the pods; ``slots`` where the fleet has a limit; ``catalog_file`` where changes wait for its models."""
    hands = Steps(world)
    view = _View(lambda: [sees() if sees is not None else world.node])
    partition = PartitionPass(
        World(
            view,
            _View(sees_pods or (lambda: world.pods.values())),
            world.gpus,
            world,
            Claims(world),
            world.origin,
            world.budgets,
            lambda: world.boot,
            lambda: world.time,
        ),
        hands,
        view,
        world,
        world.counts,
        slots or NoSlots(),
        world.reports.append,
        Rules(world.layouts_file, labels.CONFIG, policy or Policy(), 300.0, catalog_file, spread_seconds),
        lambda: world.time,
    )
    return partition, hands


async def settle(world: NodeWorld, partition: PartitionPass, passes: int = 80) -> None:
    """Let agent and world take turns until the agent is content to wait for its resync."""
    for _ in range(passes):
        wait = await partition()
        if wait >= 300.0:
            return
        world.tick(min(max(wait, 0.5), 5.0))
    raise AssertionError(f"not settled after {passes} passes: {world.reports[-1]}")


def h100(layout: str = "", index: int = 0) -> Gpu:
    """An H100-80GB with a layout such as "3g.40gb@0:4 1g.10gb@4:1", MIG on."""
    return cut("H100-80GB-SXM", layout, index)


def cut(model: str, layout: str, index: int = 0) -> Gpu:
    """A GPU of some model with such a layout, MIG on; a split of the compute is written "2c+1c.3g.40gb@4:4"."""
    paper = gpu_on_paper(model, index=index)
    instances = []
    for number, slot in enumerate(map(slot_of, layout.split())):
        profile = next(p for p in paper.profiles if p.name == slot.shape.profile)
        instance = instance_on_paper(number, slot, profile, f"MIG-{index}")
        instances.append(replace(instance, id=100 + number))
    return replace(paper, instances=tuple(sorted(instances, key=_by_placement)))


def slot_of(text: str) -> Slot:
    """A slot as it is written: ``3g.40gb@0:4``."""
    shape, _, place = text.partition("@")
    start, _, size = place.partition(":")
    compute, _, profile = shape.rpartition("c.")
    widths = tuple(int(width) for width in compute.split("c+")) if compute else ()
    return Slot(Placement(int(start), int(size)), Shape(profile, widths))


def _merge(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merge(result.get(key), value)
    return result
