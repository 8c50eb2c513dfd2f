"""Reads a cluster once and says what is wrong with it.

A handful of lists, whatever the number of nodes: nodes and pods page by page, of pods only what is of interest is kept.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from agent.adapters.inspection import Inspection
from agent.desired.catalog import wanted_models
from agent.desired.demand import place_of
from agent.desired.layout_file import LayoutFile
from agent.desired.meaning import meaning
from agent.model import labels
from agent.model.catalog import Catalog, CatalogRefusal
from agent.model.cluster_view import (
    AdmissionPolicy,
    ClusterView,
    DaemonSet,
    PluginConfigMap,
    SeenPod,
    Wished,
)
from agent.model.doctor import Diagnosis, Gap
from agent.model.errors import BadInputError
from agent.model.node import Node
from agent.model.rights import base_rights, prewarm_rights
from agent.observe.cluster import node_of
from agent.observe.cluster_view import (
    AGENT_APP,
    PLUGIN_APPS,
    admission_policies,
    daemon_set,
    event_words,
    gives_by_claims,
    is_silent,
    operator_policy,
    plugin_config_map,
    seen_budget,
    seen_pod,
)
from agent.plan.doctor import examine_cluster
from agent.plan.doctor.nodes import YOUNG_SECONDS, sign_of_gpus
from agent.reconcile.doctor.config import config_of, texts, token_fault

Object = Mapping[str, Any]

_ADMISSION = "/apis/admissionregistration.k8s.io/v1"
_EVENTS_OF_AGENTS = "involvedObject.kind=Node,reportingComponent=warmslice.dev/agent"


@dataclass(frozen=True, slots=True)
class _Sets:
    """The DaemonSets of interest; None where they cannot be listed. ``maps``: by plugin, the ConfigMap that it was given."""

    agents: tuple[DaemonSet, ...] | None
    plugins: tuple[DaemonSet, ...]
    maps: Mapping[str, str]
    claims_driver: bool = False


async def examine(look: Inspection, node: str, now: float, alone: bool = False) -> Diagnosis:
    """The whole cluster; with ``node`` that node, and what is no node's alone. ``alone``: other nodes and their pods are not even
    read, since whoever asks has the memory of an agent's container. BadInputError where there is no such node; RetryError where
    the API server does not answer at all."""
    query = {"fieldSelector": f"metadata.name={node}"} if alone else {}
    found = [
        (node_of(item), is_silent(item), _made_at(item))
        async for item in look.needed("nodes", "/api/v1/nodes", **query)
    ]
    nodes = tuple(one for one, _, _ in found)
    if node and not any(one.name == node for one in nodes) and not look.gaps:
        raise BadInputError(f"there is no node {node!r}")
    sets = await _sets(look)
    pods, counted = await _pods(look, nodes, _selectors(node, alone))
    policies = await look.listed("GPU Operator's ClusterPolicy", "/apis/nvidia.com/v1/clusterpolicies")
    budgets = await look.listed("PodDisruptionBudgets", "/apis/policy/v1/poddisruptionbudgets")
    events = await look.listed(
        "Events of the agents", "/api/v1/namespaces/default/events", fieldSelector=_EVENTS_OF_AGENTS
    )
    view = ClusterView(
        now=now,
        nodes=nodes,
        pods=pods,
        agents=sets.agents,
        plugins=sets.plugins,
        plugin_configs=await _plugin_configs(look, sets),
        policies=tuple(map(operator_policy, policies)) if policies is not None else None,
        budgets=tuple(map(seen_budget, budgets)) if budgets is not None else None,
        said=_said(events or ()),
        bound=_bound(pods or ()),
        has_claims_driver=sets.claims_driver,
        silent=frozenset(one.name for one, silent, _ in found if silent),
        young=frozenset(one.name for one, _, made in found if now - made < YOUNG_SECONDS),
    )
    if sets.agents:
        view = await _with_agents(look, view, sets.agents[0])
    looked = {
        "nodes": len(nodes),
        "pods": counted,
        "DaemonSets of interest": len(sets.agents or ()) + len(sets.plugins),
        "PodDisruptionBudgets": len(view.budgets or ()),
    }
    return Diagnosis(examine_cluster(view, node), tuple(look.gaps), looked)


async def _sets(look: Inspection) -> _Sets:
    listed = await look.listed("DaemonSets", "/apis/apps/v1/daemonsets")
    agents: list[DaemonSet] = []
    plugins: list[DaemonSet] = []
    maps: dict[str, str] = {}
    claims_driver = False
    for item in listed or ():
        spec = ((item.get("spec") or {}).get("template") or {}).get("spec") or {}
        one = daemon_set(item, place_of(spec))
        claims_driver = claims_driver or gives_by_claims(item)
        if one.app == AGENT_APP:
            agents.append(one)
        elif one.app in PLUGIN_APPS:
            plugins.append(one)
            maps[str(one)] = plugin_config_map(item)
    return _Sets(None if listed is None else tuple(agents), tuple(plugins), maps, claims_driver)


async def _pods(
    look: Inspection, nodes: Iterable[Node], chosen: Iterable[str]
) -> tuple[tuple[SeenPod, ...] | None, int]:
    """(those of interest, how many were looked at), of those that these field selectors choose."""
    before, counted, kept = len(look.gaps), 0, []
    with_gpus = {one.name for one in nodes if sign_of_gpus(one) or labels.asked_layout(one.labels, labels.CONFIG)}
    async for item in _all_pods(look, chosen):
        counted += 1
        spec = item.get("spec") or {}
        one = seen_pod(item, place_of(spec))
        if one.node in with_gpus or one.pod.gpus or one.pod.app == AGENT_APP or _names_a_model(one):
            kept.append(one)
    return (tuple(kept) if len(look.gaps) == before else None), counted


def _selectors(node: str, alone: bool) -> list[str]:
    """Of one node those that are there, and, unless it is looked at alone, those that no node has yet."""
    if not node:
        return [""]
    return [f"spec.nodeName={node}", *([] if alone else ["spec.nodeName="])]


def _made_at(item: Object) -> float:
    made = item["metadata"].get("creationTimestamp")
    return datetime.fromisoformat(made).timestamp() if made else 0.0


async def _all_pods(look: Inspection, chosen: Iterable[str]) -> AsyncIterator[Object]:
    for selector in chosen:
        query = {"fieldSelector": selector} if selector else {}
        async for item in look.stream("pods", "/api/v1/pods", **query):
            yield item


def _names_a_model(one: SeenPod) -> bool:
    terms = (requirement.key for term in one.place.terms or () for requirement in term)
    keys = (*(key for key, _ in one.place.selector), *terms)
    return any(key.startswith(labels.MODEL_PREFIX) for key in keys)


def _bound(pods: Iterable[SeenPod]) -> Mapping[str, tuple[SeenPod, ...]]:
    found: dict[str, list[SeenPod]] = {}
    for one in pods:
        if one.node and not one.pod.finished:
            found.setdefault(one.node, []).append(one)
    return {node: tuple(there) for node, there in found.items()}


def _said(events: Iterable[Object]) -> Mapping[str, tuple[tuple[str, str], ...]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for item in events:
        node, reason, message = event_words(item)
        found.setdefault(node, []).append((reason, message))
    return {node: tuple(said) for node, said in found.items()}


async def _plugin_configs(look: Inspection, sets: _Sets) -> Mapping[str, PluginConfigMap | None]:
    found: dict[str, PluginConfigMap | None] = {}
    for plugin in sets.plugins:
        name = sets.maps[str(plugin)]
        if not name:
            found[str(plugin)] = None
            continue
        path = f"/api/v1/namespaces/{plugin.namespace}/configmaps/{name}"
        known, item = await look.found(f"ConfigMap {plugin.namespace}/{name}", path)
        if known:
            entries = frozenset((item or {}).get("data") or {})
            found[str(plugin)] = PluginConfigMap(name, entries, item is not None)
    return found


async def _with_agents(look: Inspection, view: ClusterView, agents: DaemonSet) -> ClusterView:
    """What there is only where the agent is installed; of several DaemonSets the first one's configuration."""
    found, missing, unread = await texts(look, agents)
    config, file, settings = config_of(agents, found, missing, unread)
    config = replace(config, token_fault=await token_fault(look, agents, config.catalog, settings))
    account = (agents.namespace, agents.account)
    values = {value for node in view.nodes for value in _wishes_of(node, config.label_key)}
    runtime = agents.runtime_class
    there = await look.exists("RuntimeClasses", f"/apis/node.k8s.io/v1/runtimeclasses/{runtime}") if runtime else True
    return replace(
        view,
        config=config,
        runtime_class_missing=runtime if there is False else "",
        lacking=await look.lacking(account, base_rights(agents.namespace)),
        lacking_prewarm=await look.lacking(account, prewarm_rights(agents.namespace)) if config.prewarm else (),
        admission=await _admission(look, account),
        wished=_meanings(values, file, view.now),
        refused_sets=_refused_sets(config.catalog, view.nodes),
    )


