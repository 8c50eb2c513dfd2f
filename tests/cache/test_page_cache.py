"""Weights in memory: read when there is room, left out with a reason when there is none, back when the kernel dropped them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent.adapters.hub_cache import ModelFolder
from agent.adapters.memory import Memory
from agent.adapters.page_cache import cached_bytes, read_ahead_bytes, resident_bytes
from agent.execute.fetch import FetchSupervisor
from agent.execute.page_cache import Warmer
from agent.model.cache import CacheReport, ModelState
from agent.model.catalog import CatalogModel
from agent.model.page_cache import (
    Cause,
    Hindrance,
    MemoryLimit,
    MemoryRoom,
    ModelInMemory,
    PageCacheReport,
    Reading,
    Weights,
    WeightsFile,
)
from agent.model.scrub import ScrubReport
from agent.plan.page_cache import (
    LONGEST_PAUSE_SECONDS,
    PAUSE_SECONDS,
    WHOLE,
    WarmRules,
    after_reading,
    next_reading_seconds,
    plan_warming,
    steady,
)
from agent.reconcile.cache import CachePass, CacheRules, NoWorkloads
from agent.reconcile.page_cache import LOOK_SECONDS, PageCache
from agent.reconcile.room import RoomKeeper, RoomRules
from agent.report.model_words import words_of
from agent.report.models import cache_families
from hack.hub.content import ServedModel, read_model
from hack.hub.server import Hub
from hack.page_cache import NoGroupError, memory_group
from tests.fakes.hub import LabelledNode, WrittenCatalog, fetch, order_for, write_files
from tests.fakes.page_cache import can_drop
from tests.report import world

MIB = 1 << 20
GB = 10**9
SHARDS = (40 * MIB, 24 * MIB + 321)
LARGE = CatalogModel("large", "acme/large", page_cache=True)
SMALL = CatalogModel("small", "acme/small", page_cache=True)
OWN = 128 * MIB  # what the agent keeps of its limit for itself


# -- on paper -----------------------------------------------------------------------------------------------------------


def weights(name: str, size: int, resident: int = 0, path: str = "") -> Weights:
    return Weights(name, "main", (WeightsFile(Path(path or name), size, resident),))


def limit(leaves: int, files: int = 0) -> MemoryLimit:
    """One that leaves so much for pages of files, beside what the agent keeps."""
    return MemoryLimit(leaves + OWN + 7 * MIB, files + 7 * MIB, files)


def plan(wanted: Sequence[Weights], room: MemoryRoom, ratio: float = 0.5) -> tuple[list[str], dict[str, str]]:
    """Names of those to read, and sentences."""
    made = plan_warming(wanted, room, WarmRules(ratio), {}, 0.0)
    return [one.model for one in made.reads], {name: one.sentence for name, one in made.hindrances.items()}


@dataclass(slots=True)
class Keeper:
    """A slower second way: file by file, what is kept in memory, and what of that we would bring."""

    room: MemoryRoom
    ratio: float
    kept: dict[Path, WeightsFile] = field(default_factory=dict)

    def with_files(self, files: Sequence[WeightsFile]) -> Keeper:
        return Keeper(self.room, self.ratio, self.kept | {file.path: file for file in files})

    def holds(self, air: bool) -> bool:
        """Whether all that is kept stays in the share, and what we bring beside what may be ours in each limit. ``air``: with as
        much to spare as is needed to begin."""
        brought = sum(file.bytes - file.resident_bytes for file in self.kept.values())
        resident = sum(file.resident_bytes for file in self.kept.values())
        for one in self.room.limits:
            others = one.used_bytes - one.file_bytes + (OWN if air else 0)
            if brought + min(resident, one.file_bytes) + others > one.limit_bytes:
                return False
        return brought + resident <= self.ratio * self.room.available_bytes * (0.95 if air else 1.0)


FILES = st.sampled_from("abcdef")
SIZES = {name: size * 50 * MIB for name, size in zip("abcdef", (1, 2, 3, 5, 8, 13), strict=True)}


@st.composite
def _wanted(draw: st.DrawFn) -> list[Weights]:
    """Models of one to three files, some of which they share, each resident to some part."""
    parts = {name: draw(st.sampled_from((0.0, 0.0, 0.4, 0.995, 1.0))) for name in SIZES}
    models = draw(st.lists(st.sets(FILES, min_size=1, max_size=3), max_size=5))
    return [
        Weights(
            f"m{number}",
            "main",
            tuple(WeightsFile(Path(f), SIZES[f], int(parts[f] * SIZES[f])) for f in sorted(files)),
        )
        for number, files in enumerate(models)
    ]


ROOMS = st.builds(
    MemoryRoom,
    st.integers(0, 60).map(lambda count: count * 50 * MIB),
    st.sampled_from((0.0, 0.0, 9.9, 50.0)),
    st.lists(
        st.builds(
            lambda size, used, files: MemoryLimit(size * MIB, max(used, files) * MIB, files * MIB),
            st.integers(0, 60).map(lambda count: 50 * count),
            st.integers(0, 900),
            st.integers(0, 900),
        ),
        max_size=2,
    ).map(tuple),
)


@settings(max_examples=500)
@given(wanted=_wanted(), room=ROOMS, ratio=st.sampled_from((0.0, 0.3, 0.5, 1.0)))
def test_what_is_read_fits_and_what_is_not_would_not_have(
    wanted: list[Weights], room: MemoryRoom, ratio: float
) -> None:
    made = plan_warming(wanted, room, WarmRules(ratio), {}, 0.0)
    names = [one.model for one in made.reads]
    assert names == [one.model for one in wanted if one.model in names]  # the order is the catalog's
    keeper = Keeper(room, ratio)
    for one in wanted:
        whole = sum(file.resident_bytes for file in one.files) >= WHOLE * one.bytes
        why = made.hindrances.get(one.model)
        assert (one.model in names, why is not None).count(True) == (0 if whole else 1)
        with_it = keeper.with_files(one.files)
        fits = whole or with_it.holds(air=True)
        assert fits == (why is None or why.cause is Cause.PRESSURE)
        if fits:
            keeper = with_it
            assert whole or (keeper.holds(air=False) and (why is None) == (room.waiting_per_cent <= 10.0))
        elif why is not None:
            assert why.room_bytes < why.weights_bytes == one.bytes


def test_a_model_that_does_not_fit_leaves_its_room_to_those_after_it() -> None:
    names, sentences = plan(
        [weights("a", 41 * GB // 10), weights("b", GB)], MemoryRoom(100 * GB, 0.0, (limit(2 * GB),))
    )
    assert names == ["b"]
    assert sentences == {
        "a": "its weights are 4.1 GB, and the agent's memory limit leaves 2.0 GB for the page cache: "
        "raise the limit of the cache container"
    }
    names, sentences = plan([weights("b", GB), weights("a", 41 * GB // 10)], MemoryRoom(8 * GB))
    assert names == ["b"]
    assert sentences["a"] == (
        "its weights are 4.1 GB, and page_cache_ratio (0.5 of the memory that is available) leaves 2.8 GB for the page "
        "cache beside the models before it"
    )


def test_pages_of_our_own_do_not_count_twice() -> None:
    """Of 4 GB for files, 3 GB hold the first model, which we read: no room for a second of 2 GB, but the first is whole."""
    room = MemoryRoom(100 * GB, 0.0, (limit(4 * GB, files=3 * GB),))
    first = weights("a", 3 * GB, 3 * GB)
    assert plan([first], room) == ([], {})
    assert plan([weights("a", 3 * GB, GB)], room)[0] == ["a"]  # two thirds were dropped, for other files of ours
    names, sentences = plan([first, weights("b", 2 * GB)], room)
    assert (names, "leaves 1.0 GB" in sentences["b"]) == ([], True)
    # What a pod has read is charged to the pod, so that all of ours is free.
    assert plan([first, weights("b", 2 * GB)], MemoryRoom(100 * GB, 0.0, (limit(4 * GB),)))[0] == ["b"]


def test_a_reading_that_was_begun_goes_on_while_memory_moves_a_little() -> None:
    one, room = weights("a", 96 * GB // 100), MemoryRoom(2 * GB, 0.0, (limit(GB - 60 * MIB),))
    for begun, goes_on in ((None, False), ("a", True)):
        made = plan_warming([one], room, WarmRules(0.5), {}, 0.0, begun)
        assert bool(made.reads) is goes_on


def test_what_the_kernel_keeps_dropping_is_read_less_and_less_often() -> None:
    missing, there, now, pauses = weights("a", GB), weights("a", GB, GB), 0.0, list[float]()
    reading: Reading | None = None
    for _ in range(9):
        reading = after_reading(reading, missing, there, now)
        assert plan_warming([missing], MemoryRoom(9 * GB), WarmRules(0.5), {"a": reading}, now + 1.0).reads == ()
        pauses.append(next_reading_seconds(reading) - now)
        now = next_reading_seconds(reading)
        assert plan_warming([missing], MemoryRoom(9 * GB), WarmRules(0.5), {"a": reading}, now).reads == (missing,)
    assert pauses == [min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2**n) for n in range(9)]
    # Once it has stayed for long, a drop is answered soon again.
    assert reading is not None
    assert after_reading(reading, missing, there, now + 3 * LONGEST_PAUSE_SECONDS).times == 1


def test_weights_that_do_not_come_in_are_said() -> None:
    missing = weights("a", GB)
    reading = after_reading(None, missing, weights("a", GB, GB // 5), 100.0)
    made = plan_warming([missing], MemoryRoom(9 * GB), WarmRules(0.5), {"a": reading}, 101.0)
    assert (made.reads, made.hindrances["a"].cause) == ((), Cause.DROPPED)


def test_memory_that_moves_a_little_is_no_news() -> None:
    before = Hindrance(Cause.LIMIT, 4 * GB, GB, "leaves 1.0 GB")
    assert steady(before, replace(before, room_bytes=13 * GB // 10, sentence="leaves 1.3 GB")) is before
    for other in (
        replace(before, room_bytes=2 * GB),
        replace(before, cause=Cause.SHARE),
        replace(before, weights_bytes=1),
    ):
        assert steady(before, other) is other


# -- on disk ------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Node:
    """What the kernel says of memory, in files below ``folder``; the models are real files, and their pages real pages."""

    folder: Path
    cache: Path
    clock: float = 1000.0
    woken: int = 0

    def __post_init__(self) -> None:
        self.available(8 * GB)
        self.waits(0.0)

    def available(self, count: int) -> None:
        (self.folder / "meminfo").write_text(f"MemAvailable: {count // 1024} kB\n")

    def waits(self, per_cent: float) -> None:
        (self.folder / "pressure").write_text(f"some avg10={per_cent:.2f} avg60=0.00 avg300=0.00 total=0\n")

    def limit(self, count: int, used: int = 0, files: int = 0) -> None:
        (self.folder / "cgroup").write_text("0::/\n")
        (self.folder / "mountinfo").write_text(f"30 23 0:26 / {self.folder}/group rw - cgroup2 cgroup2 rw\n")
        group = self.folder / "group"
        group.mkdir(exist_ok=True)
        (group / "memory.max").write_text(f"{count}\n")
        (group / "memory.current").write_text(f"{used}\n")
        (group / "memory.stat").write_text(f"inactive_file {files}\nactive_file 0\n")

    def wake(self) -> None:
        self.woken += 1

    def page_cache(self, ratio: float = 0.5) -> PageCache:
        memory = Memory(self.folder / "meminfo", self.folder / "pressure", self.folder)
        return PageCache(self.cache, memory, WarmRules(ratio), self.wake, lambda: self.clock)

    def blobs(self, model: CatalogModel) -> list[Path]:
        """Its weights."""
        return [path for path in ModelFolder(self.cache, model.repository).blobs.iterdir() if path.stat().st_size > MIB]

    def resident(self, model: CatalogModel) -> float:
        """The share of its weights that is in memory, by mincore."""
        blobs = self.blobs(model)
        return sum(map(resident_bytes, blobs)) / sum(path.stat().st_size for path in blobs)

    def drop(self, model: CatalogModel) -> None:
        for path in self.blobs(model):
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    sizes = {
        LARGE.repository: {f"model-{number}.safetensors": size for number, size in enumerate(SHARDS)},
        SMALL.repository: {"model.safetensors": 8 * MIB},
    }
    served = {}
    for repository, files in sizes.items():
        folder = tmp_path_factory.mktemp("model")
        write_files(folder, files | {"config.json": 300})
        served[repository] = read_model(repository, folder)
    return served


@pytest.fixture
async def served(models: dict[str, ServedModel]) -> AsyncIterator[Hub]:
    async with Hub(models) as running:
        yield running


@pytest.fixture
async def node(served: Hub, cache: Path, tmp_path: Path) -> Node:
    """Both models are on its disk, and nothing of them in memory."""
    for model in (LARGE, SMALL):
        await fetch(order_for(served, cache, repository=model.repository))
    if not can_drop(cache):
        pytest.skip("files in this folder are in memory")
    found = Node(tmp_path, cache)
    for model in (LARGE, SMALL):
        found.drop(model)
        assert found.resident(model) == 0.0
    return found


def by_name(report: PageCacheReport) -> dict[str, ModelInMemory]:
    return {model.model: model for model in report.models}


class _Families(Collector):
    def __init__(self, report: CacheReport) -> None:
        self._report = report

    def collect(self) -> Iterable[Metric]:
        yield from cache_families(self._report, {}, 0.0)


def gauge(report: PageCacheReport) -> dict[str, float]:
    """As Prometheus gets it, by the model's name."""
    registry = CollectorRegistry()
    registry.register(_Families(replace(world.cached(), page_cache=report)))
    lines = generate_latest(registry).decode().splitlines()
    shown = [line for line in lines if line.startswith("warmslice_model_page_cache_bytes{")]
    return {line.split('model="')[1].split('"')[0]: float(line.rsplit(" ", 1)[1]) for line in shown}


