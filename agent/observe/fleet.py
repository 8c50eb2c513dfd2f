"""Leases, and the metadata of nodes, as the fleet's nouns. Reads only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agent.model import labels
from agent.model.fleet import SLOT_PREFIX, WORD, Leader, Member, Slot

Object = Mapping[str, Any]


def slot_of(item: Object) -> Slot | None:
    """A slot Lease; None for any other."""
    metadata = item["metadata"]
    if not metadata["name"].startswith(SLOT_PREFIX):
        return None
    return Slot(
        node=metadata["name"].removeprefix(SLOT_PREFIX),
        uid=metadata["uid"],
        version=metadata["resourceVersion"],
        since=datetime.fromisoformat(metadata["creationTimestamp"]).timestamp(),
        granted=bool((item.get("spec") or {}).get("holderIdentity")),
    )


def leader_of(item: Object) -> Leader:
    """The leader's Lease."""
    metadata, spec = item["metadata"], item.get("spec") or {}
    return Leader(
        holder=spec.get("holderIdentity") or "",
        renewed=spec.get("renewTime") or "",
        version=metadata["resourceVersion"],
        terms=spec.get("leaseTransitions") or 0,
        said=(metadata.get("annotations") or {}).get(WORD, ""),
    )


def member_of(item: Object, label_key: str) -> Member:
    """A node, or its metadata."""
    metadata = item["metadata"]
    there = metadata.get("labels") or {}
    return Member(
        metadata["name"],
        any(_asks(key, label_key) for key in there),
        bool((metadata.get("annotations") or {}).get(labels.OPERATION)),
    )


def kept_of_member(item: Object, label_key: str) -> dict[str, Any]:
    """What a leader keeps of a node: there may be ten thousand."""
    metadata = item["metadata"]
    there, notes = metadata.get("labels") or {}, metadata.get("annotations") or {}
    return {
        "metadata": {
            "name": metadata["name"],
            "uid": metadata["uid"],
            "resourceVersion": metadata.get("resourceVersion", ""),
            "labels": {key: "" for key in there if _asks(key, label_key)},
            "annotations": {labels.OPERATION: "there"} if notes.get(labels.OPERATION) else {},
        }
    }


def _asks(key: str, label_key: str) -> bool:
    return key == label_key or labels.gpu_named_by(key) is not None
