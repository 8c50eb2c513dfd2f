"""When a pod was scheduled, had its image, started and became ready: by its conditions, statuses and Events. Reads only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from agent.model.cold_start import Moments

Object = Mapping[str, Any]


def moments_of(pod: Object, container: str, events: Iterable[Object] = ()) -> Moments:
    """Of one container of a v1 Pod. Of one that was started anew the first start is not told any more, once it was twice."""
    status = pod.get("status") or {}
    listed = [*(status.get("containerStatuses") or []), *(status.get("initContainerStatuses") or [])]
    ready = _since(status, "Ready")
    own: Object = next((one for one in listed if one.get("name") == container), {})
    return Moments(
        scheduled=_since(status, "PodScheduled"),
        pulled=min((at for at in _pulls(events, container) if ready is None or at <= ready), default=None),
        started=min(_starts(own), default=None),
        ready=ready,
        restarts=_whole(own.get("restartCount")),
    )


def _whole(value: Any) -> int:
    return value if isinstance(value, int) else 0


def _since(status: Object, kind: str) -> float | None:
    conditions = status.get("conditions") or []
    found: Object = next((one for one in conditions if one.get("type") == kind and one.get("status") == "True"), {})
    return _seconds(found.get("lastTransitionTime"))


def _starts(container: Object) -> list[float]:
    states = [container.get("state") or {}, container.get("lastState") or {}]
    told = [(state.get(word) or {}).get("startedAt") for state in states for word in ("running", "terminated")]
    return [seconds for one in told if (seconds := _seconds(one)) is not None]


def _pulls(events: Iterable[Object], container: str) -> list[float]:
    """The kubelet says Pulled also of an image that was there."""
    told = [
        event.get("firstTimestamp") or event.get("eventTime") or event.get("lastTimestamp")
        for event in events
        if event.get("reason") == "Pulled"
        and (event.get("involvedObject") or {}).get("fieldPath", "").endswith(f"{{{container}}}")
    ]
    return [seconds for one in told if (seconds := _seconds(one)) is not None]


def _seconds(timestamp: Any) -> float | None:
    if not isinstance(timestamp, str):
        return None
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None
