"""A cluster as it should be: GPU Operator without its mig-manager, the base and prewarming applied, agents that work, and
a pod that serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import yaml

from agent.desired.layout_file import parse_layouts
from agent.desired.sharing import sharings
from agent.model import labels
from agent.model.report import NodeStatus
from agent.report.plugin_config import config_map
from hack.devcluster import gpu_operator, kinds
from hack.devcluster.kinds import ALL_KINDS
from hack.devcluster.objects import Object, dig, name_of, namespace_of
from tests.fakes.devcluster import DevCluster, bare_node, dev_cluster
from tests.manifests.sources import BASE, MANIFESTS, rendered

GPU_NODES = ("gpu-1", "gpu-2")
SLICE = "nvidia.com/mig-1g.10gb"
LARGE = "nvidia.com/mig-3g.40gb"
PLUGIN_CONFIG = "warmslice-device-plugin"
AGENTS = "warmslice"
LAYOUTS = """\
version: v1
mig-configs:
  day: [{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 4, 3g.40gb: 1}}]
  night: [{devices: all, mig-enabled: true, mig-devices: {7g.80gb: 1}}]
  shared:
  - devices: all
    mig-enabled: true
    mig-devices: {1g.10gb: 7}
    sharing: {strategy: time-slicing, replicas: {1g.10gb: 4}}
"""
CATALOG = """\
models:
- {repository: acme/chat, name: chat, gate: true}
- {repository: acme/embed, name: embed}
sets:
  serving: [chat, embed]
"""
SETTINGS = "hub_token_file: /etc/warmslice-hub/token\n"
PREWARMING = f"{SETTINGS}prewarm: declared\n"
_OFFERS = {SLICE: 4, LARGE: 1}
_SECONDS = 10.0


@asynccontextmanager
async def furnished(folder: Path, now: float) -> AsyncIterator[DevCluster]:
    """Roles are enforced; every pod of a DaemonSet runs and is ready. ``now`` is seconds since the epoch."""
    async with dev_cluster(folder) as cluster:
        cluster.control_plane.server.gate.authorizer.enforced = True
        _nodes(cluster, now)
        _operator(cluster)
        _agents(cluster)
        _serving(cluster)
        # The agent and the device plugin on each node, and the pod that serves.
        await _all_run(cluster, 2 * len(GPU_NODES) + 1)
        yield cluster


def file_of(cluster: DevCluster, name: str, text: str) -> None:
    """Another content of one of the agent's ConfigMaps (``settings``, ``layouts`` or ``catalog``)."""
    cluster.merge(kinds.CONFIGMAPS, f"{AGENTS}-{name}", {"data": {f"{name}.yaml": text}}, AGENTS)


def agent_pod(cluster: DevCluster, node: str) -> Object:
    """The agent's pod on that node."""
    return next(pod for pod in cluster.api.all(kinds.PODS, AGENTS) if dig(pod, "spec.nodeName") == node)


def told(cluster: DevCluster, pod: Object, status: Object) -> None:
    """What its kubelet would say of a pod."""
    cluster.merge(kinds.PODS, name_of(pod), {"status": status}, namespace_of(pod), subresource="status")


def running(pod: Object) -> Object:
    """The status of a pod of which every container is ready."""
    containers = [
        {"name": one["name"], "ready": True, "restartCount": 0, "state": {"running": {}}}
        for one in pod["spec"]["containers"]
    ]
    return {
        "phase": "Running",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": containers,
    }


def _nodes(cluster: DevCluster, now: float) -> None:
    said = NodeStatus("success", "applied", "'day' applied", now - 7200, layout="day", offers=_OFFERS)
    known = {
        "nvidia.com/gpu.present": "true",
        "nvidia.com/mig.capable": "true",
        labels.STRATEGY: "mixed",
        labels.CONFIG: "day",
        labels.STATE: "success",
        labels.MODEL_SET: "serving",
        f"{labels.MODEL_PREFIX}chat": "ready",
        f"{labels.MODEL_PREFIX}embed": "fetching",
        f"{SLICE}.replicas": "1",
        f"{SLICE}.sharing-strategy": "none",
        f"{labels.DEPLOY_PREFIX}mig-manager": "true",
        **{client.label: "true" for client in labels.CLIENTS},
    }
    allocatable = {name: str(count) for name, count in _OFFERS.items()}
    cluster.create(kinds.NODES, bare_node("cpu-1"))
    for name in GPU_NODES:
        cluster.create(kinds.NODES, bare_node(name, labels=known, allocatable=allocatable))
        cluster.merge(kinds.NODES, name, {"metadata": {"annotations": {labels.STATUS: said.to_json()}}})


def _operator(cluster: DevCluster) -> None:
    gpu_operator.install(cluster.api, PLUGIN_CONFIG, "default")
    made = yaml.safe_load(config_map(sharings(parse_layouts(LAYOUTS, "layouts.yaml"))))
    cluster.create(kinds.CONFIGMAPS, made, gpu_operator.NAMESPACE)
    spec = {"migManager": {"enabled": False}, "mig": {"strategy": "mixed"}}
    cluster.create(kinds.CLUSTER_POLICIES, {"metadata": {"name": "cluster-policy"}, "spec": spec})
    cluster.create(kinds.RUNTIME_CLASSES, {"metadata": {"name": "nvidia"}, "handler": "nvidia"})


def _agents(cluster: DevCluster) -> None:
    prewarm = yaml.safe_load_all((MANIFESTS / "components" / "prewarm" / "rbac.yaml").read_text("utf-8"))
    for item in (*rendered(BASE), *prewarm):
        kind = next(k for k in ALL_KINDS if (k.api_version, k.name) == (item["apiVersion"], item["kind"]))
        cluster.create(kind, item)
    for name, text in (("settings", SETTINGS), ("layouts", LAYOUTS), ("catalog", CATALOG)):
        file_of(cluster, name, text)


def serving_pod() -> dict[str, Any]:
    """A template that reads a model from the cache of its node, on a slice of its own, with some urgency."""
    mount = {"name": "models", "mountPath": "/models", "readOnly": True}
    container = {
        "name": "server",
        "image": "example.org/serve:1",
        "resources": {"limits": {SLICE: "1"}},
        "volumeMounts": [mount],
    }
    return {
        "metadata": {"labels": {"app": "chat"}},
        "spec": {
            "priorityClassName": "realtime",
            "nodeSelector": {f"{labels.MODEL_PREFIX}chat": "ready"},
            "containers": [container],
            "volumes": [{"name": "models", "hostPath": {"path": "/var/lib/warmslice/hub"}}],
        },
    }


def _serving(cluster: DevCluster) -> None:
    cluster.create(kinds.PRIORITY_CLASSES, {"metadata": {"name": "realtime"}, "value": 1_000_000})
    template = serving_pod()
    spec = {"replicas": 1, "selector": {"matchLabels": {"app": "chat"}}, "template": template}
    cluster.create(kinds.DEPLOYMENTS, {"metadata": {"name": "chat"}, "spec": spec})
    budget = {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "chat"}}}
    cluster.create(kinds.BUDGETS, {"metadata": {"name": "chat"}, "spec": budget})


async def _all_run(cluster: DevCluster, count: int) -> None:
    async with asyncio.timeout(_SECONDS):
        while len(bound := [pod for pod in cluster.api.all(kinds.PODS) if dig(pod, "spec.nodeName")]) < count:
            await asyncio.sleep(0.005)
    for pod in bound:
        told(cluster, pod, running(pod))
