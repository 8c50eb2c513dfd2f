"""Ways to plant a mistake in a development cluster that is as it should be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.adapters import clock
from agent.model import labels
from agent.model.node import Node
from agent.model.report import NodeStatus
from agent.report.events import node_event
from hack.devcluster import gpu_operator, kinds
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object, name_of, owner_reference
from tests.fakes.devcluster import DevCluster, simple_pod
from tests.fakes.furnished import AGENTS, agent_pod, file_of, running, told

NODE = "gpu-1"
PLUGIN = gpu_operator.DEVICE_PLUGIN
Plant = Callable[[DevCluster], None]


def void(_: object) -> None:
    return


def labelled(key: str, value: str | None) -> Plant:
    return lambda cluster: void(cluster.label_node(NODE, {key: value}))


def annotated(known: dict[str, str], cordoned: bool = False) -> Plant:
    patch = {"metadata": {"annotations": known}, "spec": {"unschedulable": cordoned or None}}
    return lambda cluster: void(cluster.merge(kinds.NODES, NODE, patch))


def said(state: str, reason: str, message: str, hours: float = 0.1, **more: Any) -> Plant:
    """The agent's status."""

    def plant(cluster: DevCluster) -> None:
        status = NodeStatus(state, reason, message, clock.now() - hours * 3600, layout="day", **more)  # type: ignore[arg-type]
        annotated({labels.STATUS: status.to_json()})(cluster)

    return plant


def merged(kind: Kind, name: str, patch: Object, namespace: str = "") -> Plant:
    return lambda cluster: void(cluster.merge(kind, name, patch, namespace))


def gone(kind: Kind, name: str, namespace: str = "") -> Plant:
    return lambda cluster: cluster.delete(kind, name, namespace)


def file(name: str, text: str) -> Plant:
    return lambda cluster: file_of(cluster, name, text)


def both(*plants: Plant) -> Plant:
    def plant(cluster: DevCluster) -> None:
        for one in plants:
            one(cluster)

    return plant


def of_daemon_set(
    name: str,
    app: dict[str, str],
    namespace: str = "kube-system",
    container: Object | None = None,
    node: str = NODE,
) -> Plant:
    """A running pod on the node that somebody else's DaemonSet made."""

    def plant(cluster: DevCluster) -> None:
        if cluster.find(kinds.NAMESPACES, namespace) is None:
            cluster.create(kinds.NAMESPACES, {"metadata": {"name": namespace}})
        made = simple_pod(f"{name}-x", labels=app, node=node)
        made["spec"]["containers"][0] |= container or {}
        cluster.label_node(node, {f"example.org/{name}": "true"})
        template = {
            "metadata": {"labels": app},
            "spec": {**made["spec"], "nodeName": None, "nodeSelector": {f"example.org/{name}": "true"}},
        }
        spec = {"selector": {"matchLabels": app}, "template": template, "updateStrategy": {"type": "OnDelete"}}
        owner = cluster.create(kinds.DAEMONSETS, {"metadata": {"name": name}, "spec": spec}, namespace)
        made["metadata"]["ownerReferences"] = [owner_reference(owner)]
        told(cluster, cluster.create(kinds.PODS, made, namespace), running(made))

    return plant


def pod(
    name: str, status: Object | None = None, *, node: str = NODE, spec: Object | None = None, **known: Any
) -> Plant:
    def plant(cluster: DevCluster) -> None:
        made = simple_pod(name, node=node, **known)
        made["spec"] |= spec or {}
        created = cluster.create(kinds.PODS, made)
        if status is not None:
            told(cluster, created, status)
        elif node:
            told(cluster, created, running(created))

    return plant


def agent_says(reason: str, message: str) -> Plant:
    """An Event of the agent about the node."""

    def plant(cluster: DevCluster) -> None:
        uid = cluster.get(kinds.NODES, NODE)["metadata"]["uid"]
        node = Node(NODE, uid, "", {}, {}, False, {}, {}, "")
        cluster.create(kinds.EVENTS, node_event(node, reason, message, "Cache", clock.now(), warning=True), "default")

    return plant


