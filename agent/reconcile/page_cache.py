"""Keeps weights of ready models in the page cache, beside the cache loop: what is there, what may be read, reads it.

# Note [Weights in memory]
# Each step looks at everything anew: which models are wanted (the cache loop says so), what the page cache has of their weights,
# how much memory there is. What the kernel has dropped is so found missing, and read again as far as the plan lets it. Before
# each slice of a reading the room is looked at and the plan made again, with what was read counted as resident.
#
# All of it is done by one thread of a low priority, as the scrub's is. Where no model is to be in memory, nothing is done at all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from agent.adapters.memory import Memory
from agent.execute.page_cache import Warmer
from agent.execute.scrub import give_way
from agent.model.catalog import CatalogModel
from agent.model.page_cache import Hindrance, ModelInMemory, PageCacheReport, Reading, WarmPlan, Weights
from agent.observe.page_cache import observe_room, observe_weights
from agent.plan.page_cache import WarmRules, after_reading, plan_warming, steady

LOOK_SECONDS = 30.0
_BACK_OFF_SECONDS = 60.0
_NEWS = 0.01
"""Of the weights: so much more or less in memory is worth a report."""

log = logging.getLogger("warmslice.page-cache")


class Warmth(Protocol):
    """What the cache loop tells and asks at each pass."""

    def want(self, models: Sequence[CatalogModel]) -> None:
        """The models that are ready and are to be in memory, in the catalog's order."""

    def report(self) -> PageCacheReport: ...


@dataclass(slots=True)
class PageCache:
    """``run`` until it is cancelled. ``wake`` is called when there is something new to report. ``now``: seconds of any clock that
    never goes back. See Note [Weights in memory]."""

    cache: Path
    memory: Memory
    rules: WarmRules
    wake: Callable[[], None]
    now: Callable[[], float]
    _warmer: Warmer = field(default_factory=Warmer)
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "page-cache", give_way))
    _wished: tuple[CatalogModel, ...] = ()
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _readings: dict[str, Reading] = field(default_factory=dict)
    _hindrances: dict[str, Hindrance] = field(default_factory=dict)
    _seen: tuple[ModelInMemory, ...] = ()
    _told: tuple[ModelInMemory, ...] = ()

    def want(self, models: Sequence[CatalogModel]) -> None:
        """What is not wanted any more is left where it is, and a reading of it ends."""
        wished = tuple(models)
        if wished != self._wished:
            self._wished = wished
            self._changed.set()

    def report(self) -> PageCacheReport:
        """As last seen; nothing of models that are not wanted any more."""
        names = {(model.name, model.revision) for model in self._wished}
        self._told = self._seen
        return PageCacheReport(tuple(model for model in self._seen if (model.model, model.revision) in names))

    async def run(self) -> None:
        """A disk that does not answer is asked again later."""
        try:
            while True:
                self._changed.clear()
                await self._wait(await self._try() if self._wished else None)
        finally:
            self._warmer.stop()
            self._thread.shutdown(wait=False)

    async def step(self) -> float:
        """Look, and read one model if that may be; seconds until the next look."""
        wait = await asyncio.get_running_loop().run_in_executor(self._thread, self._next)
        if _is_news(self._told, self._seen):
            self.wake()
        return wait

    async def _try(self) -> float:
        try:
            return await self.step()
        except OSError as error:
            log.warning("page-cache.failed", extra={"error": str(error)})
            return _BACK_OFF_SECONDS

    async def _wait(self, seconds: float | None) -> None:
        """Until there is another wish, and no longer than ``seconds``."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _next(self) -> float:
        wished = self._wished
        seen = self._look(wished)
        plan = self._plan(seen, None)
        self._note(seen, plan)
        if not plan.reads:
            return LOOK_SECONDS
        weights = plan.reads[0]
        model = next(model for model in wished if model.name == weights.model)
        whole = all(self._read(model, seen, weights, index) for index in range(len(weights.files)))
        found = observe_weights(self.cache, model)
        if found is None:
            return LOOK_SECONDS
        if whole or model in self._wished:
            # Also one that memory has broken off: else it would begin again at each look, and never end.
            self._readings[model.name] = after_reading(self._readings.get(model.name), weights, found, self.now())
        seen = [found if one.model == model.name else one for one in seen]
        self._note(seen, self._plan(seen, None))
        log.info("page-cache.read", extra={"model": model.name, "resident_bytes": found.resident_bytes, "whole": whole})
        return 0.0 if whole else LOOK_SECONDS

    def _read(self, model: CatalogModel, seen: Sequence[Weights], weights: Weights, index: int) -> bool:
        """One file, as long as the model is wanted and the plan has it; True when all of it was read."""

        def goes_on(count: int) -> bool:
            here = _so_far(weights, index, count)
            now = [here if one.model == model.name else one for one in seen]
            return model in self._wished and model.name not in self._plan(now, model.name).hindrances

        return self._warmer.read(weights.files[index].path, goes_on)

    def _look(self, wished: Sequence[CatalogModel]) -> list[Weights]:
        names = {model.name for model in wished}
        self._readings = {name: reading for name, reading in self._readings.items() if name in names}
        found = (observe_weights(self.cache, model) for model in wished)
        return [weights for weights in found if weights is not None and weights.files]

    def _plan(self, seen: Sequence[Weights], begun: str | None) -> WarmPlan:
        return plan_warming(seen, observe_room(self.memory), self.rules, self._readings, self.now(), begun)

    def _note(self, seen: Sequence[Weights], plan: WarmPlan) -> None:
        self._hindrances = {
            name: steady(self._hindrances.get(name), hindrance) for name, hindrance in plan.hindrances.items()
        }
        self._seen = tuple(_in_memory(weights, self._hindrances.get(weights.model)) for weights in seen)


def _so_far(weights: Weights, index: int, count: int) -> Weights:
    """With all files before this one read, and this much of it."""
    before = (replace(file, resident_bytes=file.bytes) for file in weights.files[:index])
    file = weights.files[index]
    this = replace(file, resident_bytes=max(file.resident_bytes, count))
    return replace(weights, files=(*before, this, *weights.files[index + 1 :]))


def _in_memory(weights: Weights, hindrance: Hindrance | None) -> ModelInMemory:
    why_not = hindrance.sentence if hindrance is not None else None
    return ModelInMemory(weights.model, weights.revision, weights.bytes, weights.resident_bytes, why_not)


def _is_news(told: Sequence[ModelInMemory], seen: Sequence[ModelInMemory]) -> bool:
    if [replace(model, resident_bytes=0) for model in told] != [replace(model, resident_bytes=0) for model in seen]:
        return True
    return any(
        abs(before.resident_bytes - now.resident_bytes) > _NEWS * now.weights_bytes
        for before, now in zip(told, seen, strict=True)
    )
