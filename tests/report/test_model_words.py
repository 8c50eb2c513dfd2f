"""What the cache loop says as Events: each change once, and nothing when nothing changed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.model.cache import CacheReport, DiskUse, FetchTotals, ModelReport, ModelState
from agent.model.errors import RetryError
from agent.model.page_cache import ModelInMemory, PageCacheReport
from agent.model.revision import Going, RevisionKey
from agent.observe.cluster import node_of
from agent.reconcile.telling import CacheNews

NODE = node_of({"metadata": {"name": "gpu-1", "uid": "u"}})


class Events:
    """Takes Events."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Any]] = []
        self.down = False

    async def create_event(self, namespace: str, event: dict[str, Any]) -> None:
        assert namespace == "default"
        if self.down:
            raise RetryError("connection refused")
        self.seen.append(event)

    @property
    def words(self) -> list[tuple[str, str]]:
        return [(event["reason"], event["type"]) for event in self.seen]


def _report(state: ModelState, message: str = "", refusal: str | None = None) -> CacheReport:
    model = ModelReport(
        name="org--m",
        repository="org/m",
        revision="main",
        commit=None,
        state=state,
        reason="",
        message=message,
        size_bytes=0,
        fetched_bytes=0,
        since_seconds=0.0,
        next_try_seconds=None,
    )
    return CacheReport(
        at_seconds=0.0,
        models=() if refusal else (model,),
        refusal=refusal,
        disk=DiskUse(0, 0),
        budget_bytes=None,
        totals=FetchTotals(),
        finished=(),
        labels_to_write={},
        look_again_seconds=None,
    )


async def test_each_change_is_said_once() -> None:
    events = Events()
    news = CacheNews(events, lambda: NODE, lambda: 1.0)
    for state in (ModelState.WAITING, ModelState.FETCHING, ModelState.FETCHING, ModelState.READY, ModelState.READY):
        await news.tell(_report(state))
    assert events.words == [("ModelFetching", "Normal"), ("ModelReady", "Normal")]


async def test_a_failure_is_a_warning_with_its_sentence_even_at_the_start() -> None:
    events = Events()
    news = CacheNews(events, lambda: NODE, lambda: 1.0)
    failed = _report(ModelState.FAILED, "the hub does not know this revision")
    await news.tell(failed)
    await news.tell(replace(failed, at_seconds=5.0))
    assert events.words == [("ModelFailed", "Warning")]
    assert "org/m (main): the hub does not know this revision" in events.seen[0]["message"]


async def test_weights_that_are_not_in_memory_are_said_once_with_the_reason() -> None:
    events = Events()
    news = CacheNews(events, lambda: NODE, lambda: 1.0)
    kept_out = ModelInMemory("org--m", "main", 10, 0, "its weights are 4.1 GB, and there is no room")
    report = replace(_report(ModelState.READY), page_cache=PageCacheReport((kept_out,)))
    for _ in range(2):
        await news.tell(report)
    await news.tell(replace(report, page_cache=PageCacheReport((replace(kept_out, why_not=None),))))
    assert events.words == [("ModelNotInMemory", "Warning")]
    assert events.seen[0]["message"] == "model org--m: its weights are 4.1 GB, and there is no room"


async def test_what_an_agent_finds_well_when_it_starts_is_no_news() -> None:
    events = Events()
    await CacheNews(events, lambda: NODE, lambda: 1.0).tell(_report(ModelState.READY))
    assert events.seen == []


async def test_what_was_removed_is_said_each_time_and_a_cache_too_large_once() -> None:
    events = Events()
    news = CacheNews(events, lambda: NODE, lambda: 1.0)
    going = Going(RevisionKey("org/m", "a" * 40), ("x",), 2_500_000_000, "room", "was not in use for 3 days")
    report = replace(_report(ModelState.READY), gone=(going,), over="the cache takes 5 bytes, 1 more than it may")
    await news.tell(report)
    await news.tell(report)
    assert events.words == [("CacheOverBudget", "Warning"), ("ModelEvicted", "Normal"), ("ModelEvicted", "Normal")]
    assert events.seen[1]["message"] == "org/m@aaaaaaaaaaaa is gone, 2.50 GB, since it was not in use for 3 days"


async def test_a_catalog_that_cannot_be_read_is_said_and_a_lost_event_stops_nothing() -> None:
    events = Events()
    news = CacheNews(events, lambda: NODE, lambda: 1.0)
    await news.tell(_report(ModelState.READY, refusal="model catalog: line 3"))
    assert events.words == [("CatalogRefused", "Warning")]
    events.down = True
    await news.tell(_report(ModelState.FAILED, "gated"))
