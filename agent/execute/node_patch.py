"""The node writes of a change, as merge patches.

# Note [The node object is the journal]
# What a step takes over and the record of it travel in one patch, with the resourceVersion that the decision was made on.
# So there is no moment in which a cordon, a guard or a paused label is ours and not written down, and a decision made on
# a stale node is refused by the API server (409) before anything is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from agent.model import labels
from agent.model.node import Node
from agent.model.operation import Operation
from agent.model.steps import AnnounceReboot, Begin, End, Pause, Recordon, Resume, Turn

Patch = dict[str, Any]


Write = Begin | Recordon | Turn | Pause | AnnounceReboot | Resume | End
"""Steps that are one write of the node."""


def patch_for(step: Write, node: Node, said: Patch) -> Patch:
    """The one write of a step. ``said`` is what the report wants said in the same write: ``{"labels", "annotations"}``."""
    changed_labels: dict[str, str | None] = dict(said.get("labels", {}))
    annotations: dict[str, str | None] = dict(said.get("annotations", {}))
    operation: Operation | None = step.operation
    unschedulable: bool | None = None
    match step:
        case Begin():
            annotations.update(dict(step.guards))
            changed_labels.update(dict.fromkeys(step.operation.labels, labels.PAUSED))
            unschedulable = True
        case Recordon():
            unschedulable = True
        case Turn() | AnnounceReboot():
            pass
        case Pause():
            changed_labels.update(dict.fromkeys(step.operation.labels, labels.PAUSED))
        case Resume():
            changed_labels.update(_labels_back(step.operation, node))
            if step.plugin_config != node.labels.get(labels.PLUGIN_CONFIG):
                changed_labels[labels.PLUGIN_CONFIG] = step.plugin_config
            operation = replace(step.operation, labels={}, touched=True, resumed=True, prepared="")
        case End():
            changed_labels.update(_labels_back(step.operation, node))
            annotations.update(_annotations_back(step.operation, node))
            operation = None
            unschedulable = None if not step.uncordon else False
    annotations[labels.OPERATION] = operation.to_json() if operation is not None else None
    return _patch(node, changed_labels, annotations, unschedulable)


def saying(node: Node, said: Patch) -> Patch:
    """A write that only says something."""
    return _patch(node, said.get("labels", {}), said.get("annotations", {}), None)


def _labels_back(operation: Operation, node: Node) -> Mapping[str, str | None]:
    """Originals of what is still as we set it; what somebody has changed since is theirs."""
    return {key: value for key, value in operation.labels.items() if node.labels.get(key) == labels.PAUSED}


def _annotations_back(operation: Operation, node: Node) -> Mapping[str, str | None]:
    return {
        key: value
        for key, value in operation.annotations.items()
        if node.annotations.get(key) == labels.AUTOSCALER_GUARDS.get(key)
    }


def _patch(
    node: Node, changed: Mapping[str, str | None], annotations: Mapping[str, str | None], unschedulable: bool | None
) -> Patch:
    patch: Patch = {
        "metadata": {
            "resourceVersion": node.resource_version,
            "labels": dict(changed),
            "annotations": dict(annotations),
        }
    }
    if unschedulable is not None:
        # Null removes the field, as kubectl uncordon leaves the node.
        patch["spec"] = {"unschedulable": True if unschedulable else None}
    return patch
