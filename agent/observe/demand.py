"""The node as the pods of workloads see it, and its own pods as far as they say how they stand. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.model import labels
from agent.model.node import Node
from agent.model.report import NodeStatus

Object = Mapping[str, Any]

_ENDED = frozenset({"Succeeded", "Failed"})


def offers_of(node: Node, label_key: str) -> dict[str, int]:
    """How many of each nvidia.com resource a node has once its layout is as wished: by the agent's word where a layout is
    asked for and can be had, else what it shows now."""
    asked = labels.asked_layout(node.labels, label_key)
    status = NodeStatus.from_json(node.annotations.get(labels.STATUS, "null"))
    if asked and status is not None and status.offers is not None and status.state != "failed":
        return dict(status.offers)
    # While a device plugin starts anew allocatable is 0, and capacity stays.
    names = node.allocatable.keys() | node.capacity.keys()
    return {name: max(node.allocatable.get(name, 0), node.capacity.get(name, 0)) for name in names}


def has_ended(pod: Object) -> bool:
    """Whether it runs no more, or is told to go."""
    ended = (pod.get("status") or {}).get("phase") in _ENDED
    return ended or bool(pod["metadata"].get("deletionTimestamp"))


def is_ready(pod: Object) -> bool:
    """By its condition."""
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
