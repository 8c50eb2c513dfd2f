"""What a change, an upgrade or a killed program left on a node. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model import labels
from agent.model.cluster_view import ClusterView
from agent.model.doctor import Code, Finding
from agent.model.errors import BadInputError
from agent.model.node import Node
from agent.model.operation import Operation
from agent.plan.doctor.nodes import is_ours, ready_agents
from agent.plan.doctor.owners import MIG_MANAGER
from agent.plan.upgrade import upgrading

_PAUSED_FOR_UPGRADE = "paused-for-driver-upgrade"
_DRIVER = "nvidia-driver-daemonset"
_FAILED = "upgrade-failed"


def leftovers(view: ClusterView) -> Iterator[Finding]:
    """All of it."""
    for node in view.nodes:
        yield from _operation(view, node)
        if labels.OPERATION not in node.annotations:
            yield from _paused(view, node)
            yield from _cordon(view, node)
        yield from _driver(node)


def _operation(view: ClusterView, node: Node) -> Iterator[Finding]:
    text = node.annotations.get(labels.OPERATION)
    if text is None:
        return
    where = f"node {node.name}"
    try:
        record = Operation.from_json(text)
    except BadInputError as error:
        what, _, fix = str(error).partition(": ")
        yield Finding(Code.OPERATION_UNREADABLE, where, what, fix, node.name)
        return
    if view.pods is not None and not ready_agents(view, node):
        yield Finding(
            Code.OPERATION_STUCK,
            where,
            f"annotation {labels.OPERATION} records a change to {record.layout!r}, and no agent here is ready to end it"
            + (": the node stays cordoned" if node.unschedulable else ""),
            f"get the agent to run there (`warmslice doctor {node.name}` says what keeps it): it goes on, or back",
            node.name,
        )


def _paused(view: ClusterView, node: Node) -> Iterator[Finding]:
    by_change = _keys(node, labels.PAUSED)
    by_upgrade = _keys(node, _PAUSED_FOR_UPGRADE)
    running = any(one.pod.app == MIG_MANAGER for one in view.on(node))
    if by_change and not (running and node.labels.get(labels.STATE) in ("pending", "rebooting")):
        yield _left_paused(node, by_change, labels.PAUSED, "no change of this agent is under way")
    if by_upgrade and not upgrading(node) and not _driver_starts(view, node):
        yield _left_paused(node, by_upgrade, _PAUSED_FOR_UPGRADE, "no upgrade of the driver is under way")


def _driver_starts(view: ClusterView, node: Node) -> bool:
    """Its pod pauses the clients itself whenever it starts."""
    return any(one.pod.app == _DRIVER and not one.ready for one in view.on(node))


def _keys(node: Node, value: str) -> list[str]:
    return sorted(key for key, now in node.labels.items() if key.startswith(labels.DEPLOY_PREFIX) and now == value)


def _left_paused(node: Node, keys: list[str], value: str, why: str) -> Finding:
    return Finding(
        Code.CLIENTS_LEFT_PAUSED,
        f"node {node.name}",
        f"{', '.join(keys)} is {value}, and {why}: these clients do not run",
        f"`kubectl label node {node.name} {' '.join(f'{key}=true' for key in keys)} --overwrite`",
        node.name,
    )


def _cordon(view: ClusterView, node: Node) -> Iterator[Finding]:
    """Who cordons a node on purpose leaves no guards of ours on it."""
    if not node.unschedulable or upgrading(node):
        return
    where = f"node {node.name}"
    if node.annotations.get(labels.KEEP_CORDONED) == "true" and is_ours(view, node):
        yield Finding(
            Code.KEPT_CORDONED,
            where,
            f"it is cordoned, and annotation {labels.KEEP_CORDONED}=true has the agent leave it so after a change",
            f"`kubectl annotate node {node.name} {labels.KEEP_CORDONED}-` and `kubectl uncordon {node.name}`",
            node.name,
        )
        return
    guards = [key for key, value in labels.AUTOSCALER_GUARDS.items() if node.annotations.get(key) == value]
    if len(guards) == len(labels.AUTOSCALER_GUARDS):
        yield Finding(
            Code.CORDON_LEFT,
            where,
            f"it is cordoned with {', '.join(guards)} on it, as in a change, and no change is under way",
            f"`kubectl uncordon {node.name}` and `kubectl annotate node {node.name} {' '.join(f'{key}-' for key in guards)}`",
            node.name,
        )


def _driver(node: Node) -> Iterator[Finding]:
    state = node.labels.get(labels.DRIVER_UPGRADE_STATE, "")
    where, said = f"node {node.name}", f"label {labels.DRIVER_UPGRADE_STATE} is {state}"
    if state == _FAILED:
        yield Finding(
            Code.DRIVER_UPGRADE_FAILED,
            where,
            f"{said}" + (", and the node is cordoned" if node.unschedulable else ""),
            "mend what the driver's pod there logs, then "
            f"`kubectl label node {node.name} {labels.DRIVER_UPGRADE_STATE}=upgrade-required --overwrite`",
            node.name,
        )
    elif upgrading(node) and node.unschedulable:
        yield Finding(
            Code.DRIVER_UPGRADING,
            where,
            f"{said}, and the node is cordoned: the agent does nothing meanwhile",
            "wait; where it does not move on, look at the driver's pod of the node and at "
            "`kubectl get events -n default --field-selector reason=GPUDriverUpgrade`",
            node.name,
        )
