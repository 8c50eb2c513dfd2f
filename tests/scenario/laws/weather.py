"""What else happens to a node while the agent works: faults that begin and end, and other people.

Everything passes: after its ``lasts`` passes an event's ``end`` is called, and at the end of the story that of every one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from agent.model import labels
from agent.model.errors import (
    AgentError,
    BudgetError,
    ConflictError,
    HardwareError,
    InUseError,
    RefusedError,
    RetryError,
)
from agent.model.mig import Gpu, GpuInstance, GpuProcess, Shape, Slot
from agent.observe.paper import instance_on_paper
from tests.fakes.world import Fault, Moment, NodeWorld, media_left
from tests.scenario.laws.tenants import FIXED, MOVABLE, Tenant, add

End = Callable[[], None]


@dataclass(frozen=True)
class Event:
    """Something that happens before a pass, and lasts for some. ``which`` chooses among what there is then."""

    at: int
    lasts: int
    name: str
    which: int = 0
    fault: Fault | None = None


@dataclass
class Stage:
    """The world, and what people other than the agent have made of it: ``labels``, ``annotations`` and ``cordoned`` as they want
    them. ``disturbed``: the hardware was changed by somebody else, or silent, since the last wish. ``upset``: something happened
    that can make an eviction vain. ``changed`` are the GPUs that others changed, or that were silent, in the change under way.
    ``stale`` and ``stale_pods`` are what watches that lag behind show.
    """

    world: NodeWorld
    labels: dict[str, str]
    annotations: dict[str, str]
    cordoned: bool
    disturbed: bool = False
    by_hand: bool = False
    changed: set[str] = field(default_factory=set)
    upset: bool = False
    arriving: list[tuple[str, str]] = field(default_factory=list)
    stale: dict[str, Any] | None = None
    stale_pods: list[dict[str, Any]] | None = None

    def sees(self) -> dict[str, Any]:
        """The node as the agent knows it."""
        return self.stale or self.world.node

    def sees_pods(self) -> Iterable[dict[str, Any]]:
        """The pods as the agent knows them."""
        return self.world.pods.values() if self.stale_pods is None else self.stale_pods

    def change(self, *gpus: str) -> None:
        """Somebody else changes these, or they do not answer."""
        self.changed |= set(gpus)
        self.disturbed = self.upset = self.by_hand = True

    def busy(self) -> bool:
        """A change is under way."""
        return labels.OPERATION in self.world.node["metadata"]["annotations"]

    def label(self, key: str, value: str | None) -> None:
        """Somebody sets a label."""
        self.world.label(key, value)
        self.labels = {k: v for k, v in self.labels.items() if k != key} | ({key: value} if value is not None else {})

    def annotate(self, key: str, value: str) -> None:
        """Somebody sets an annotation."""
        self.world.annotate(key, value)
        self.annotations[key] = value

    def cordon(self, cordoned: bool) -> None:
        """Somebody (un)cordons."""
        self.world.cordon(cordoned)
        self.cordoned = cordoned

    def admit(self) -> None:
        """The kubelet gives pods that were bound what they ask for, if it is still there."""
        for uid, device in self.arriving:
            taken = {held for other in self.world.devices for held in self.world.devices_of(other)}
            if device in _devices(self.world) - taken:
                self.world.devices[uid] = device
            else:
                self.world.pods[uid]["status"]["phase"] = "Failed"
        self.arriving.clear()


def _devices(world: NodeWorld) -> set[str]:
    found = set()
    for gpu in world.gpus.gpus.values():
        found |= {c.uuid for i in gpu.instances for c in i.compute} if gpu.mig_enabled else {gpu.uuid}
    return found


_CHANGES = ("create", "destroy", "trim", "set_mode")
_FAULTS: tuple[tuple[tuple[str, ...], tuple[type[AgentError], ...]], ...] = (
    (_CHANGES, (HardwareError, HardwareError, RetryError, InUseError, RefusedError)),
    (("create",), (HardwareError, RetryError)),
    (("destroy", "trim"), (InUseError, HardwareError)),
    (("set_mode",), (InUseError, HardwareError, RetryError)),
    (("patch",), (RetryError, ConflictError)),
    (("evict",), (RetryError, BudgetError, RefusedError)),
    (("delete", "refresh"), (RetryError,)),
)


@st.composite
def _faults(draw: st.DrawFn) -> Fault:
    names, errors = draw(st.sampled_from(_FAULTS))
    error = draw(st.sampled_from(errors))
    moments: tuple[Moment, ...] = ("before", "after", "middle")
    if error in (InUseError, RefusedError, BudgetError):
        moments = ("before",)
    return Fault(frozenset(names), error, draw(st.sampled_from(moments)), draw(st.sampled_from((1, 1, 2, 99))))


@st.composite
def events(draw: st.DrawFn, moments: Sequence[int]) -> Event:
    """One event, at one of these moments or some passes later: most changes take about ten."""
    name = draw(st.sampled_from(NAMES))
    return Event(
        draw(st.sampled_from(moments)) + draw(st.sampled_from((*range(1, 9), *range(1, 9), *range(16)))),
        draw(st.sampled_from((1, 2, 5, 20))),
        name,
        draw(st.integers(0, 11)),
        draw(_faults()) if name == "fault" else None,
    )


def begin(event: Event, stage: Stage) -> End:
    """Let it happen; what is returned ends it."""
    if event.fault is not None:
        fault = replace(event.fault)
        stage.upset |= fault.names & set(_CHANGES) != set()
        stage.world.effects.faults.append(fault)
        return lambda: stage.world.effects.faults.remove(fault)
    return _EVENTS[event.name](stage, event.which) or _nothing


def _nothing() -> None:
    return


def _gpu(stage: Stage, which: int) -> Gpu:
    gpus = list(stage.world.gpus.gpus.values())
    return gpus[which % len(gpus)]


def _silence(stage: Stage, which: int) -> End:
    gpus = stage.world.gpus
    uuid = _gpu(stage, which).uuid
    gpus.silent.add(uuid)
    stage.change(uuid)
    return lambda: gpus.answers(uuid)


def _hang(stage: Stage, which: int) -> End:
    gpus = stage.world.gpus
    gpus.hang = True
    stage.upset = True

    def end() -> None:
        gpus.hang = False
        for uuid in sorted(gpus.silent):
            stage.change(uuid)
            gpus.answers(uuid)

    return end


def _switch(where: Callable[[NodeWorld], Any], attribute: str) -> Callable[[Stage, int], End]:
    def begun(stage: Stage, which: int) -> End:
        setattr(where(stage.world), attribute, True)
        return lambda: setattr(where(stage.world), attribute, False)

    return begun


def _drift(stage: Stage, which: int) -> None:
    """`nvidia-smi mig` by hand: what nobody uses is destroyed, or something is made where there is room."""
    world, gpu = stage.world, _gpu(stage, which)
    if gpu.uuid in world.gpus.silent or not gpu.mig_enabled:
        return
    held = {device for uid in world.devices for device in world.devices_of(uid)} | {d for _, d in world.ghosts}
    busy = {process.gpu_instance for process in gpu.processes}
    idle = [i for i in gpu.instances if i.id not in busy and not any(c.uuid in held for c in i.compute)]
    if which % 2 and idle:
        gone = idle[which % len(idle)]
        instances = tuple(i for i in gpu.instances if i is not gone)
    else:
        made = _made(gpu, which)
        if made is None:
            return
        instances = tuple(sorted((*gpu.instances, made), key=lambda i: i.placement))
    world.gpus.gpus[gpu.uuid] = replace(gpu, instances=instances)
    stage.change(gpu.uuid)


def _made(gpu: Gpu, which: int) -> GpuInstance | None:
    free = [
        (profile, place)
        for profile in gpu.profiles
        for place in profile.placements
        if not any(place.overlaps(i.placement) for i in gpu.instances)
        and media_left([i.profile for i in gpu.instances], profile.name)
    ]
    if not free:
        return None
    profile, place = free[which % len(free)]
    number = 5000 + max((i.id for i in gpu.instances), default=0)
    made = instance_on_paper(number, Slot(place, Shape(profile.name)), profile, f"MIG-by-hand-{gpu.index}")
    return replace(made, compute=(), rooms=()) if which % 5 == 0 else made


def _mode_by_hand(stage: Stage, which: int) -> None:
    gpu = _gpu(stage, which)
    held = {device for uid in stage.world.devices for device in stage.world.devices_of(uid)}
    ghosts = {device for _, device in stage.world.ghosts}
    if gpu.mig_enabled is None or gpu.instances or gpu.processes or gpu.uuid in held | ghosts | stage.world.gpus.silent:
        return
    mode = not gpu.mig_enabled
    stage.world.gpus.gpus[gpu.uuid] = replace(gpu, mig_enabled=mode, mig_pending=mode)
    stage.change(gpu.uuid)


def _uncordon(stage: Stage, which: int) -> None:
    stage.cordon(False)


def _cordon(stage: Stage, which: int) -> None:
    # One who cordons what we have cordoned changes nothing that anybody could see.
    if not stage.busy():
        stage.cordon(True)


def _exporter_off(stage: Stage, which: int) -> None:
    key = f"{labels.DEPLOY_PREFIX}dcgm-exporter"
    if key in stage.labels:
        stage.label(key, ("true", "false", "false", "false")[which % 4])


def _other_label(stage: Stage, which: int) -> None:
    stage.label("team", f"number-{which}")


def _other_guard(stage: Stage, which: int) -> None:
    stage.annotate(sorted(labels.AUTOSCALER_GUARDS)[which % 2], "false")


def _reboot(stage: Stage, which: int) -> None:
    stage.arriving.clear()
    stage.world.gpus.restarted()
    stage.world.reboot()
    stage.change(*stage.world.gpus.gpus)


def _lags(stage: Stage, which: int) -> End:
    """The watch shows no change of the node any more, until the agent's own write brings it up to date."""
    stage.stale = copy.deepcopy(stage.world.node)

    def end() -> None:
        stage.stale = None

    stage.world.effects.then["patch"] = end
    return end


