"""The ledger of cold starts: notes where a pod's weights are until its server starts, and counts it once it is ready.

# Note [Once for each pod]
# Where the weights were at its start can be seen then only, so it is noted while a pod starts, in memory: of one that started
# while nobody looked it is unknown. What was counted is written on the node at once, with the pods that it speaks of, so that an
# agent that comes after a kill counts none of them again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent.model import labels
from agent.model.cache import CacheReport, ModelReport, ModelState
from agent.model.cold_start import Ledger, PodStart, Standing, Weights, vouch, worst
from agent.model.demand import Demand, Named, Rank
from agent.model.errors import AgentError
from agent.observe.demand import has_ended
from agent.observe.pod_start import moments_of
from agent.reconcile.servings import PodServings

log = logging.getLogger("warmslice.cold-starts")

_HISTORY_SECONDS = 7 * 86400.0
_WRITE_SECONDS = 10.0
_WRITE_MEMORY_SECONDS = 600.0
_LATE_SECONDS = 600.0
"""A pod that became ready so long before this process began is counted: the agent may have been away for a moment."""
_IN_MEMORY_RATIO = 0.9
"""A server that finds so much of its weights in memory hardly reads the disk."""

Object = Mapping[str, Any]


def standing_of(report: CacheReport) -> Standing:
    """Where the weights of each wanted model are, by the cache loop's last report."""
    return {(model.repository, model.revision): (model.name, _weights(report, model)) for model in report.models}


def _weights(report: CacheReport, model: ModelReport) -> Weights:
    if model.state is not ModelState.READY:
        return Weights.DISK if model.fetched_bytes else Weights.ABSENT
    warm = next((one for one in report.page_cache.models if one.model == model.name), None)
    if warm is not None and warm.resident_bytes >= _IN_MEMORY_RATIO * warm.weights_bytes:
        return Weights.MEMORY
    return Weights.READY


