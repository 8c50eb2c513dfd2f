"""Driver upgrades by GPU Operator, as its label on the node tells of them.

# Note [A driver upgrade in mid-change]
# The operator cordons the node, moves GPU pods, pauses the GPU clients (ours among them, where we run under its label) and
# replaces the driver, which no open NVML session may keep loaded. In any of these phases the agent stops at the next pass,
# which is a safe point as any other, and closes NVML; what the driver's end takes of a half cut GPU is seen and planned anew
# after it. Once the driver is back the operator validates the node by its GPU clients, which a change of ours may have paused:
# so from there the change goes on, but for its end, since the node is uncordoned by the operator first.
"""

from __future__ import annotations

from agent.model import labels
from agent.model.node import Node

_IDLE = frozenset({"", "upgrade-required", "upgrade-done", "upgrade-failed"})
"""No driver is being replaced: none was asked for, it is queued, or it is over."""

_DRIVER_IS_BACK = frozenset({"validation-required", "uncordon-required"})


def upgrading(node: Node) -> str:
    """The phase of the upgrade that runs on this node, by the operator's name; "" for none."""
    state = node.labels.get(labels.DRIVER_UPGRADE_STATE, "")
    return "" if state in _IDLE else state


def driver_leaves(node: Node) -> bool:
    """Whether the driver is about to be unloaded, or is away: no session may be open, and nothing can be known. A change under
    way goes on once it is back; another does not begin before the upgrade is over."""
    state = upgrading(node)
    return bool(state) and not (state in _DRIVER_IS_BACK and labels.OPERATION in node.annotations)
