"""The cluster's nouns, as far as the agent needs them: the node, its pods, budgets, and who holds a slice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.model.labels import WARMING, WARMING_EFFECT

DRA_DRIVER = "gpu.nvidia.com"
"""The name under which NVIDIA's DRA driver offers GPUs and slices (its public source, end of 2025)."""


@dataclass(frozen=True, slots=True)
class Boot:
    """One life of the machine. ``id`` is the kernel's, "" where it is not known; ``began`` is seconds since the epoch, or 0."""

    id: str
    began: float = 0.0


@dataclass(frozen=True, slots=True)
class Taint:
    """``written`` is all of it as the API server has it: the list of taints can be written as a whole only."""

    key: str
    effect: str
    written: Mapping[str, object]

    @property
    def value(self) -> str:
        """Often empty."""
        return str(self.written.get("value") or "")

    @property
    def is_gate(self) -> bool:
        """Whether it is the start-up gate; the same key with another effect is somebody else's."""
        return (self.key, self.effect) == (WARMING, WARMING_EFFECT)


@dataclass(frozen=True, slots=True)
class Node:
    """Our node object. ``allocatable`` and ``capacity`` hold the extended resources of the domain nvidia.com only."""

    name: str
    uid: str
    resource_version: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    unschedulable: bool
    allocatable: Mapping[str, int]
    capacity: Mapping[str, int]
    boot_id: str
    os_image: str = ""
    taints: tuple[Taint, ...] = ()

    @property
    def gated(self) -> bool:
        """Whether the start-up gate is shut."""
        return any(taint.is_gate for taint in self.taints)


@dataclass(frozen=True, slots=True, order=True)
class PodRef:
    """A pod by what lasts: a pod of the same name with another UID is another pod."""

    namespace: str
    name: str
    uid: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod bound to this node. ``gpus`` are its requests of nvidia.com resources. ``reason`` is that of its phase, and
    ``reported`` when its status was last told (seconds since the epoch), as far as the object shows it.

    ``gates``: by container, the feature gates that its environment turns on (``FEATURE_GATES``, written as Kubernetes'
    own components take them). ``claims``: the ResourceClaims of its namespace that its containers use. ``dra_driver``: it is
    NVIDIA's DRA driver, and offers GPUs.
    """

    ref: PodRef
    phase: str
    terminating: bool
    owner_kind: str
    owner_name: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    gpus: Mapping[str, int]
    priority: int = 0
    mirror: bool = False
    disk_scratch: bool = False
    reason: str = ""
    reported: float | None = None
    gates: Mapping[str, frozenset[str]] = field(default_factory=dict)
    claims: frozenset[str] = frozenset()
    dra_driver: bool = False

    @property
    def finished(self) -> bool:
        """Terminal pods hold nothing any more."""
        return self.phase in ("Succeeded", "Failed")

    @property
    def cgroup_uid(self) -> str:
        """The UID in the name of its cgroup: of a static pod that is the kubelet's own, which its mirror pod tells."""
        return self.annotations.get("kubernetes.io/config.mirror") or self.ref.uid

    @property
    def workload(self) -> tuple[str, str]:
        """Kind and name of what it belongs to, as people know it: a ReplicaSet of a Deployment's is named after the Deployment,
        a dash, and the hash that its pods have as a label. A pod that nothing made is its own."""
        stem = self.owner_name.removesuffix(f"-{self.labels.get('pod-template-hash', '')}")
        if self.owner_kind == "ReplicaSet" and stem != self.owner_name:
            return "Deployment", stem
        return (self.owner_kind, self.owner_name) if self.owner_kind else ("Pod", self.ref.name)

    @property
    def app(self) -> str:
        """The name its labels give the application: GPU Operator and the charts of NVIDIA's clients use three keys."""
        keys = ("app", "app.kubernetes.io/name", "name")
        return next((self.labels[key] for key in keys if self.labels.get(key)), "")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a process comes from, by the kernel's word. ``pods`` are the UIDs of the pods whose cgroup it is in, the outermost
    first, as the kubelet writes them; without any it runs outside every pod, as ``user``, with that ``command``.
    """

    pods: tuple[str, ...] = ()
    user: str = ""
    command: str = ""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One expression of a label selector: ``operator`` is In, NotIn, Exists or DoesNotExist, of a node affinity also Gt or Lt."""

    key: str
    operator: str
    values: frozenset[str] = frozenset()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """As the API server evaluates it; an unknown operator matches nothing."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels
            case "Gt" | "Lt":
                there, bound = _whole(labels.get(self.key)), _whole(next(iter(self.values), None))
                if there is None or bound is None:
                    return False
                return there > bound if self.operator == "Gt" else there < bound
            case _:
                return False


def _whole(text: str | None) -> int | None:
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None


@dataclass(frozen=True, slots=True)
class Budget:
    """A PodDisruptionBudget. ``selector`` None selects nothing, an empty one every pod of the namespace (policy/v1)."""

    namespace: str
    name: str
    selector: tuple[Requirement, ...] | None
    disruptions_allowed: int

    def covers(self, pod: Pod) -> bool:
        """Whether the pod counts against this budget."""
        if pod.ref.namespace != self.namespace or self.selector is None:
            return False
        return all(requirement.matches(pod.labels) for requirement in self.selector)


@dataclass(frozen=True, slots=True)
class DeviceOwner:
    """What the kubelet says: this pod has these devices. The kubelet gives no UID.

    Devices that it has by claims (DRA) have names of a driver's making: ``claimed`` are those that no ResourceSlice has, written
    ``pool/device``. ``resource`` is that driver then, and ``claim`` the ResourceClaim.
    """

    namespace: str
    name: str
    container: str
    resource: str
    devices: tuple[str, ...] = field(default=())
    claim: str = ""
    claimed: tuple[str, ...] = ()

    @property
    def uuids(self) -> tuple[str, ...]:
        """The devices by UUID: that of a shared one is ``<uuid>::<replica>``."""
        return tuple(device.partition("::")[0] for device in self.devices)

    @property
    def of_gpus(self) -> bool:
        """Whether this speaks of GPUs; of other drivers' devices only their claims are of interest."""
        return self.resource.startswith("nvidia.com/") or self.resource == DRA_DRIVER

    @property
    def unread(self) -> bool:
        """Whether the claim does not tell its devices, yet or at this time."""
        return bool(self.claim) and self.of_gpus and not self.devices and not self.claimed


@dataclass(frozen=True, slots=True)
class Offers:
    """What NVIDIA's DRA driver offers of this node in its ResourceSlices: ``devices`` maps ``pool/device`` to the UUID of a GPU
    or MIG device. ``whole``: the newest generation of each pool is all there."""

    devices: Mapping[str, str]
    whole: bool = True
