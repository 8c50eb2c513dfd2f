"""Which configuration the device plugin shall take: the value of the node's label, forward and back.

# Note [A change of sharing]
# The label is written together with the clients' labels once the hardware is where it shall be: then the device plugin that
# reads it, whether it starts anew or gets its config-manager's signal, finds neither a GPU without slices nor half a layout.
# The node is cordoned for it although no pod moves: while the plugin registers anew the kubelet has no device to give, and a
# pod that arrives then stays failed (UnexpectedAdmissionError).
"""

from __future__ import annotations

from agent.model.desired import Desired, Wish
from agent.model.labels import PLUGIN_CONFIG
from agent.model.node import Node
from agent.model.operation import Operation
from agent.model.sharing import is_foreign, named_by
from agent.plan.advertise import Word


def config_on(node: Node) -> str | None:
    """The configuration chosen now; None for none."""
    return node.labels.get(PLUGIN_CONFIG)


def config_for(wish: Desired, node: Node) -> str | None:
    """The configuration that goes with a wish: its own, else none of ours."""
    now = config_on(node)
    if wish.sharing is not None:
        return wish.sharing.entry
    return now if not now or is_foreign(now) else None


def config_towards(wish: Wish, operation: Operation, node: Node) -> str | None:
    """The configuration at the end of an operation. On the way back the one found at its begin, unless somebody chose since."""
    if isinstance(wish, Desired) and not operation.failure:
        return config_for(wish, node)
    now, found = config_on(node), operation.plugin_config
    if is_foreign(now or "") or (now is None and is_foreign(found or "")):
        return now
    return found


def in_words(config: str | None, node: Node) -> str:
    """What changes in how the device plugin shares; empty where nothing does."""
    if config == config_on(node):
        return ""
    return f"share by {config}" if config else "share no more"


def hint(node: Node) -> str:
    """Where to look when the device plugin does not show what its label asks for."""
    config = config_on(node)
    return (
        f" (does the device plugin's ConfigMap have the entry {config}?)" if config and not is_foreign(config) else ""
    )


DISCOVERY_SECONDS = 90.0
"""GPU feature discovery looks every 60 s by default (its ``--sleep-interval``)."""


def word(operation: Operation | None, node: Node, waited: bool = True) -> Word:
    """Whose word counts for the replicas that the node should show.

    Where we have just taken a configuration of ours away, the labels of GPU feature discovery speak of that one for a while
    (``waited``: no longer).
    """
    now = config_on(node) or ""
    sharing = named_by(now)
    if sharing is not None:
        return Word(sharing)
    taken_away = operation is not None and named_by(operation.plugin_config or "") is not None and not now
    return Word(discovery=not taken_away or waited)
