"""One event, two forms: ``core/v1`` as it is stored, ``events.k8s.io/v1`` with the newer words."""

from __future__ import annotations

from hack.devcluster import kinds
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object

_NEW_WORDS = {
    "involvedObject": "regarding",
    "message": "note",
    "source": "deprecatedSource",
    "firstTimestamp": "deprecatedFirstTimestamp",
    "lastTimestamp": "deprecatedLastTimestamp",
    "count": "deprecatedCount",
    "reportingComponent": "reportingController",
}
_OLD_WORDS = {new: old for old, new in _NEW_WORDS.items()}


def shown_as(kind: Kind, obj: Object) -> Object:
    """The stored object in the words of the kind that was asked for."""
    if kind is not kinds.NEW_EVENTS:
        return obj
    return {_NEW_WORDS.get(key, key): value for key, value in obj.items()} | {"apiVersion": kind.api_version}


def stored_form(kind: Kind, obj: Object) -> Object:
    if kind is not kinds.NEW_EVENTS:
        return obj
    return {_OLD_WORDS.get(key, key): value for key, value in obj.items()} | {"apiVersion": "v1"}
