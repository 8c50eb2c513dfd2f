"""Who is on the GPUs when a story begins, and which of them may be moved, as docs/concepts.md has it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from agent.model.labels import EVICT, SAFE_TO_EVICT
from agent.model.mig import GpuProcess
from tests.fakes.world import NodeWorld

GOES = "goes"
STAYS = "stays"


@dataclass(frozen=True)
class Kind:
    """One kind of pod. ``name`` begins with what has to become of it: it ``goes`` when it must, or ``stays``. ``unlisted``: it
    has its devices past the kubelet, and only what runs there shows it.
    """

    name: str
    owner: str = "ReplicaSet"
    evict: str = ""
    safe: str = ""
    namespace: str = "default"
    mirror: bool = False
    scratch: bool = False
    budgets: tuple[str, ...] = ()
    unlisted: bool = False
    priority: int = 0


MOVABLE = (
    Kind("goes"),
    Kind("goes-alone", owner="", evict="true"),
    Kind("goes-with-scratch", scratch=True, evict="true"),
    Kind("goes-by-budget", budgets=("a",)),
    Kind("goes-by-shared-budget", budgets=("b",)),
    Kind("goes-with-stateful-set", owner="StatefulSet", evict="true"),
    Kind("goes-as-safe", owner="", scratch=True, safe="true"),
    Kind("goes-safe-or-not", safe="false", evict="true"),
    Kind("goes-with-job", owner="Job"),
    Kind("goes-first", priority=-10),
    Kind("goes-last", priority=1000),
    Kind("goes-unlisted", unlisted=True),
)
FIXED = (
    Kind("stays-daemon", owner="DaemonSet"),
    Kind("stays-daemon-all-the-same", owner="DaemonSet", evict="true"),
    Kind("stays-alone", owner=""),
    Kind("stays-as-told", evict="false"),
    Kind("stays-to-its-end", evict="wait"),
    Kind("stays-as-unsafe", safe="false"),
    Kind("stays-safe-or-not", safe="true", evict="false"),
    Kind("stays-in-the-system", namespace="kube-system"),
    Kind("stays-mirrored", owner="Node", mirror=True),
    Kind("stays-with-scratch", scratch=True),
    Kind("stays-by-two-budgets", budgets=("a", "b")),
    Kind("stays-unlisted", owner="DaemonSet", unlisted=True),
)


PAST_THE_KUBELET = tuple(kind for kind in (*MOVABLE, *FIXED) if kind.unlisted)


@dataclass(frozen=True)
class Tenant:
    """A pod and the devices that it holds. ``idle``: no process shows it."""

    kind: Kind
    devices: tuple[str, ...]
    idle: bool = False
    grace: float = 0.0
    remains: float = 0.0
    ending: bool = False


@dataclass
class Tenants:
    """Everybody. ``strangers`` are (GPU, its GPU instance and compute instance), ``ghosts`` devices that by the kubelet alone are
    somebody's. ``budgets`` say how many they let go at first."""

    pods: list[Tenant] = field(default_factory=list)
    strangers: list[tuple[str, int | None, int | None]] = field(default_factory=list)
    ghosts: list[str] = field(default_factory=list)
    budgets: dict[str, int] = field(default_factory=dict)


@st.composite
def tenants(draw: st.DrawFn, world: NodeWorld) -> Tenants:
    """Somebody on every second or third slice; now and then somebody else too, whom the kubelet does not list."""
    found = Tenants(budgets={name: draw(st.sampled_from((9, 9, 1, 0))) for name in "ab"})
    crowd = draw(st.sampled_from((0, 1, 3)))
    free: list[str] = []
    for gpu in world.gpus.gpus.values():
        places: list[tuple[int | None, int | None, str]] = [(None, None, gpu.uuid)]
        if gpu.mig_enabled:
            places = [(i.id, c.id, c.uuid) for i in gpu.instances for c in i.compute]
        for instance, compute, device in places:
            who = draw(st.integers(0, 11))
            if who > crowd + 2:
                free.append(device)
            elif who == 2 and draw(st.integers(0, 3)) == 1:
                alone = draw(st.booleans())
                found.strangers.append((gpu.uuid, instance, compute if alone else None))
            elif who == 1 and draw(st.integers(0, 7)) == 1:
                found.ghosts.append(device)
            else:
                found.pods.append(draw(_pods((device,))))
                other = draw(st.integers(0, 15))
                if other == 14:
                    found.pods.append(Tenant(draw(st.sampled_from(PAST_THE_KUBELET)), (device,)))
                elif other == 15:
                    found.strangers.append((gpu.uuid, instance, compute))
    while len(free) > 1 and draw(st.integers(0, 2)) == 0:
        devices = draw(st.lists(st.sampled_from(free), min_size=2, max_size=3, unique=True))
        free = [device for device in free if device not in devices]
        found.pods.append(draw(_pods(tuple(devices))))
    return found


@st.composite
def _pods(draw: st.DrawFn, devices: tuple[str, ...]) -> Tenant:
    fixed = draw(st.integers(0, 4)) == 4
    return Tenant(
        draw(st.sampled_from(FIXED if fixed else MOVABLE)),
        devices,
        idle=draw(st.booleans()),
        grace=draw(st.sampled_from((0.0, 0.0, 7.0, 90.0))),
        remains=draw(st.sampled_from((0.0, 0.0, 8.0))),
        ending=draw(st.integers(0, 15)) == 15,
    )


def settle_in(world: NodeWorld, found: Tenants) -> None:
    """Let them all in."""
    world.budgets_list = [
        {
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"selector": {"matchLabels": {name: "covered"}}},
            "status": {"disruptionsAllowed": allowed},
        }
        for name, allowed in found.budgets.items()
    ]
    for number, tenant in enumerate(found.pods):
        add(world, tenant, number)
    for number, (uuid, instance, compute) in enumerate(found.strangers):
        process = GpuProcess(4000 + number, instance, compute, 1, "python")
        world.strangers[uuid] = (*world.strangers.get(uuid, ()), process)
    for number, device in enumerate(found.ghosts):
        world.ghosts.append(({"metadata": {"namespace": "default", "name": f"ghost-{number}"}}, device))
    world.tick(0.0)


def add(world: NodeWorld, tenant: Tenant, number: int) -> str:
    """One pod and what it holds."""
    kind = tenant.kind
    told = {EVICT: kind.evict, SAFE_TO_EVICT: kind.safe, "kubernetes.io/config.mirror": "x" if kind.mirror else ""}
    annotations = {key: value for key, value in told.items() if value}
    labels = dict.fromkeys(kind.budgets, "covered")
    device = tenant.devices[0] if tenant.devices else None
    wants = 0 if kind.unlisted else 1
    uid = world.add_pod(f"{kind.name}-{number}", device, kind.owner, annotations, labels, kind.namespace, wants)
    pod: dict[str, Any] = world.pods[uid]
    pod["spec"]["priority"] = kind.priority
    if kind.scratch:
        pod["spec"]["volumes"] = [{"name": "scratch", "emptyDir": {}}]
    if tenant.devices[1:]:
        world.further[uid] = tenant.devices[1:]
    if kind.unlisted:
        world.unlisted.add(uid)
    elif tenant.idle:
        world.idle.add(uid)
    world.grace[uid], world.remains[uid] = tenant.grace, tenant.remains
    if tenant.ending:
        world.ends_in(uid, tenant.grace)
    return uid
