"""What the pods of this node serve, recognised once for each: a pod's containers stay as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.desired.recognise import recognise
from agent.model.catalog import derived_name
from agent.model.demand import PodModel, Role, Serving
from agent.observe.demand import has_ended

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

    def models(self, pods: Iterable[Object], names: Mapping[tuple[str, str], str]) -> tuple[PodModel, ...]:
        """Which models these pods serve, as long as they run. ``names``: of those that are wanted here, by repository and
        revision, what they are called."""
        return tuple(sorted({one for pod in pods if not has_ended(pod) for one in self._models_of(pod, names)}))

    def _models_of(self, pod: Object, names: Mapping[tuple[str, str], str]) -> Iterator[PodModel]:
        metadata = pod["metadata"]
        for serving in self.of(pod):
            for one in serving.models:
                if one.role is Role.MODEL:
                    name = names.get((one.repository, one.revision)) or derived_name(one.repository)
                    yield PodModel(metadata["namespace"], metadata["name"], name)