async def test_wanted_weights_come_into_memory_and_the_gauge_says_so(node: Node) -> None:
    page_cache = node.page_cache()
    page_cache.want([LARGE, SMALL])
    assert await page_cache.step() == 0.0
    assert (node.resident(LARGE) >= 0.95, node.resident(SMALL)) == (True, 0.0)  # one after the other
    assert await page_cache.step() == 0.0
    assert await page_cache.step() == LOOK_SECONDS
    shown = gauge(page_cache.report())
    for model in (LARGE, SMALL):
        truth = sum(map(resident_bytes, node.blobs(model)))
        assert truth >= 0.95 * sum(path.stat().st_size for path in node.blobs(model))
        assert abs(shown[model.name] - truth) <= 0.05 * truth
    assert [model.why_not for model in page_cache.report().models] == [None, None]
    assert node.woken > 0


async def test_what_the_kernel_has_dropped_comes_back_after_a_pause(node: Node) -> None:
    page_cache = node.page_cache()
    page_cache.want([LARGE])
    await page_cache.step()
    node.drop(LARGE)
    node.clock += 10.0
    assert await page_cache.step() == LOOK_SECONDS
    assert (node.resident(LARGE), gauge(page_cache.report())) == (0.0, {"large": 0.0})
    node.clock += PAUSE_SECONDS
    assert await page_cache.step() == 0.0
    assert node.resident(LARGE) >= 0.95


