"""Pods on GPUs, or that want to be: what keeps them from it, and what keeps them from being moved. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from agent.model import labels
from agent.model.cluster_view import ANY, ClusterView, SeenBudget, SeenPod
from agent.model.doctor import Code, Finding
from agent.model.node import Node
from agent.model.report import NodeStatus
from agent.model.sharing import named_by

URGENT = 1_000_000
"""Kubernetes leaves it open what a priority means. Whoever gives a pod a million or more has classes for what must not wait:
the default is 0, and classes for batch work are small or negative numbers."""
SYSTEM = 2_000_000_000
"""From here on classes are Kubernetes' own (``system-cluster-critical``)."""
_URGENT_NAMES = ("realtime", "real-time", "latency")
_SHARED = ".shared"
_LEFT = ("UnexpectedAdmissionError", "NodeShutdown", "Terminated", "Shutdown")
_LEFT_PREFIX = "OutOfnvidia.com/"
_MOST_NAMED = 5


def pods(view: ClusterView) -> Iterator[Finding]:
    """All of it."""
    nodes = {node.name: node for node in view.nodes}
    offered = _offered(view)
    on_nodes = frozenset(name for node in view.nodes for name in labels.models_of(node.labels))
    for one in view.pods or ():
        if one.pod.gpus and not one.pod.finished and one.node in nodes:
            yield from _urgent(one, nodes[one.node])
        if one.pending:
            yield from _resource(view, one, offered)
            yield from _model(view, one, on_nodes)
        yield from _writable(view, one)
    yield from _failed(view)
    yield from _budgets(view)


def _urgent(one: SeenPod, node: Node) -> Iterator[Finding]:
    if one.pod.owner_kind == "DaemonSet" or not _is_urgent(one):
        return
    resource = next((name for name in sorted(one.pod.gpus) if _time_sliced(name, node)), "")
    if resource:
        own = resource.removesuffix(_SHARED)
        instead = own if own != "nvidia.com/gpu" else "nvidia.com/mig-3g.40gb"
        yield Finding(
            Code.LATENCY_ON_SHARED,
            f"pod {one.pod.ref}",
            f"its priority is {one.pod.priority} ({one.priority_class or 'no class'}), and it has {resource}, which is "
            f"time-sliced on {node.name}: while others run it waits",
            f"give it a slice of its own (resources.limits {instead} on a node whose layout does not share it), or share whole "
            "GPUs by mps instead",
            node.name,
        )


def _is_urgent(one: SeenPod) -> bool:
    named = any(word in one.priority_class.lower() for word in _URGENT_NAMES)
    return named or URGENT <= one.pod.priority < SYSTEM


def _time_sliced(resource: str, node: Node) -> bool:
    """By our own configuration, else by what GPU feature discovery writes beside the resource; where that says nothing of how, a
    slice can only be shared in time."""
    own = resource.removesuffix(_SHARED)
    sharing = named_by(node.labels.get(labels.PLUGIN_CONFIG, ""))
    if sharing is not None:
        return sharing.means == "time-slicing" and sharing.resources.get(own, 1) > 1
    replicas = node.labels.get(f"{own}.replicas", "1")
    how = node.labels.get(f"{own}.sharing-strategy", "")
    if how:
        return how == "time-slicing"
    return resource.endswith(_SHARED) or (replicas.isdigit() and int(replicas) > 1)


def _resource(view: ClusterView, one: SeenPod, offered: frozenset[str] | None) -> Iterator[Finding]:
    asked = [name for name in sorted(one.pod.gpus) if name.startswith("nvidia.com/mig-")]
    unknown = [name for name in asked if offered is not None and not {name, name.removesuffix(_SHARED)} & offered]
    if unknown:
        plain = unknown[0].removesuffix(_SHARED).removeprefix("nvidia.com/mig-")
        makers = sorted(name for name, made in view.config.layouts.items() if plain in made)
        makes = (
            f"{', '.join(makers[:3])} of the layouts file would make it" if makers else "no layout of the file makes it"
        )
        layout = makers[0] if makers else f"1x{plain}"
        yield Finding(
            Code.RESOURCE_UNKNOWN,
            f"pod {one.pod.ref}",
            f"it asks for {unknown[0]}, which no node has and no wished layout will make; {makes}",
            f"ask for a slice that there is, or, on a node whose layout may be replaced by it, `kubectl label node NODE "
            f"{view.config.label_key}={layout} --overwrite`",
        )


def _offered(view: ClusterView) -> frozenset[str] | None:
    """Resources that some node has, or will have once its layout is applied, in whatever period of it. None where that does not
    say all: a DRA driver may give slices for a resource that no node shows (DeviceClass, extendedResourceName)."""
    later = {made for wished in view.wished.values() for made in wished.later}
    if view.has_claims_driver or ANY in later:
        return None
    found = {f"nvidia.com/mig-{made}" for made in later}
    for node in view.nodes:
        status = NodeStatus.from_json(node.annotations.get(labels.STATUS, "null"))
        will_be = dict(status.offers or {}) if status is not None else {}
        found |= {name for counts in (node.allocatable, will_be) for name, count in counts.items() if count}
    return frozenset(found)