def agent_not_ready(waiting: Object | None) -> Plant:
    def plant(cluster: DevCluster) -> None:
        agent = agent_pod(cluster, NODE)
        status = running(agent)
        status["conditions"] = [{"type": "Ready", "status": "False"}]
        status["containerStatuses"][0] |= {"ready": False, "restartCount": 7}
        if waiting is not None:
            status["containerStatuses"][0]["state"] = {"waiting": waiting}
        told(cluster, agent, status)

    return plant


def no_more_agents(cluster: DevCluster) -> None:
    """A quota keeps the DaemonSet's controller from making the pod again."""
    spec = {"hard": {"pods": "0"}}
    cluster.create(kinds.QUOTAS, {"metadata": {"name": "none"}, "spec": spec}, AGENTS)
    cluster.delete(kinds.PODS, name_of(agent_pod(cluster, NODE)), AGENTS, grace_seconds=0)


def daemon_set_patch(spec: Object) -> Plant:
    """Without a roll-out: the pods stay as they are."""
    patch = {"spec": {"updateStrategy": {"type": "OnDelete", "rollingUpdate": None}, "template": {"spec": spec}}}
    return merged(kinds.DAEMONSETS, AGENTS, patch, AGENTS)


def other_image(cluster: DevCluster) -> None:
    template = cluster.get(kinds.DAEMONSETS, AGENTS, AGENTS)["spec"]["template"]["spec"]["containers"]
    changed = [{**one, "image": "example.org/warmslice:9.9.9"} for one in template]
    daemon_set_patch({"containers": changed})(cluster)


def plugin_without_config(cluster: DevCluster) -> None:
    containers = [
        one
        for one in cluster.get(kinds.DAEMONSETS, PLUGIN, gpu_operator.NAMESPACE)["spec"]["template"]["spec"][
            "containers"
        ]
        if one["name"] != "config-manager"
    ]
    spec = {"containers": containers, "initContainers": None, "volumes": None}
    patch = {"spec": {"updateStrategy": {"type": "OnDelete"}, "template": {"spec": spec}}}
    cluster.merge(kinds.DAEMONSETS, PLUGIN, patch, gpu_operator.NAMESPACE)


def plugin_without_strategy(cluster: DevCluster) -> None:
    template = cluster.get(kinds.DAEMONSETS, PLUGIN, gpu_operator.NAMESPACE)["spec"]["template"]
    containers = [{**one, "env": None} for one in template["spec"]["containers"]]
    patch = {"spec": {"updateStrategy": {"type": "OnDelete"}, "template": {"spec": {"containers": containers}}}}
    cluster.merge(kinds.DAEMONSETS, PLUGIN, patch, gpu_operator.NAMESPACE)


def policy_about_another(cluster: DevCluster) -> None:
    conditions = [{"name": "an-agent", "expression": "request.userInfo.username == 'somebody'"}]
    cluster.merge(kinds.ADMISSION_POLICIES, "warmslice-pods", {"spec": {"matchConditions": conditions}})


def budget(name: str, app: str = "chat", **spec: Any) -> Plant:
    body = {"selector": {"matchLabels": {"app": app}}, **spec}
    return lambda cluster: void(cluster.create(kinds.BUDGETS, {"metadata": {"name": name}, "spec": body}))


def state_beside_models(cluster: DevCluster) -> None:
    volumes = cluster.get(kinds.DAEMONSETS, AGENTS, AGENTS)["spec"]["template"]["spec"]["volumes"]
    inside = {"name": "state", "hostPath": {"path": "/var/lib/warmslice/state"}}
    daemon_set_patch({"volumes": [inside if one["name"] == "state" else one for one in volumes]})(cluster)


def silent_node(cluster: DevCluster) -> None:
    """Nobody hears of its kubelet."""
    conditions = [{"type": "Ready", "status": "Unknown"}]
    cluster.merge(kinds.NODES, NODE, {"status": {"conditions": conditions}}, subresource="status")