async def test_nothing_is_read_while_memory_is_short(node: Node) -> None:
    page_cache = node.page_cache()
    page_cache.want([LARGE])
    node.waits(30.0)
    assert await page_cache.step() == LOOK_SECONDS
    assert node.resident(LARGE) == 0.0
    assert (by_name(page_cache.report())["large"].why_not or "").startswith("memory is short")
    node.waits(3.0)
    await page_cache.step()
    assert node.resident(LARGE) >= 0.95
    assert by_name(page_cache.report())["large"].why_not is None


async def test_nothing_is_read_beyond_the_share(node: Node) -> None:
    node.available(100_000_000)
    page_cache = node.page_cache()
    page_cache.want([LARGE, SMALL])
    while await page_cache.step() == 0.0:
        pass
    assert (node.resident(LARGE), node.resident(SMALL) >= 0.95) == (0.0, True)
    assert by_name(page_cache.report())["large"].why_not == (
        "its weights are 0.1 GB, and page_cache_ratio (0.5 of the memory that is available) leaves 0.0 GB for the page cache"
    )


async def test_nothing_is_read_that_the_control_group_would_not_let_stay(node: Node) -> None:
    node.limit(OWN + 60 * MIB, used=50 * MIB, files=20 * MIB)
    page_cache = node.page_cache()
    page_cache.want([LARGE, SMALL])
    while await page_cache.step() == 0.0:
        pass
    assert (node.resident(LARGE), node.resident(SMALL) >= 0.95) == (0.0, True)
    report = page_cache.report()
    why = by_name(report)["large"].why_not
    assert why == (
        "its weights are 0.1 GB, and the agent's memory limit leaves 0.0 GB for the page cache: "
        "raise the limit of the cache container"
    )
    word = words_of(replace(world.cached(), page_cache=report))["large page-cache"]
    assert (word.reason, word.warning, word.message) == ("model-not-in-memory", True, f"model large: {why}")
    node.limit(OWN + GB, used=50 * MIB, files=20 * MIB)
    await page_cache.step()
    assert node.resident(LARGE) >= 0.95
    assert words_of(replace(world.cached(), page_cache=page_cache.report())).keys() == words_of(world.cached()).keys()


