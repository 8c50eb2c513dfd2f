"""Which models of workloads belong on a node, and in what order with those of the catalog. Pure.

# Note [Whose word counts]
# Whoever can make a pod can name a model. So what a workload names is fetched only where the administrator's settings allow it,
# by the workload's namespace and the model's name, and every agent asks that of its own settings, whatever the ConfigMap says.
# Without such a permission (``declared``) a workload can do no more than bring a model of the catalog forward.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.model.catalog import ENGINES, Catalog, CatalogModel, derived_name
from agent.model.demand import Allowed, Demand, Rank, Role, in_turns
from agent.model.labels import MODEL_PREFIX, STATE
from agent.model.node import Taint
from agent.model.place import NODE_NAME, Place, Term

_PASSING = (
    "node.kubernetes.io/",
    "node.cloudprovider.kubernetes.io/",
    "karpenter.sh/",
    "startup-taint.cluster-autoscaler.kubernetes.io/",
)
"""Taints of these domains say how a node is at the moment, and so do those that end so."""
_PASSING_ENDS = ("/agent-not-ready", "/agent-not-scheduled")
_GPU = "nvidia.com/gpu"
_HARD = frozenset({"NoSchedule", "NoExecute"})
_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.onnx", "*.h5", "*.msgpack", "*.ot")
_LONGEST_NAME = 54


@dataclass(frozen=True, slots=True)
class NodeSide:
    """A node as a pod's wishes see it. ``offers``: how many of each nvidia.com resource it has once its layout is as wished."""

    name: str
    labels: Mapping[str, str]
    taints: tuple[Taint, ...]
    offers: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model wanted on this node; ``because`` says why, for people. Of one rank the higher ``priority`` goes first."""

    model: CatalogModel
    rank: Rank
    because: str
    priority: int = 0
    namespace: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """``wanted``: in the order in which they are to be fetched. ``refused``: demands that nobody allows. ``over``: so many models
    that workloads want are left out, since there are more than may be."""

    wanted: tuple[Wanted, ...]
    refused: tuple[Demand, ...] = ()
    over: int = 0


def fits(place: Place, node: NodeSide) -> bool:
    """Whether a pod would run there, if nothing else did. What passes by itself (cordons, taints of the node's lifecycle, our own
    gate, a model's label that the agent is about to set) is no obstacle."""
    known = {**node.labels, NODE_NAME: node.name}
    if any(known.get(key) != value for key, value in place.selector if not _is_ours(key)):
        return False
    if place.terms is not None and not any(_holds(term, known) for term in place.terms):
        return False
    asked = {name for name, _ in place.resources}
    # Clusters with the admission plugin ExtendedResourceToleration (GKE) give pods that toleration when they are made.
    given = asked | ({_GPU} if any(name.startswith("nvidia.com/") for name in asked) else set())
    hard = (taint for taint in node.taints if taint.effect in _HARD and taint.key not in given)
    lasting = (taint for taint in hard if not _passes(taint))
    if any(not any(one.tolerates(taint) for one in place.tolerations) for taint in lasting):
        return False
    return all(_offered(node, name) >= count for name, count in place.resources)


def choose(
    catalog: Catalog,
    declared: Sequence[CatalogModel],
    demands: Iterable[Demand],
    allowed: Allowed | None,
    most: int,
) -> Choice:
    """``declared``: the catalog's models wanted here. ``demands``: of workloads that fit this node. ``allowed`` None: they only
    bring models of the catalog forward. At most ``most`` models that the catalog does not want here come in."""
    wanted = {m.name: Wanted(m, Rank.DECLARED, "the catalog", m.priority) for m in declared}
    refused = []
    groups: dict[tuple[str, str], list[Demand]] = {}
    for demand in demands:
        here = next((m for m in declared if _is(m, demand)), None)
        if here is None and (allowed is None or not allowed.allows(demand.namespace, demand.named.repository)):
            refused.append(demand)
            continue
        groups.setdefault((demand.named.repository, demand.named.revision), []).append(demand)
    for group in groups.values():
        first = max(group, key=lambda demand: (demand.rank, demand.priority))
        model = next((m for m in declared if _is(m, first)), None) or _model(catalog, group)
        known = wanted.get(model.name)
        if known is None or first.rank > known.rank:
            priority = max(model.priority, first.priority)
            because = first.by or "a workload"
            wanted[model.name] = Wanted(model, first.rank, because, priority, first.namespace)
    ordered = sorted(wanted.values(), key=lambda one: (-one.rank, -one.priority, one.model.name))
    left_out = _left_out(ordered, {model.name for model in declared}, most)
    return Choice(
        tuple(one for one in ordered if one.model.name not in left_out),
        () if allowed is None else tuple(refused),
        len(left_out),
    )


def publishable(
    demands: Iterable[Demand], allowed: Allowed | None, declared: Collection[tuple[str, str]]
) -> tuple[list[Demand], list[Demand]]:
    """(what all agents are told, what nobody allows). ``declared``: repository and revision of what the catalog has, which any
    workload may bring forward; ``allowed`` None: everything is told, and each agent takes of it what its catalog has."""
    told: list[Demand] = []
    refused: list[Demand] = []
    for demand in demands:
        named = demand.named
        may = allowed is None or allowed.allows(demand.namespace, named.repository)
        may = may or (named.repository, named.revision) in declared
        (told if may else refused).append(demand)
    return told, refused


def not_outranked(wanted: Sequence[Wanted], declared: Collection[str], short: str | None) -> tuple[CatalogModel, ...]:
    """Those that need not make room for the model of the name ``short``, which does not fit: what is wanted as urgently, and
    what the administrator has declared, whatever workloads say."""
    least = next((one.rank for one in wanted if one.model.name == short), Rank.HISTORY)
    return tuple(one.model for one in wanted if one.rank >= least or one.model.name in declared)


def _left_out(ordered: Sequence[Wanted], declared: Collection[str], most: int) -> frozenset[str]:
    """What pods of this node wait for comes in first; of the rest each namespace has its turn."""
    asked = [one for one in ordered if one.model.name not in declared]
    here = [one for one in asked if one.rank is Rank.HERE]
    others = in_turns((one for one in asked if one.rank is not Rank.HERE), lambda one: one.namespace)
    return frozenset(one.model.name for one in [*here, *others][most:])


def _holds(term: Term, known: Mapping[str, str]) -> bool:
    return bool(term) and all(_is_ours(one.key) or one.matches(known) for one in term)


def _is_ours(key: str) -> bool:
    """Labels that the agent is about to write."""
    return key.startswith(MODEL_PREFIX) or key == STATE


def _offered(node: NodeSide, resource: str) -> int:
    """Under somebody else's sharing a slice may have another name than the layout's."""
    return max(node.offers.get(resource, 0), node.offers.get(resource.removesuffix(".shared"), 0))


def _passes(taint: Taint) -> bool:
    return taint.is_gate or taint.key.startswith(_PASSING) or taint.key.endswith(_PASSING_ENDS)


def _is(model: CatalogModel, demand: Demand) -> bool:
    return (model.repository, model.revision) == (demand.named.repository, demand.named.revision)


def _model(catalog: Catalog, group: Sequence[Demand]) -> CatalogModel:
    """As the catalog has it where it does, wherever it wants it; else with what the demands say."""
    known = next((model for model in catalog.models.values() if _is(model, group[0])), None)
    if known is not None:
        # What the catalog does with it on the nodes that it means it for is nothing that a workload can ask for elsewhere.
        return replace(known, gate=False, pin=False, page_cache=False)
    named = group[0].named
    servers = {demand.server for demand in group if demand.named.role is not Role.TOKENIZER}
    engine = servers.pop() if len(servers) == 1 else None
    words_only = all(demand.named.role is Role.TOKENIZER for demand in group)
    return CatalogModel(
        name=_name(catalog, named.repository, named.revision),
        repository=named.repository,
        revision=named.revision,
        ignore_patterns=_WEIGHTS if words_only else None,
        engine=engine if engine in ENGINES else None,
    )


def _name(catalog: Catalog, repository: str, revision: str) -> str:
    """That of the repository, with the revision where it is not the main branch; another one where the catalog uses that, or
    another repository could have it too."""
    full = repository if revision == "main" else f"{repository}--{revision}"
    name, plain = derived_name(full), full.replace("/", "--")
    own = plain == plain.strip("-_.") and "--" not in revision and "/" not in revision
    if name and own and name not in catalog.models:
        return name
    digest = hashlib.sha256(f"{repository}@{revision}".encode()).hexdigest()[:8]
    return f"{name[:_LONGEST_NAME]}-{digest}" if name else f"model-{digest}"
