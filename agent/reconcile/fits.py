"""Says of pods of this node whose model cannot fit the slice that they ask for, before their server crashes for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.model.cache import CacheReport, ModelReport, ModelState
from agent.model.demand import Role
from agent.model.errors import AgentError, GoneError, RefusedError
from agent.model.fit import Misfit, ModelShape, Owner
from agent.model.node import Node
from agent.observe.demand import has_ended, is_ready
from agent.observe.model_shape import read_shape
from agent.plan.fit import misfit
from agent.reconcile.servings import PodServings
from agent.reconcile.telling import EventSink
from agent.report.events import object_event

log = logging.getLogger("warmslice.fits")

Object = Mapping[str, Any]


class SliceFits:
    """``look`` after each pass of the cache loop. ``found`` is told all pods that cannot fit, each time; their owners have an
    Event once. Files are read again only where the commit that is here may have changed. ``pods`` None: not known yet."""

    def __init__(
        self,
        cache: Path,
        node: Callable[[], Node | None],
        pods: Callable[[], Sequence[Object] | None],
        servings: PodServings,
        events: EventSink,
        found: Callable[[tuple[Misfit, ...]], None],
        now: Callable[[], float],
    ) -> None:
        self._cache = cache
        self._node = node
        self._pods = pods
        self._servings = servings
        self._events = events
        self._found = found
        self._now = now
        self._shapes: dict[tuple[str, str], tuple[str, ModelShape | None]] = {}
        self._told: set[tuple[str, str]] = set()
        self._fit: set[str] = set()

    async def look(self, report: CacheReport) -> None:
        """By the cache loop's last report."""
        node = self._node()
        there = self._pods()
        if node is None or there is None:
            return
        self._fit |= {owner_of(pod).uid for pod in there if is_ready(pod)}
        pods = [pod for pod in there if self._may_not_fit(pod)]
        named = {(one.repository, one.revision) for pod in pods for s in self._servings.of(pod) for one in s.models}
        for model in report.models:
            if model.state is ModelState.READY and (model.repository, model.revision) in named:
                await self._read(model)
        misfits = tuple(one for pod in pods for one in self._misfits(pod, node))
        self._found(misfits)
        for one in misfits:
            await self._tell(one, node)
        self._told &= {(one.owner.uid, one.message) for one in misfits}
        self._fit &= {owner_of(pod).uid for pod in there}

    def _may_not_fit(self, pod: Object) -> bool:
        """One that was ready, or whose owner had another that was, fits."""
        return not has_ended(pod) and owner_of(pod).uid not in self._fit and bool(self._servings.of(pod))

    async def _read(self, model: ModelReport) -> None:
        key = (model.repository, model.revision)
        if model.commit is not None and self._shapes.get(key, ("", None))[0] != model.commit:
            shape = await asyncio.to_thread(read_shape, self._cache, model.repository, model.commit)
            self._shapes[key] = (model.commit, shape)

    def _misfits(self, pod: Object, node: Node) -> Iterator[Misfit]:
        metadata = pod["metadata"]
        for serving in self._servings.of(pod):
            first = serving.models[0]
            _, shape = self._shapes.get((first.repository, first.revision), ("", None))
            if shape is None or first.role is not Role.MODEL:
                continue
            message = misfit(serving, shape, node.labels)
            if message is not None:
                yield Misfit(metadata["namespace"], metadata["name"], owner_of(pod), first.repository, message)

    async def _tell(self, one: Misfit, node: Node) -> None:
        key = (one.owner.uid, one.message)
        if key in self._told:
            return
        message = f"pod {one.pod} cannot run {one.model}: {one.message}"
        event = object_event(one.namespace, one.owner, node.name, "model-does-not-fit", message, "Fit", self._now())
        try:
            await self._events.create_event(one.namespace, event)
        except (RefusedError, GoneError) as error:
            log.warning("event.lost", extra={"error": str(error)})
        except AgentError:
            return  # at the next look
        self._told.add(key)
        about = {"pod": f"{one.namespace}/{one.pod}", "model": one.model}
        log.warning("pod.misfit", extra={**about, "detail": one.message})


def owner_of(pod: Object) -> Owner:
    """Its controller; the pod itself where it has none."""
    metadata = pod["metadata"]
    for one in metadata.get("ownerReferences") or []:
        if one.get("controller"):
            return Owner(one.get("apiVersion", ""), one.get("kind", ""), one.get("name", ""), one.get("uid", ""))
    return Owner("v1", "Pod", metadata["name"], metadata["uid"])