def _in_memory(report: CacheReport) -> dict[str, int]:
    """Per cent, in tens: the node is not written for less."""
    warm = (one for one in report.page_cache.models if one.weights_bytes)
    return {one.model: 10 * (10 * one.resident_bytes // one.weights_bytes) for one in warm}


class ColdStarts:
    """``look`` whenever a pod or a model may have changed; ``settle`` in the cache loop. ``events`` lists those of a pod by
    namespace and UID; ``write`` puts annotations on our node; ``count`` is told each pod once."""

    def __init__(
        self,
        node: Callable[[], Object | None],
        pods: Callable[[], Sequence[Object] | None],
        events: Callable[[str, str], Awaitable[Iterable[Object]]],
        write: Callable[[Mapping[str, str]], Awaitable[None]],
        count: Callable[[PodStart], None],
        now: Callable[[], float],
        clock: Callable[[], float],
        boot_id: Callable[[], str],
        servings: PodServings,
    ) -> None:
        self._servings = servings
        self._node = node
        self._pods = pods
        self._events = events
        self._write = write
        self._count = count
        self._now = now
        self._clock = clock
        self._boot_id = boot_id
        self._gated: tuple[ModelReport, ...] = ()
        self._noted: dict[str, Weights] = {}
        self._ledger: Ledger | None = None
        self._standing: Standing = {}
        self._in_memory: dict[str, int] = {}
        self._wrote = float("-inf")
        self._early: set[str] = set()
        self._began = now()

    def due(self) -> bool:
        """Whether a pod is to be counted."""
        return bool(self._to_count())

    def take(self, report: CacheReport) -> None:
        """How the models stand from now on."""
        self._standing, self._in_memory = standing_of(report), _in_memory(report)
        self._gated = tuple(model for model in report.models if model.gate and model.state is ModelState.READY)
        self.look()

    def look(self) -> None:
        """Note where the weights of pods are whose server has not started."""
        pods = self._pods()
        if pods is None:
            return
        self._servings.keep(pods)
        noted = self._noted
        self._noted = {uid: noted[uid] for pod in pods if (uid := pod["metadata"]["uid"]) in noted}
        self._early &= {pod["metadata"]["uid"] for pod in pods}
        for pod in pods:
            if self._servings.of(pod) and not has_ended(pod):
                self._note(pod)

    def _note(self, pod: Object) -> None:
        """Of one that was seen before its start, and whose model nobody wanted then, the weights are where they are now, but
        not better: who fetches them can only have begun since."""
        uid, names = pod["metadata"]["uid"], self._names(pod)
        started = moments_of(pod, self._container(pod)).started is not None
        if not started:
            self._early.add(uid)
        if not names:
            return
        here = worst([self._standing[name][1] for name in names])
        if not started or (uid in self._early and uid not in self._noted and here in (Weights.DISK, Weights.ABSENT)):
            self._noted[uid] = here
        else:
            self._noted.setdefault(uid, Weights.UNKNOWN)

    async def settle(self) -> float | None:
        """Count what has become ready, and write the ledger when it has changed; in how many seconds to come again for that at
        the latest, None for no need."""
        pods = self._pods()
        if pods is None:
            return None
        ledger = self._known().among([pod["metadata"]["uid"] for pod in pods])
        for pod in self._to_count():
            start = await self._start_of(pod) if pod["metadata"]["uid"] in self._noted else None
            if start is None:
                continue
            ledger = ledger.plus(start)
            self._count(start)
            log.info("pod.started", extra=_words(start))
        boot_id = self._boot_id()
        vouched = {model.name: vouch(model.repository, model.revision, boot_id) for model in self._gated}
        self._ledger = ledger = replace(ledger, in_memory=self._in_memory, vouched=vouched)
        rest = self._rest(ledger, self._written())
        if rest is None or rest > 0:
            return rest
        await self._write({labels.MODELS: ledger.to_json()})
        self._wrote = self._clock()
        return None

    def _rest(self, ledger: Ledger, written: Ledger) -> float | None:
        """Until it is to be written, None where there is nothing new. What is in memory comes and goes, and waits longer."""
        if ledger.vouched != written.vouched:
            return 0.0  # a change of layout may wait for it
        if ledger.models != written.models:
            return max(0.0, self._wrote + _WRITE_SECONDS - self._clock())
        if ledger.in_memory != written.in_memory:
            return max(0.0, self._wrote + _WRITE_MEMORY_SECONDS - self._clock())
        return None

    def history(self) -> tuple[Demand, ...]:
        """What pods that ran here of late read."""
        since = self._now() - _HISTORY_SECONDS
        return tuple(
            Demand(Named(one.repository, one.revision), "", one.namespace, Rank.HISTORY, by="pods that ran here")
            for one in self._known().models.values()
            if one.at >= since
        )

    def _known(self) -> Ledger:
        if self._ledger is None and self._node() is not None:
            self._ledger = self._written()
        return self._ledger or Ledger()

    def _written(self) -> Ledger:
        node = self._node()
        annotations = (node["metadata"].get("annotations") or {}) if node is not None else {}
        return Ledger.from_json(annotations.get(labels.MODELS, "{}"))

    def _container(self, pod: Object) -> str:
        """The first that serves."""
        return self._servings.of(pod)[0].container

    def _names(self, pod: Object) -> list[tuple[str, str]]:
        """What it reads that is wanted here; nothing where its model is not."""
        named = [(one.repository, one.revision) for serving in self._servings.of(pod) for one in serving.models]
        return [name for name in named if name in self._standing] if named and named[0] in self._standing else []

    def _to_count(self) -> list[Object]:
        ledger = self._known()
        return [pod for pod in self._pods() or () if self._counts(pod, ledger)]

    def _counts(self, pod: Object, ledger: Ledger) -> bool:
        uid = pod["metadata"]["uid"]
        if uid not in self._noted or ledger.has(uid) or has_ended(pod) or not self._names(pod):
            return False
        moments = moments_of(pod, self._container(pod))
        # One that was ready long before we came is no news: what it says of its start may be weeks old.
        return (
            moments.scheduled is not None and moments.ready is not None and moments.ready >= self._began - _LATE_SECONDS
        )

    async def _start_of(self, pod: Object) -> PodStart | None:
        metadata = pod["metadata"]
        # The pod may go while its Events are listed.
        weights, names, standing = self._noted[metadata["uid"]], self._names(pod), self._standing
        container = self._container(pod)
        moments = moments_of(pod, container, await self._events_of(metadata))
        if moments.scheduled is None or moments.ready is None or not names:
            return None
        pulled, started = moments.pulled, moments.started
        if moments.restarts > 1:
            started = None  # when it first did is not told any more
        return PodStart(
            uid=metadata["uid"],
            pod=metadata["name"],
            namespace=metadata["namespace"],
            model=standing[names[0]][0],
            repository=names[0][0],
            revision=names[0][1],
            weights=weights,
            at_seconds=moments.ready,
            total_seconds=max(0.0, moments.ready - moments.scheduled),
            image_seconds=max(0.0, pulled - moments.scheduled) if pulled is not None else None,
            load_seconds=max(0.0, moments.ready - started) if started is not None else None,
        )

    async def _events_of(self, metadata: Object) -> Iterable[Object]:
        """Without them the time of the image is not known."""
        try:
            return await self._events(metadata["namespace"], metadata["uid"])
        except AgentError as error:
            log.debug("events.unknown", extra={"error": str(error)})
            return ()


def _words(start: PodStart) -> dict[str, object]:
    return {
        "pod": f"{start.namespace}/{start.pod}",
        "model": start.model,
        "cache": start.weights.value,
        "seconds": start.total_seconds,
        "image_seconds": start.image_seconds,
        "load_seconds": start.load_seconds,
    }