async def test_a_reading_ends_with_the_room_for_it(node: Node) -> None:
    """Limits are looked at between slices: here memory becomes short after the second."""
    page_cache = replace(node.page_cache(), now=at_look(4, lambda: node.waits(50.0)))
    page_cache.want([LARGE])
    assert await page_cache.step() == LOOK_SECONDS
    assert 0.0 < node.resident(LARGE) < 0.95
    (model,) = page_cache.report().models
    assert (model.why_not or "").startswith("memory is short")
    assert model.resident_bytes > 0


def at_look(number: int, deed: Callable[[], None]) -> Callable[[], float]:
    """A clock that does something at its n-th look. It is looked at with the room: before a reading, and before each slice."""
    looks = itertools.count(1)

    def now() -> float:
        if next(looks) == number:
            deed()
        return 1000.0

    return now


async def test_what_is_not_wanted_any_more_is_left_and_not_read_again(node: Node) -> None:
    page_cache = node.page_cache()
    page_cache.want([LARGE, SMALL])
    while await page_cache.step() == 0.0:
        pass
    page_cache.want([SMALL])
    assert list(by_name(page_cache.report())) == ["small"]
    assert gauge(page_cache.report()).keys() == {"small"}
    node.clock += 1000.0
    await page_cache.step()
    assert node.resident(LARGE) >= 0.95  # whoever uses it keeps it
    node.drop(LARGE)
    await page_cache.step()
    assert node.resident(LARGE) == 0.0