def _model(view: ClusterView, one: SeenPod, on_nodes: frozenset[str]) -> Iterator[Finding]:
    if view.config.catalog is None:
        return
    for key in _model_labels(one):
        name = key.removeprefix(labels.MODEL_PREFIX)
        if name not in view.config.catalog.models and name not in on_nodes:
            known = ", ".join(sorted(view.config.catalog.models)[:5]) or "none"
            yield Finding(
                Code.MODEL_UNKNOWN,
                f"pod {one.pod.ref}",
                f"it selects nodes by the label {key}, and no model of that name is in the catalog (it has {known}) or on a node",
                f"add the model to the catalog with `name: {name}`, or select by a name that `warmslice cache ls` prints",
            )


def _model_labels(one: SeenPod) -> list[str]:
    keys = [key for key, _ in one.place.selector]
    keys += [requirement.key for term in one.place.terms or () for requirement in term]
    return sorted({key for key in keys if key.startswith(labels.MODEL_PREFIX)})


def _writable(view: ClusterView, one: SeenPod) -> Iterator[Finding]:
    hub = view.config.cache_host_path
    if not hub or one.pod.finished or one.daemon_set in {str(each) for each in view.agents or ()}:
        return
    for mount in one.mounts:
        if mount.host_path and not mount.read_only and _reaches(mount.host_path, hub):
            yield Finding(
                Code.HUB_WRITABLE,
                f"pod {one.pod.ref}",
                f"its container {mount.container} has {mount.host_path} of the node writable at {mount.path}: it could change "
                "what other pods load",
                f"set readOnly: true at spec.containers[{mount.container}].volumeMounts[{mount.path}] in what makes the pod",
                one.node,
            )
            return


def _reaches(path: str, hub: str) -> bool:
    """It or what is in it, or the directory that is made for it. Who has all of the node's disk is no reader of models."""
    mine, its = PurePosixPath(path), PurePosixPath(hub)
    return mine.is_relative_to(its) or mine == its.parent


def _failed(view: ClusterView) -> Iterator[Finding]:
    """By namespace and node: each is one command."""
    groups: dict[tuple[str, str], list[SeenPod]] = {}
    for one in view.pods or ():
        left = one.pod.reason in _LEFT or one.pod.reason.startswith(_LEFT_PREFIX)
        if one.pod.phase == "Failed" and left and one.pod.gpus:
            groups.setdefault((one.pod.ref.namespace, one.node), []).append(one)
    for (namespace, node), found in sorted(groups.items()):
        names = [one.pod.ref.name for one in found]
        alone = [one.pod.ref.name for one in found if not one.pod.owner_kind]
        again = f"; nothing makes {_some(alone)} anew: create it again" if alone else ""
        yield Finding(
            Code.PODS_LEFT_FAILED,
            f"namespace {namespace}",
            f"{_some(names)} stay Failed ({found[0].pod.reason}: {found[0].message or 'no message'})",
            f"`kubectl -n {namespace} delete pod {' '.join(names[:20])}`{again}",
            node,
        )


def _budgets(view: ClusterView) -> Iterator[Finding]:
    running = [one for one in view.pods or () if one.pod.gpus and one.node and not one.pod.finished]
    by_space: dict[str, list[SeenBudget]] = {}
    for budget in view.budgets or ():
        by_space.setdefault(budget.budget.namespace, []).append(budget)
    shut: dict[str, tuple[SeenBudget, SeenPod]] = {}
    for one in running:
        covering = [each for each in by_space.get(one.pod.ref.namespace, ()) if each.budget.covers(one.pod)]
        if len(covering) > 1:
            names = [each.budget.name for each in covering]
            yield Finding(
                Code.TWO_BUDGETS,
                f"pod {one.pod.ref}",
                f"PodDisruptionBudgets {' and '.join(names)} both cover it, and the API server evicts no such pod",
                f"make their selectors disjoint, or remove the one that nobody needs: "
                f"`kubectl -n {one.pod.ref.namespace} delete pdb NAME`",
                one.node,
            )
        shut.update({f"{each.budget.namespace}/{each.budget.name}": (each, one) for each in covering if _is_shut(each)})
    for name, (budget, one) in sorted(shut.items()):
        field = f"maxUnavailable is {budget.most}" if budget.most else f"minAvailable is {budget.least}"
        yield Finding(
            Code.BUDGET_NEVER_MET,
            f"PodDisruptionBudget {name}",
            f"its {field} and it counts {budget.expected} pods, so that {one.pod.ref} and the like can never be evicted",
            "set maxUnavailable: 1, or run one replica more than minAvailable",
        )


def _is_shut(budget: SeenBudget) -> bool:
    """Whatever runs, and not just now."""
    if budget.most:
        return budget.most in ("0", "0%")
    share = budget.least.removesuffix("%")
    if not share.isdigit() or not budget.expected:
        return False
    # Of a share as many as it is rounded up to.
    least = -(-budget.expected * int(share) // 100) if budget.least.endswith("%") else int(share)
    return budget.expected <= least


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