def _pods_lag(stage: Stage, which: int) -> End:
    stage.stale_pods = copy.deepcopy(list(stage.world.pods.values()))

    def end() -> None:
        stage.stale_pods = None

    return end


def _time(stage: Stage, which: int) -> None:
    stage.world.tick((40.0, 400.0, 4000.0)[which % 3])


def _arrives(stage: Stage, which: int) -> None:
    """The scheduler binds a pod to a device that is advertised and free."""
    world = stage.world
    taken = {device for uid in world.devices for device in world.devices_of(uid)} | {d for _, d in world.ghosts}
    free = sorted(_devices(world) - taken - {device for _, device in stage.arriving})
    if world.node["spec"].get("unschedulable") or not free or not any(world.node["status"]["allocatable"].values()):
        return
    kind = FIXED[which % len(FIXED)] if which % 4 == 0 else MOVABLE[which % len(MOVABLE)]
    uid = add(world, Tenant(kind, (), idle=which % 3 == 0), 100 + len(world.pods))
    stage.arriving.append((uid, free[which % len(free)]))
    stage.upset = True


def _leaves(stage: Stage, which: int) -> None:
    """A pod ends by itself."""
    pods = sorted(stage.world.devices)
    if pods:
        stage.world.ends_in(pods[which % len(pods)], 0.0)
        stage.upset = True


