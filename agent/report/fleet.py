"""All nodes of a cluster in one table: what each is asked for, how it stands and since when, what is free, its models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.model import labels
from agent.model.node import Node
from agent.model.report import NodeStatus

_HEAD = ("NODE", "LAYOUT", "STATE", "SINCE", "REASON", "FREE", "MODELS")


@dataclass(frozen=True, slots=True)
class FleetNode:
    """One node. ``layout`` is what its labels ask for, ``free`` are slices (or whole GPUs) that are advertised and that no pod
    here has asked for, by the device plugin's name without its domain. ``status`` None: the agent has said nothing.
    """

    name: str
    layout: str
    status: NodeStatus | None
    changing: bool
    free: Mapping[str, int]
    models: Mapping[str, str]


def fleet_node(node: Node, asked: Mapping[str, int], label_key: str) -> FleetNode | None:
    """None for a node that nobody asks anything of, and of which no agent speaks. ``asked`` are the requests of its pods."""
    own = sorted(f"gpu-{which}={value}" for which, value in labels.own_layouts(node.labels).items())
    layout = ", ".join(filter(None, (node.labels.get(label_key, ""), *own)))
    models = labels.models_of(node.labels)
    status = NodeStatus.from_json(node.annotations.get(labels.STATUS, "null"))
    if not (layout or models or labels.STATUS in node.annotations):
        return None
    left = Counter(dict(node.allocatable)) - Counter(dict(asked))
    free = {name.removeprefix("nvidia.com/").removeprefix("mig-"): count for name, count in sorted(left.items())}
    return FleetNode(node.name, layout, status, labels.OPERATION in node.annotations, free, models)


def fleet_table(nodes: Iterable[FleetNode], now: float) -> str:
    """The table, by name of the node; under it in full what is said of nodes that do not have their layout, and how many nodes
    are in which state."""
    fleet = sorted(nodes, key=lambda node: node.name)
    if not fleet:
        return "no node has a layout, a model or a word of an agent"
    rows = [_HEAD, *(_row(node, now) for node in fleet)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    without = [f"{n.name}: {n.status.message}" for n in fleet if n.status is not None and n.status.state != "success"]
    states = Counter(node.status.state if node.status is not None else "silent" for node in fleet)
    lines += ["", *without] if without else []
    return "\n".join([*lines, "", ", ".join(f"{count} {state}" for state, count in sorted(states.items()))])


def fleet_document(nodes: Iterable[FleetNode]) -> list[dict[str, Any]]:
    """The same for a program."""
    return [
        {
            "node": node.name,
            "layout": node.layout,
            "state": node.status.state if node.status is not None else "",
            "reason": node.status.reason if node.status is not None else "",
            "message": node.status.message if node.status is not None else "",
            "since": node.status.since if node.status is not None else None,
            "changing": node.changing,
            "free": dict(node.free),
            "models": dict(node.models),
        }
        for node in sorted(nodes, key=lambda node: node.name)
    ]


def _row(node: FleetNode, now: float) -> tuple[str, ...]:
    status = node.status
    ready = sum(state == "ready" for state in node.models.values())
    return (
        node.name,
        node.layout or "-",
        status.state if status is not None else "-",
        age(now - status.since) if status is not None else "-",
        (status.reason + (" (in mid-change)" if node.changing else "")) if status is not None else "-",
        " ".join(f"{count}x{name}" for name, count in node.free.items()) or "-",
        f"{ready}/{len(node.models)}" if node.models else "-",
    )


def age(seconds: float) -> str:
    """As kubectl writes ages: two units at most, the smaller one while it says something."""
    left = max(0, int(seconds))
    if left < 120:
        return f"{left}s"
    if left < 600:
        return f"{left // 60}m{left % 60}s" if left % 60 else f"{left // 60}m"
    if left < 3 * 3600:
        return f"{left // 60}m"
    if left < 8 * 3600:
        return f"{left // 3600}h{left // 60 % 60}m" if left // 60 % 60 else f"{left // 3600}h"
    if left < 48 * 3600:
        return f"{left // 3600}h"
    return f"{left // 86400}d"
