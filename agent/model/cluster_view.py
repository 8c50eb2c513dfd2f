"""A cluster as `warmslice doctor` sees it at one moment. What could not be looked at is None, never empty. Frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.model.catalog import Catalog
from agent.model.node import Budget, Node, Pod
from agent.model.place import Place
from agent.model.rights import Right

ANY = "*"
"""Slices that nobody can name without the node's GPUs."""


@dataclass(frozen=True, slots=True)
class Mount:
    """Where a container has a volume. ``host_path``, ``secret`` and ``config_maps`` say what the volume is; ``optional``: a
    Secret that need not be there."""

    container: str
    path: str
    read_only: bool
    host_path: str = ""
    secret: str = ""
    optional: bool = False
    config_maps: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """``waiting`` is the kubelet's word for why it does not run; ``env`` what is set by value."""

    name: str
    image: str
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    memory_limit: str = ""
    ready: bool = False
    waiting: str = ""
    message: str = ""
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class SeenPod:
    """A pod beside what the agent sees of its own. ``node`` is "" before it is bound; ``message`` is that of its status."""

    pod: Pod
    node: str
    place: Place
    containers: tuple[Container, ...]
    mounts: tuple[Mount, ...]
    ready: bool
    message: str
    priority_class: str
    daemon_set: str = ""

    @property
    def pending(self) -> bool:
        """Nobody has a place for it yet."""
        return self.pod.phase == "Pending" and not self.node and not self.pod.terminating


@dataclass(frozen=True, slots=True)
class DaemonSet:
    """``app`` is what its pods' labels call it; ``place`` says on which nodes they may run; ``rolled_out``: every one of them is
    made from the template of now, by the word of its controller."""

    namespace: str
    name: str
    app: str
    place: Place
    containers: tuple[Container, ...]
    mounts: tuple[Mount, ...]
    account: str
    runtime_class: str
    rolled_out: bool

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class PluginConfigMap:
    """Where NVIDIA's device plugin finds its configurations; ``there``: whether the ConfigMap exists."""

    name: str
    entries: frozenset[str]
    there: bool = True


@dataclass(frozen=True, slots=True)
class OperatorPolicy:
    """GPU Operator's ClusterPolicy. ``mig_manager`` None: it does not say; ``strategy`` may be empty."""

    name: str
    mig_manager: bool | None
    strategy: str


@dataclass(frozen=True, slots=True)
class SeenBudget:
    """``least`` and ``most`` are ``minAvailable`` and ``maxUnavailable`` as written, "" where they are not; ``expected``: how
    many pods it counts."""

    budget: Budget
    least: str
    most: str
    expected: int


@dataclass(frozen=True, slots=True)
class AdmissionPolicy:
    """``account``: whether its conditions name the agent's service account; ``denies``: whether a binding has it deny."""

    name: str
    account: bool
    denies: bool


@dataclass(frozen=True, slots=True)
class Wished:
    """What the value of a layout label means, as far as that is known without the node's hardware. ``refusal``: why it is no
    layout; ``slices``: whether it makes any; ``kinds``: of how many sorts, where that is plain; ``entries``: of the device
    plugin's configurations that it may ask for, by MIG strategy; ``later``: what the device plugin calls the slices of all its
    periods, where it is a schedule, ANY among them where that depends on the GPUs."""

    refusal: str = ""
    slices: bool = False
    kinds: int = 0
    entries: Mapping[str, str] = field(default_factory=dict)
    later: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """What the agents are configured with. A ``..._error`` is the sentence that the agent says itself; ``missing`` are ConfigMaps
    that are mounted and not there; ``token_fault``: why a token that the catalog names cannot be had; ``layouts``: what the
    device plugin calls the slices of each. ``cache_host_path``: where on the node the models are; ``state_host_path``: where what
    the privileged container remembers is; ``open_to_cache``: directories of the node that the container ``cache`` can write."""

    settings_error: str = ""
    layouts_error: str = ""
    catalog_error: str = ""
    catalog: Catalog | None = None
    missing: tuple[str, ...] = ()
    label_key: str = "nvidia.com/mig.config"
    prewarm: bool = False
    refreshes: bool = False
    token_fault: str = ""
    cache_host_path: str = ""
    state_host_path: str = ""
    open_to_cache: tuple[str, ...] = ()
    layouts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClusterView:
    """``agents`` are the agent's DaemonSets, ``plugins`` those of NVIDIA's device plugin, ``plugin_configs`` the ConfigMap that
    each of these was given (None: none; not in it: nobody could look). ``lacking``: rights that the agent's account was refused.
    ``said``: by node, reason and message of the agent's Events. ``wished``: by value of the layout label. ``refused_sets``: by
    node, why its label for a model set cannot be followed. ``bound``: pods that have not ended, by node. ``silent``: nodes that
    are not Ready; ``young``: that have just been made. ``has_claims_driver``: NVIDIA's DRA driver is installed. Times are
    seconds since the epoch."""

    now: float
    nodes: tuple[Node, ...]
    pods: tuple[SeenPod, ...] | None
    agents: tuple[DaemonSet, ...] | None
    plugins: tuple[DaemonSet, ...] = ()
    plugin_configs: Mapping[str, PluginConfigMap | None] = field(default_factory=dict)
    policies: tuple[OperatorPolicy, ...] | None = None
    budgets: tuple[SeenBudget, ...] | None = None
    admission: tuple[AdmissionPolicy, ...] | None = None
    runtime_class_missing: str = ""
    lacking: tuple[Right, ...] = ()
    lacking_prewarm: tuple[Right, ...] = ()
    config: AgentConfig = field(default_factory=AgentConfig)
    wished: Mapping[str, Wished] = field(default_factory=dict)
    refused_sets: Mapping[str, str] = field(default_factory=dict)
    said: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    bound: Mapping[str, tuple[SeenPod, ...]] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()
    young: frozenset[str] = frozenset()
    has_claims_driver: bool = False

    def on(self, node: Node) -> tuple[SeenPod, ...]:
        """Pods that are bound to it and have not ended."""
        return self.bound.get(node.name, ())

    def agents_on(self, node: Node) -> tuple[SeenPod, ...]:
        """The agent's own."""
        sets = {str(one) for one in self.agents or ()}
        return tuple(one for one in self.on(node) if one.daemon_set in sets)