async def test_what_becomes_unwanted_while_it_is_read_is_read_no_further(node: Node) -> None:
    loop = asyncio.get_running_loop()
    page_cache = node.page_cache()
    unwanted = lambda: asyncio.run_coroutine_threadsafe(want_nothing(page_cache), loop).result()  # noqa: E731
    page_cache.now = at_look(3, unwanted)
    page_cache.want([LARGE])
    await page_cache.step()
    assert 0.0 < node.resident(LARGE) < 0.95
    assert page_cache.report() == PageCacheReport()


async def want_nothing(page_cache: PageCache) -> None:
    page_cache.want([])


async def test_where_nothing_is_to_be_in_memory_nothing_is_done(node: Node) -> None:
    """No thread, no look, no series."""
    page_cache = node.page_cache()
    page_cache.want([])
    running = asyncio.create_task(page_cache.run())
    await asyncio.sleep(0.05)
    assert (page_cache._thread._threads, node.woken) == (set(), 0)
    assert (page_cache.report(), gauge(page_cache.report())) == (PageCacheReport(), {})
    page_cache.want([SMALL])
    async with asyncio.timeout(5):
        while node.resident(SMALL) < 0.95:
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])


async def test_a_stop_ends_a_reading_within_a_second(node: Node) -> None:
    """Here of a file so long that reading it takes far longer. It has no bytes on disk; in memory it would."""
    path, warmer, begun, loop = node.folder / "long", Warmer(), asyncio.Event(), asyncio.get_running_loop()
    with path.open("wb") as file:
        file.truncate(15 * GB)

    def goes_on(count: int) -> bool:
        if count:
            loop.call_soon_threadsafe(begun.set)
        return True

    reading = asyncio.create_task(asyncio.to_thread(warmer.read, path, goes_on))
    await begun.wait()
    began = time.monotonic()
    warmer.stop()
    assert not await reading
    assert time.monotonic() - began < 1.0
    assert 0 < cached_bytes(path) < 14 * GB


