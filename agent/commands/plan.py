"""`warmslice plan`: what a layout would do, on paper, to another node by its node object, or to this host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.adapters import clock
from agent.adapters.kube import Kube, node_path
from agent.commands.here import Here
from agent.model import labels
from agent.model.answer import Answer, GpuAnswer
from agent.model.errors import BadInputError, GoneError
from agent.model.node import Node, Pod
from agent.model.report import NodeStatus
from agent.model.snapshot import Snapshot
from agent.observe.cluster import budget_of, node_of, pod_of
from agent.observe.remote import gpus_by_api, in_full
from agent.reconcile.foretell import foretell
from agent.reconcile.policy import catalog_to_wait_for, policy_of
from agent.reconcile.sources import sources_of, unready_models
from agent.report.answer import budgets_of, held_back
from agent.settings import Settings

_ASK_THERE = f"annotate it with {labels.DRY_RUN}=true and read {labels.PLAN}"


async def plan_here(settings: Settings, to: str | None) -> Answer:
    """On the host itself: NVML and PodResources, and the API server where there is a way to it."""
    async with Here.open(settings) as here:
        seen = await here.look()
    node = _wishing(seen.node, settings.mig_config_label, to)
    last = NodeStatus.from_json(node.annotations.get(labels.STATUS, "null"))
    sources = sources_of(settings.mig_config_label, settings.layouts_file, node.labels, last, clock.now())
    seen = replace(seen, node=node, unready=unready_models(catalog_to_wait_for(settings), node))
    answer = foretell(sources, seen, policy_of(settings))
    unread = [f"GPU {gpu.index} cannot be read: {gpu.unknown}" for gpu in seen.gpus if gpu.unknown]
    unknown = ([] if here.asks_cluster else [here.WITHOUT_CLUSTER]) + unread
    return replace(answer, unknown="; ".join(unknown))


async def plan_for_node(settings: Settings, name: str, to: str | None, model: str | None) -> Answer:
    """Through the API server. Who holds which slice is not known there, but the agent's own answer to a dry run is."""
    kube = await Kube.connect(settings.kubeconfig)
    try:
        node = node_of(await kube.get(node_path(name)))
        pods = await kube.get("/api/v1/pods", fieldSelector=f"spec.nodeName={name}")
        budgets = tuple(budget_of(item) for item in await kube.budgets())
    except GoneError as error:
        raise BadInputError(f"there is no node {name!r}") from error
    finally:
        await kube.close()
    key = settings.mig_config_label
    told = Answer.from_json(node.annotations.get(labels.PLAN, "null"))
    if told is not None and node.labels.get(key) == told.layout and to in (None, told.layout):
        return told
    node = _wishing(node, key, to)
    status = NodeStatus.from_json(node.annotations.get(labels.STATUS, "null"))
    gpus = gpus_by_api(node, status, model)
    seen = Snapshot(0.0, node, gpus, (), (), budgets=budgets)
    sources = sources_of(key, settings.layouts_file, node.labels, status, clock.now())
    answer = foretell(sources, seen, policy_of(settings))
    there = replace(seen, pods=tuple(map(pod_of, pods.get("items", []))))
    return replace(_with_candidates(answer, there), unknown=_unknown(name, in_full(node, status, gpus)))


def _wishing(node: Node, key: str, to: str | None) -> Node:
    """The node with that label; with its own where none is given. BadInputError where it has none either."""
    wanted: Mapping[str, str] = {**node.labels, key: to} if to is not None else node.labels
    if not wanted.get(key):
        raise BadInputError(f"node {node.name} has no label {key}: say with --to which layout is meant")
    return replace(node, labels=wanted)


def _with_candidates(answer: Answer, seen: Snapshot) -> Answer:
    """Pods that ask for what goes; more than have to move, where several hold the same kind of slice."""
    gone = {resource for gpu in answer.gpus for resource in _resources(gpu)}
    refs = [pod.ref for pod in seen.pods if not pod.finished and _asks(pod, gone)]
    budgets = budgets_of(refs, seen)
    may_move = tuple(map(str, refs))
    return replace(answer, may_move=may_move, budgets=budgets, held_back=held_back(budgets, seen))


def _resources(gpu: GpuAnswer) -> set[str]:
    """The names under which the device plugin may have given these slices away."""
    profiles = {name.rpartition("@")[0].replace("+", ".") for name in gpu.destroy}
    return {f"nvidia.com/mig-{profile}" for profile in profiles} | ({"nvidia.com/gpu"} if profiles else set())


def _asks(pod: Pod, resources: set[str]) -> bool:
    return any(resource.removesuffix(".shared") in resources for resource in pod.gpus)


def _unknown(name: str, in_full: bool) -> str:
    more = "" if in_full else " GPUs outside MIG mode are not in it."
    return f"Planned from the placements last applied; who holds which slice only {name} knows: {_ASK_THERE}.{more}"
