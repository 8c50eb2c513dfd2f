"""Events on our node, as the API server takes them. Pure."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any

from agent.model.fit import Owner
from agent.model.node import Node

_LONGEST_NAME = 240
"""With a dot and the digest behind it, an object's name still."""


def node_event(
    node: Node, reason: str, message: str, action: str, now: float, warning: bool = False, since: float | None = None
) -> dict[str, Any]:
    """A core/v1 Event. Node events live in the namespace ``default``; ``eventTime`` has six digits.

    ``reason`` is a word with dashes as in the status; kubectl shows it in camel case. ``now`` is seconds since the epoch.
    What is said of the same moment ``since`` is the same Event: the API server takes it once, whoever says it.
    """
    subject = {"apiVersion": "v1", "kind": "Node", "name": node.name, "uid": node.uid}
    return _event("default", subject, node.name, reason, message, action, now, warning, since)


def object_event(
    namespace: str, owner: Owner, node: str, reason: str, message: str, action: str, now: float
) -> dict[str, Any]:
    """The like about an object of a namespace, as a warning."""
    subject = {"apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid}
    return _event(namespace, {**subject, "namespace": namespace}, node, reason, message, action, now, True, None)


def _event(
    namespace: str,
    subject: dict[str, str],
    node: str,
    reason: str,
    message: str,
    action: str,
    now: float,
    warning: bool,
    since: float | None,
) -> dict[str, Any]:
    moment = datetime.fromtimestamp(now, UTC)
    digest = hashlib.sha256(f"{reason}{message}{now if since is None else since}".encode()).hexdigest()[:10]
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{subject['name'][:_LONGEST_NAME]}.{digest}", "namespace": namespace},
        "involvedObject": subject,
        "reason": "".join(part.capitalize() for part in reason.split("-")),
        "message": message[:1000],
        "type": "Warning" if warning else "Normal",
        "eventTime": moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
        "action": action,
        "reportingComponent": "warmslice.dev/agent",
        "reportingInstance": node,
        "source": {"component": "warmslice", "host": node},
    }
