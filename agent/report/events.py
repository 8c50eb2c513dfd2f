"""Events on our node, as the API server takes them. Pure."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from agent.model.node import Node


def node_event(
    node: Node, reason: str, message: str, action: str, now: float, warning: bool = False, since: float | None = None
) -> dict[str, Any]:
    """A core/v1 Event. Node events live in the namespace ``default``; ``eventTime`` has six digits.

    ``reason`` is a word with dashes as in the status; kubectl shows it in camel case. ``now`` is seconds since the epoch.
    What is said of the same moment ``since`` is the same Event: the API server takes it once, whoever says it.
    """
    moment = datetime.fromtimestamp(now, UTC)
    digest = hashlib.sha256(f"{reason}{message}{now if since is None else since}".encode()).hexdigest()[:10]
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{node.name}.{digest}", "namespace": "default"},
        "involvedObject": {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid},
        "reason": "".join(part.capitalize() for part in reason.split("-")),
        "message": message[:1000],
        "type": "Warning" if warning else "Normal",
        "eventTime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
        "action": action,
        "reportingComponent": "warmslice.dev/agent",
        "reportingInstance": node.name,
        "source": {"component": "warmslice", "host": node.name},
    }
