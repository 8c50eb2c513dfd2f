"""Acts at the start-up gate. Nothing is decided here. See Note [The start-up gate] in model/gate.py."""

from __future__ import annotations

from typing import Any, Protocol, assert_never

from agent.execute.node_patch import Patch
from agent.model import labels
from agent.model.gate import ForgetGate, GateStep, NoteGate, OpenGate
from agent.model.node import Node


class NodeWriter(Protocol):
    """The write that the gate needs of the API server."""

    async def patch_node(self, name: str, patch: Patch) -> dict[str, Any]:
        """Merge-patch; ConflictError when the version is stale. Returns the node."""


def gate_patch(step: GateStep, node: Node) -> Patch:
    """The one write of a step, for the node as it was when the step was chosen."""
    match step:
        case NoteGate(gate):
            return _patch(node, gate.to_json())
        case OpenGate():
            others = [dict(taint.written) for taint in node.taints if not taint.is_gate]
            # Null removes the field, as kubectl taint leaves the node.
            return {**_patch(node, None), "spec": {"taints": others or None}}
        case ForgetGate():
            return _patch(node, None)
        case _:
            assert_never(step)


def _patch(node: Node, record: str | None) -> Patch:
    return {"metadata": {"resourceVersion": node.resource_version, "annotations": {labels.GATE: record}}}


class GateHands:
    """Performs steps; each may be the last before a kill."""

    def __init__(self, cluster: NodeWriter) -> None:
        self._cluster = cluster

    async def perform(self, step: GateStep, node: Node) -> dict[str, Any]:
        """The node as the API server has it now."""
        return await self._cluster.patch_node(node.name, gate_patch(step, node))
