"""Passes of the cache loop against a hub, a disk and a node: from the catalog to the label."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.execute.fetch import FetchSupervisor
from agent.model.cache import CacheReport, ModelState
from agent.model.catalog import Catalog, CatalogModel
from agent.model.demand import Rank
from agent.model.errors import RetryError
from agent.model.revision import PodText
from agent.model.scrub import ScrubReport
from agent.plan.demand import Choice, Wanted
from agent.reconcile.cache import CachePass, CacheRules, NoWorkloads
from agent.reconcile.cache_by_hand import list_cached, pull, verify_cached
from agent.reconcile.room import RoomKeeper, RoomRules
from hack.hub.content import Access, ServedModel, model_of
from hack.hub.server import Hub
from tests.fakes.hub import TINY, LabelledNode, WrittenCatalog, fetch, order_for, published_files
from tests.fakes.page_cache import NotWarm

LABEL = "models.warmslice.dev/tiny"
CATALOG = "models: [{repository: acme/tiny, name: tiny}]\nsets: {none: []}"


@dataclass(slots=True)
class Loop:
    """The cache loop without its timer: a pass after each wake-up, until a state is reached."""

    step: CachePass
    node: LabelledNode
    catalog: WrittenCatalog
    woken: asyncio.Event
    published: list[CacheReport]
    pods: list[PodText]
    reports: list[CacheReport] = field(default_factory=list)

    async def until(self, reached: Callable[[CacheReport], bool]) -> CacheReport:
        async with asyncio.timeout(20):
            while True:
                self.woken.clear()
                self.reports.append(await self.step.run())
                if reached(self.reports[-1]):
                    return self.reports[-1]
                await self.woken.wait()


@pytest.fixture
async def filled(hub: Hub, cache: Path) -> dict[str, str]:
    """The cache as an earlier agent left it: complete. What it holds."""
    await fetch(order_for(hub, cache))
    return published_files(cache)


@pytest.fixture
async def loop(hub: Hub, cache: Path) -> AsyncIterator[Loop]:
    node, catalog, woken = LabelledNode(), WrittenCatalog(CATALOG), asyncio.Event()
    pods: list[PodText] = []
    async with asyncio.TaskGroup() as tasks:
        started: list[asyncio.Task[None]] = []
        fetches = FetchSupervisor(
            cache, lambda work: started.append(tasks.create_task(work)), woken.set, lambda _: None, time.time
        )
        published: list[CacheReport] = []

        async def publish(report: CacheReport) -> None:
            published.append(report)

        room = RoomKeeper(RoomRules(cache, None, 0.0, 1, None), lambda: pods)
        step = CachePass(
            CacheRules(cache, hub.url),
            catalog,
            node,
            fetches,
            publish,
            time.time,
            room,
            ScrubReport,
            NoWorkloads(),
            NotWarm(),
        )
        yield Loop(step, node, catalog, woken, published, pods)
        for task in started:
            task.cancel()


async def test_a_wanted_model_is_fetched_and_labelled_ready(loop: Loop) -> None:
    report = await loop.until(lambda report: report.models[0].state is ModelState.READY)
    assert [patch[LABEL] for patch in loop.node.patches] == ["fetching", "ready"]
    (model,) = report.models
    assert (model.size_bytes, model.fetched_bytes, report.refusal) == (model.size_bytes, model.size_bytes, None)
    assert report.totals.received_bytes == model.size_bytes
    assert [(done.model, done.reason) for r in loop.reports for done in r.finished] == [("tiny", "ok")]
    assert report.disk.used_bytes >= model.size_bytes


async def test_what_was_tried_again_is_said_and_counted(loop: Loop, hub: Hub) -> None:
    hub.faults.add("GET cdn/", "status", status=503, times=2)
    hub.faults.add("GET cdn/", "slow", bytes_per_second=4_000_000)
    async with asyncio.timeout(20):
        while "tried again after: unavailable (2)" not in (await loop.step.run()).models[0].message:
            await asyncio.sleep(0.05)
    report = await loop.until(lambda report: report.models[0].state is ModelState.READY)
    assert report.totals.retries == {"unavailable": 2}


async def test_what_happens_while_the_api_server_is_away_is_reported_and_labelled_later(loop: Loop) -> None:
    loop.node.away = True
    async with asyncio.timeout(20):
        while not (loop.published and loop.published[-1].models[0].state is ModelState.READY):
            loop.woken.clear()
            with pytest.raises(RetryError):
                await loop.step.run()
            if not loop.published[-1].finished:
                await loop.woken.wait()
    assert [(done.model, done.reason) for r in loop.published for done in r.finished] == [("tiny", "ok")]
    loop.node.away = False
    await loop.step.run()
    assert loop.node.patches == [{LABEL: "ready"}]


@pytest.mark.usefixtures("filled")
async def test_a_cached_model_is_ready_after_a_restart_though_the_hub_is_gone(hub: Hub, loop: Loop) -> None:
    hub.faults.add(".", "status", status=503)
    report = await loop.step.run()
    assert [(m.state, m.fetched_bytes == m.size_bytes > 0) for m in report.models] == [(ModelState.READY, True)]
    assert loop.node.present == {LABEL: "ready"}


async def test_a_model_not_wanted_any_more_loses_its_label_but_not_its_files(
    filled: dict[str, str], loop: Loop, cache: Path
) -> None:
    await loop.step.run()
    loop.node.present["warmslice.dev/model-set"] = "none"
    report = await loop.step.run()
    assert (report.models, loop.node.patches[-1], published_files(cache)) == ((), {LABEL: None}, filled)


@pytest.mark.parametrize("text", ["models: [{repo: acme/tiny}]", "models: ["])
async def test_a_catalog_that_cannot_be_followed_changes_nothing(
    text: str, filled: dict[str, str], loop: Loop, cache: Path
) -> None:
    await loop.step.run()
    loop.catalog.text = text
    report = await loop.step.run()
    assert report.refusal is not None
    assert (report.models, loop.node.present, published_files(cache)) == ((), {LABEL: "ready"}, filled)


async def test_an_unknown_set_is_refused_and_changes_nothing(filled: dict[str, str], loop: Loop, cache: Path) -> None:
    await loop.step.run()
    loop.node.present["warmslice.dev/model-set"] = "big"
    report = await loop.step.run()
    assert report.refusal is not None
    assert "'big'" in report.refusal
    assert (loop.node.present[LABEL], published_files(cache)) == ("ready", filled)


async def test_a_model_that_the_hub_refuses_is_failed_with_the_sentence(loop: Loop) -> None:
    loop.catalog.text = "models: [{repository: acme/absent, name: tiny}]"
    report = await loop.until(lambda r: r.models[0].state is ModelState.FAILED)
    (model,) = report.models
    assert (model.reason, model.message) == (
        "not-found",
        "the hub has no public acme/absent: check the name, or give a token if it is private",
    )
    assert model.next_try_seconds == report.look_again_seconds
    assert loop.node.present[LABEL] == "failed"
    assert report.totals.failures == {"not-found": 1}


async def test_wrong_bytes_leave_the_model_failed_and_unpublished(loop: Loop, hub: Hub, cache: Path) -> None:
    hub.faults.add("GET cdn/", "wrong-bytes")
    report = await loop.until(lambda r: r.models[0].state is ModelState.FAILED)
    assert (report.models[0].reason, report.totals.verify_failures) == ("wrong-bytes", 3)
    assert (loop.node.present[LABEL], published_files(cache)) == ("failed", {})


@pytest.mark.usefixtures("filled")
async def test_a_fetch_that_leaves_a_model_incomplete_waits_before_the_next(loop: Loop, cache: Path) -> None:
    """Blobs that another program keeps in a store of its own are not ours to open to others."""
    blob = max((cache / "models--acme--tiny" / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    stored = blob.rename(cache / blob.name)
    stored.chmod(0o600)
    blob.symlink_to(stored)
    report = await loop.until(lambda r: r.models[0].state is ModelState.FAILED)
    (model,) = report.models
    assert model.message == "fetched, and yet model.safetensors is not readable for others"
    assert model.next_try_seconds == report.look_again_seconds
    assert (model.next_try_seconds or 0) > report.at_seconds
    assert (loop.node.present[LABEL], dict(loop.step.fetches.running())) == ("failed", {})


async def test_a_fetch_of_what_is_not_wanted_any_more_ends(loop: Loop, hub: Hub) -> None:
    hub.faults.add("GET cdn/", "stall", after_bytes=0)
    await loop.step.run()
    loop.catalog.text = ""
    await loop.until(lambda r: not loop.step.fetches.running())
    assert [(d.reason, loop.node.present) for r in loop.reports for d in r.finished] == [("stopped", {})]


class Sealed:
    """Tokens of all models but these; ``kept``: whose tokens were kept at the end of each pass."""

    look_again_seconds: float | None = None
    why = "others have them"

    def __init__(self, *without: str) -> None:
        self.without = set(without)
        self.kept: list[set[str]] = []

    async def seek(self, due: Sequence[CatalogModel], most: int) -> tuple[CatalogModel, ...]:
        return tuple(model for model in due if model.name not in self.without)[:most]

    async def keep(self, models: Collection[str]) -> None:
        self.kept.append(set(models))


class UrgentFirst:
    """A pod here waits for the model of that name."""

    def choose(self, catalog: Catalog, declared: Sequence[CatalogModel]) -> Choice:
        found = [Wanted(one, Rank.HERE if one.name == "urgent" else Rank.DECLARED, "") for one in declared]
        return Choice(tuple(sorted(found, key=lambda one: -one.rank)))


async def test_a_fetch_makes_way_to_an_urgent_model_once_that_has_its_token(loop: Loop, hub: Hub) -> None:
    """Until then it goes on: to stop it would leave the node with neither. The token is kept while the other one ends."""
    hub.faults.add("GET cdn/", "stall", after_bytes=0)
    loop.step.tokens = tokens = Sealed("urgent")
    loop.step.workloads = UrgentFirst()
    loop.catalog.text = (
        "models: [{repository: acme/tiny, name: tiny}, {repository: acme/tiny, name: urgent, revision: v2}]"
    )
    for _ in range(3):
        report = await loop.step.run()
        assert [*loop.step.fetches.running()] == ["tiny"]
    (urgent,) = (model for model in report.models if model.name == "urgent")
    assert (urgent.state, urgent.reason, urgent.message) == (ModelState.WAITING, "fetch-token", "others have them")
    assert tokens.kept == [{"tiny"}] * 3
    tokens.without.clear()
    await loop.until(lambda r: [*loop.step.fetches.running()] == ["urgent"])
    assert tokens.kept[3:] == [{"urgent"}] * len(tokens.kept[3:])
    assert [(d.model, d.reason) for r in loop.reports for d in r.finished] == [("tiny", "stopped")]


@pytest.mark.usefixtures("filled")
async def test_a_branch_that_is_followed_moves_with_the_hub_and_is_ready_all_the_while(
    loop: Loop, hub: Hub, model: ServedModel, cache: Path
) -> None:
    loop.catalog.text = "models: [{repository: acme/tiny, name: tiny, follow_seconds: 60}]"
    before = (await loop.step.run()).models[0].commit
    newer = model_of({**model.files, "new.json": model.files["config.json"]}, "acme/tiny", Access.PUBLIC)
    hub.add(newer)
    hub.counters.reset()
    loop.step.now = lambda: time.time() + 61.0
    report = await loop.until(lambda report: report.models[0].commit == newer.commit)
    assert before == model.commit
    assert {m.state for r in loop.reports for m in r.models} == {ModelState.READY}
    assert (report.models[0].reason, loop.node.present, hub.counters.body_bytes) == ("complete", {LABEL: "ready"}, 0)


@pytest.mark.usefixtures("filled")
async def test_a_hub_that_is_away_takes_no_readiness_from_a_branch_that_is_followed(loop: Loop, hub: Hub) -> None:
    loop.catalog.text = "models: [{repository: acme/tiny, name: tiny, follow_seconds: 60}]"
    hub.faults.add(".", "status", status=404)
    loop.step.now = loop.step.fetches.now = lambda: time.time() + 61.0
    report = await loop.until(lambda report: report.models[0].reason == "not-followed")
    (found,) = report.models
    assert found.message.startswith("every wanted file is here; a newer commit could not be fetched: the hub ")
    assert (found.state, loop.node.present) == (ModelState.READY, {LABEL: "ready"})
    assert found.next_try_seconds is not None


async def test_models_can_be_pulled_listed_and_verified_without_a_node(hub: Hub, cache: Path) -> None:
    rules = CacheRules(cache, hub.url)
    assert verify_cached(rules, [TINY]) == {"tiny": "not fetched yet"}
    seen: list[int] = []
    assert await pull(rules, [TINY], lambda _: None, time.time, lambda p: seen.append(p.fetched_bytes)) == {
        "tiny": None
    }
    assert seen[-1] == list_cached(rules, [TINY])["tiny"].size_bytes
    assert verify_cached(rules, [TINY]) == {"tiny": None}
    _flip_a_byte(next((cache / "models--acme--tiny" / "snapshots").glob("*/config.json")))
    assert verify_cached(rules, [TINY]) == {"tiny": "missing or wrong: config.json"}


def _flip_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[0] ^= 0xFF
    path.write_bytes(content)