async def test_a_reading_has_ended_when_its_bytes_are_here(node: Node) -> None:
    for path in node.blobs(LARGE):
        assert Warmer().read(path, lambda _: True)
        assert resident_bytes(path) >= path.stat().st_size


async def test_cachestat_and_mincore_agree(node: Node) -> None:
    path = max(node.blobs(LARGE), key=lambda path: path.stat().st_size)
    assert (cached_bytes(path), resident_bytes(path)) == (0, 0)
    with path.open("rb") as file:
        step = read_ahead_bytes(file.fileno())
        assert 0 < step <= 128 * 1024
        os.posix_fadvise(file.fileno(), 0, step, os.POSIX_FADV_WILLNEED)
        os.pread(file.fileno(), 1, step - 1)
    assert resident_bytes(path) >= step
    assert abs(cached_bytes(path) - resident_bytes(path)) <= 0.05 * resident_bytes(path)


async def test_only_ready_models_that_ask_for_it_are_wanted_in_memory(served: Hub, node: Node) -> None:
    """Through the cache loop's own pass."""
    catalog = WrittenCatalog(
        "models:\n- {repository: acme/large, name: large, page_cache: true}\n- {repository: acme/small, name: small}\n"
        "- {repository: acme/none, name: none, page_cache: true}\n"
    )
    reports = list[CacheReport]()

    async def publish(report: CacheReport) -> None:
        reports.append(report)

    page_cache = node.page_cache()
    async with asyncio.TaskGroup() as tasks:
        started = list[asyncio.Task[None]]()
        fetches = FetchSupervisor(
            node.cache, lambda work: started.append(tasks.create_task(work)), lambda: None, lambda _: None, time.time
        )
        room = RoomKeeper(RoomRules(node.cache, None, 0.0, 1, None), lambda: ())
        rules = CacheRules(node.cache, served.url)
        step = CachePass(
            rules, catalog, LabelledNode(), fetches, publish, time.time, room, ScrubReport, NoWorkloads(), page_cache
        )
        await step.run()
        while await page_cache.step() == 0.0:
            pass
        await step.run()
        for task in started:
            task.cancel()
    states = {model.name: model.state is ModelState.READY for model in reports[-1].models}
    assert states == {"large": True, "small": True, "none": False}
    assert list(by_name(reports[-1].page_cache)) == ["large"]
    assert (node.resident(LARGE) >= 0.95, node.resident(SMALL)) == (True, 0.0)


_IN_A_GROUP = """
import asyncio, json, sys
from pathlib import Path
from agent.adapters.memory import Memory
from agent.model.catalog import CatalogModel
from agent.plan.page_cache import WarmRules
from agent.reconcile.page_cache import PageCache

async def main():
    memory = Memory(Path("/proc/meminfo"), Path("/nowhere"))
    page_cache = PageCache(Path(sys.argv[1]), memory, WarmRules(0.5), lambda: None, lambda: 1000.0)
    page_cache.want([CatalogModel("large", "acme/large", page_cache=True)])
    while await page_cache.step() == 0.0:
        pass
    (model,) = page_cache.report().models
    print(json.dumps([model.resident_bytes, model.why_not]), flush=True)

sys.stdin.readline()
asyncio.run(main())
"""


@pytest.mark.parametrize(("room", "reads"), [(OWN + 60 * MIB, False), (OWN + 200 * MIB, True)])
async def test_in_a_real_control_group_it_reads_what_stays_and_refuses_what_would_not(
    node: Node, room: int, reads: bool
) -> None:
    try:
        with memory_group(room) as group:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", _IN_A_GROUP, str(node.cache), stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            group.take(process.pid)
            async with asyncio.timeout(30):
                said, _ = await process.communicate(b"\n")
    except NoGroupError as error:
        pytest.skip(str(error))
    resident, why_not = json.loads(said)
    assert (node.resident(LARGE) >= 0.95) is reads
    if reads:
        assert (resident >= 0.95 * sum(SHARDS), why_not) == (True, None)
    else:
        assert resident == 0
        assert why_not.startswith("its weights are 0.1 GB, and the agent's memory limit leaves 0.")
