"""What the pods of this node serve, recognised once for each: a pod's containers stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from agent.desired.recognise import recognise
from agent.model.demand import Serving

Object = Mapping[str, Any]


class PodServings:
    """By UID."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Serving, ...]] = {}

    def of(self, pod: Object) -> tuple[Serving, ...]:
        """Of a v1 Pod."""
        uid = pod["metadata"]["uid"]
        if uid not in self._known:
            self._known[uid] = recognise(pod.get("spec") or {})
        return self._known[uid]

    def keep(self, pods: Iterable[Object]) -> None:
        """Forget all others."""
        uids = {pod["metadata"]["uid"] for pod in pods}
        self._known = {uid: servings for uid, servings in self._known.items() if uid in uids}