def _wishes_of(node: Node, label_key: str) -> Iterable[str]:
    return {node.labels.get(label_key, ""), *labels.own_layouts(node.labels).values()} - {""}


def _meanings(values: Iterable[str], file: LayoutFile | None, now: float) -> Mapping[str, Wished]:
    return {value: meaning(value, file, now) for value in values}


def _refused_sets(catalog: Catalog | None, nodes: Iterable[Node]) -> Mapping[str, str]:
    if catalog is None:
        return {}
    found = {node.name: wanted_models(catalog, node.labels) for node in nodes if labels.MODEL_SET in node.labels}
    return {name: refusal.message for name, refusal in found.items() if isinstance(refusal, CatalogRefusal)}


async def _admission(look: Inspection, account: tuple[str, str]) -> tuple[AdmissionPolicy, ...] | None:
    policies = await look.listed("admission policies", f"{_ADMISSION}/validatingadmissionpolicies")
    bindings = await look.listed("their bindings", f"{_ADMISSION}/validatingadmissionpolicybindings")
    if policies is None or bindings is None:
        return None
    namespace, name = account
    return admission_policies(policies, bindings, f"system:serviceaccount:{namespace}:{name}")


def nothing_asked() -> Gap:
    """Where no API server can be reached."""
    return Gap(
        "the cluster", "nothing says how to reach an API server (--kubeconfig, KUBECONFIG, a pod's account)", False
    )
