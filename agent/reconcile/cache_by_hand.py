"""The model cache of a host, looked after by hand: what the commands of `warmslice cache` do. No node is needed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from agent.adapters.hub_cache import disk_use
from agent.execute.fetch import FetchSupervisor
from agent.execute.mend import mend
from agent.model.cache import CachedModel, FetchProgress
from agent.model.cache_finding import Finding, Remedy
from agent.model.catalog import CatalogModel
from agent.model.revision import Room
from agent.observe.cache import observe_model, verify_model
from agent.observe.cache_doctor import examine
from agent.reconcile.cache import CacheRules, limits_of, observe_all
from agent.reconcile.catalog import Wish
from agent.reconcile.room import RoomRules, Use, make_room_now, plan_room

_COULD = {
    Remedy.ADOPT: "--fix reads it and vouches for it",
    Remedy.REMOVE: "--fix removes it",
    Remedy.OPEN: "--fix opens it",
    Remedy.UNSHARE: "--fix puts the files themselves there",
    Remedy.NONE: "nothing is done about it",
}


def list_cached(rules: CacheRules, wanted: Sequence[CatalogModel]) -> Mapping[str, CachedModel]:
    """What the disk holds of each, by name (``cache ls``)."""
    return observe_all(rules.cache, wanted)


def verify_cached(rules: CacheRules, wanted: Sequence[CatalogModel]) -> Mapping[str, str | None]:
    """What is wrong with each, by name; None where nothing is. Reads every file (``cache verify``)."""
    return {model.name: verify_model(rules.cache, model) for model in wanted}


async def pull(
    rules: CacheRules,
    wanted: Sequence[CatalogModel],
    token: Callable[[str | None], str | None],
    now: Callable[[], float],
    follow: Callable[[FetchProgress], None],
) -> Mapping[str, str | None]:
    """Fetch each model that is not complete, one after the other; ``follow`` is told of progress twice a second.
    By name: None where the model is there now, else why not (``cache pull``)."""
    outcomes: dict[str, str | None] = {}
    for model in wanted:
        outcomes[model.name] = None
        if not observe_model(rules.cache, model).complete:
            outcomes[model.name] = await _pull_one(rules, model, token, now, follow)
    return outcomes


async def _pull_one(
    rules: CacheRules,
    model: CatalogModel,
    token: Callable[[str | None], str | None],
    now: Callable[[], float],
    follow: Callable[[FetchProgress], None],
) -> str | None:
    ended = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        fetches = FetchSupervisor(rules.cache, tasks.create_task, ended.set, token, now)
        limits = limits_of(rules, model, disk_use(rules.cache))
        fetches.start(model, rules.endpoint, limits, rules.require_safetensors)
        while not ended.is_set():
            try:
                async with asyncio.timeout(0.5):
                    await ended.wait()
            except TimeoutError:
                for progress in fetches.running().values():  # none where it ended in this moment
                    follow(progress)
    fetch = fetches.take_ended()[0]
    follow(fetch.progress)
    return fetch.failure.message if fetch.failure is not None else None


def collect(rules: RoomRules, wish: Wish, free_bytes: int, now: float, act: bool) -> Room:
    """Make room for ``free_bytes`` more inside the budget, or say what would go (``cache gc``). A host by itself has no pods;
    what a process has open stays. Raises RetryError where the disk refuses."""
    use = Use(wish.wanted, observe_all(rules.cache, wish.wanted), wish.pinned, pods=())
    excess = rules.excess(disk_use(rules.cache), free_bytes)
    return (make_room_now if act else plan_room)(rules, use, excess, now)


def look_over(cache: Path, wanted: Collection[str], mend_it: bool) -> Iterator[tuple[Finding, str]]:
    """What is odd in the cache, with what was done about it, or could be (``cache doctor``). ``wanted``: repositories of the
    catalog. Raises RetryError where the disk does not answer."""
    for finding in examine(cache, wanted):
        yield finding, mend(cache, finding) if mend_it else _COULD[finding.remedy]