def _stranger(stage: Stage, which: int) -> End | None:
    """Somebody runs a program by hand, for a while."""
    world, gpu = stage.world, _gpu(stage, which)
    if gpu.mig_enabled and not gpu.instances:
        return None
    instance = gpu.instances[which % len(gpu.instances)].id if gpu.mig_enabled else None
    process = GpuProcess(4711, instance, None, 1, "python")
    world.strangers[gpu.uuid] = (*world.strangers.get(gpu.uuid, ()), process)
    stage.upset = True

    def end() -> None:
        world.strangers[gpu.uuid] = tuple(one for one in world.strangers.get(gpu.uuid, ()) if one is not process)
        world.tick(0.0)

    return end


def _budgets_open(stage: Stage, which: int) -> None:
    for budget in stage.world.budgets_list:
        budget["status"]["disruptionsAllowed"] = 1


_EVENTS: dict[str, Callable[[Stage, int], End | None]] = {
    "silence": _silence,
    "hang": _hang,
    "no driver": _switch(lambda world: world.gpus, "away"),
    "no kubelet": _switch(lambda world: world, "kubelet_down"),
    "no budgets": _switch(lambda world: world, "budgets_down"),
    "frozen plugin": _switch(lambda world: world, "freeze_plugin"),
    "drift": _drift,
    "mode by hand": _mode_by_hand,
    "uncordon": _uncordon,
    "cordon": _cordon,
    "exporter off": _exporter_off,
    "other label": _other_label,
    "other guard": _other_guard,
    "reboot": _reboot,
    "lags": _lags,
    "pods lag": _pods_lag,
    "time": _time,
    "arrives": _arrives,
    "leaves": _leaves,
    "stranger": _stranger,
    "budgets open": _budgets_open,
}
NAMES = ("fault", "fault", "drift", "silence", "hang", *["exporter off"] * 3, *_EVENTS)
