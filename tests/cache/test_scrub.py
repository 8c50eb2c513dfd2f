"""Reading again what is on disk: in time, slowly, beside the page cache, and what becomes of a file that the disk has changed."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.adapters.hub_cache import ModelFolder
from agent.execute.fetch import FetchSupervisor
from agent.execute.scrub import Found, Reader
from agent.model.cache import CacheReport, ModelState
from agent.model.scrub import StoredBlob
from agent.observe.cache import verify_model
from agent.observe.stored import stored_blobs
from agent.plan.scrub import next_turn
from agent.reconcile.cache import CachePass, CacheRules
from agent.reconcile.room import RoomKeeper, RoomRules
from agent.reconcile.scrub import Scrub
from hack.hub.content import ServedModel
from hack.hub.server import Hub
from tests.fakes.hub import REPOSITORY, TINY, LabelledNode, WrittenCatalog, fetch, order_for
from tests.fakes.page_cache import can_drop, resident_bytes

DAY = 86400.0
QUIET = Path("/nowhere/pressure")
LABEL = "models.warmslice.dev/tiny"
CATALOG = "models: [{repository: acme/tiny, name: tiny}]"


def reader(rate: float = 1e9, pressure: Path = QUIET) -> Reader:
    return Reader(rate, pressure)


def scrub_of(cache: Path, rate: float = 1e9, now: float = 8 * DAY) -> Scrub:
    """A week and a day after everything came."""
    return Scrub(cache, reader(rate), 7 * DAY, lambda: None, lambda: time.time() + now)


def damage(path: Path) -> None:
    """One bit on disk, without a word to anybody."""
    with path.open("r+b") as stream:
        byte = stream.read(1)[0]
        stream.seek(0)
        stream.write(bytes([byte ^ 1]))


async def _whole(scrub: Scrub) -> None:
    while not await scrub.step():
        pass


# -- on paper -----------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 100), min_size=1, max_size=12),
    came=st.lists(st.floats(0.0, 1000.0), min_size=12, max_size=12),
    rate=st.floats(5.0, 100.0),
)
def test_every_blob_is_read_again_in_time_where_the_rate_is_enough(
    sizes: list[int], came: list[float], rate: float
) -> None:
    """Followed for ten periods, reading as late as the plan allows."""
    period, now, checked = 1000.0, 1000.0, dict(enumerate(came[: len(sizes)]))
    if sum(sizes) / (rate * 0.7) > period or max(came) > now:
        return
    reads = 0
    while now < 11 * period:
        blobs = [StoredBlob("org/m", str(number), size, checked[number]) for number, size in enumerate(sizes)]
        turn = next_turn(blobs, period, rate, now)
        assert turn is not None
        now = max(now, turn.begin_at_seconds) + turn.blob.bytes / rate
        reads += 1
        late = now - (checked[int(turn.blob.name)] + period)
        # What came long before we looked for the first time may be late once.
        assert late <= 1e-6 or checked[int(turn.blob.name)] <= 1000.0
        checked[int(turn.blob.name)] = now
    assert reads <= len(sizes) * 30


def test_a_rate_that_is_too_low_is_told_with_how_late_it_is() -> None:
    blobs = [StoredBlob("org/m", str(number), 1000, 0.0) for number in range(3)]
    turn = next_turn(blobs, 100.0, 10.0, 0.0)
    assert turn is not None
    assert (turn.blob, turn.late_seconds) == (blobs[0], 200.0)
    assert next_turn(blobs, 1000.0, 10.0, 0.0) is not None
    assert next_turn([], 100.0, 10.0, 0.0) is None


def test_a_clock_that_was_set_back_puts_nothing_off() -> None:
    turn = next_turn([StoredBlob("org/m", "x", 0, 10**9)], 100.0, 10.0, 500.0)
    assert turn is not None
    assert turn.begin_at_seconds == 600.0


# -- on disk ------------------------------------------------------------------------------------------------------------


async def test_every_blob_is_read_once_and_then_not_before_its_time(hub: Hub, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    scrub = scrub_of(cache)
    await _whole(scrub)
    sizes = sum(blob.bytes for blob in stored_blobs(cache))
    assert scrub.report().read_bytes == sizes
    assert (scrub.report().oldest_seconds or 0) > time.time() + 7 * DAY
    assert scrub.report().news == ()
    assert await scrub.step() > 0
    assert scrub.report().read_bytes == sizes


async def test_what_was_read_is_known_after_a_restart(hub: Hub, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    running = asyncio.create_task((first := scrub_of(cache)).run())
    async with asyncio.timeout(10):
        while first.report().read_bytes < sum(blob.bytes for blob in stored_blobs(cache)):
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.wait([running])
    second = scrub_of(cache)
    await _whole(second)
    assert second.report().read_bytes < first.report().read_bytes  # at most the one that was being noted
    ModelFolder(cache, REPOSITORY).checked.write_text("no note")
    third = scrub_of(cache)
    await _whole(third)
    assert third.report().read_bytes == first.report().read_bytes


async def test_reading_again_changes_nothing_in_the_page_cache(hub: Hub, model: ServedModel, cache: Path) -> None:
    """Neither takes from what a pod has read, nor adds to it."""
    await fetch(order_for(hub, cache))
    if not can_drop(cache):
        pytest.skip("files in this folder are in memory")
    blob = ModelFolder(cache, REPOSITORY).blob(model.files["model.safetensors"].etag)
    assert resident_bytes(blob) == 0
    assert reader().check(blob, blob.name) is Found.GOOD
    assert resident_bytes(blob) == 0
    blob.read_bytes()
    before = resident_bytes(blob)
    assert before >= blob.stat().st_size
    assert reader().check(blob, blob.name) is Found.GOOD
    assert resident_bytes(blob) == before


async def test_reading_keeps_to_its_rate_and_pauses_while_the_disk_is_busy(
    hub: Hub, model: ServedModel, cache: Path, tmp_path: Path
) -> None:
    await fetch(order_for(hub, cache))
    blob = ModelFolder(cache, REPOSITORY).blob(model.files["model.safetensors"].etag)
    began = time.monotonic()
    assert reader(rate=10e6).check(blob, blob.name) is Found.GOOD
    assert time.monotonic() - began >= blob.stat().st_size / 10e6
    pressure = tmp_path / "pressure"
    pressure.write_text("some avg10=55.10 avg60=1.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0 avg300=0 total=1\n")
    busy = reader(pressure=pressure)
    waiting = asyncio.create_task(asyncio.to_thread(busy.check, blob, blob.name))
    await asyncio.wait([waiting], timeout=0.3)
    assert (waiting.done(), busy.read_bytes) == (False, 0)
    pressure.write_text("some avg10=3.00 avg60=1.00 avg300=0.00 total=1\n")
    assert await waiting is Found.GOOD


async def test_a_stop_ends_a_reading_that_waits(hub: Hub, model: ServedModel, cache: Path, tmp_path: Path) -> None:
    await fetch(order_for(hub, cache))
    blob = ModelFolder(cache, REPOSITORY).blob(model.files["model.safetensors"].etag)
    slow = reader(rate=1.0)
    waiting = asyncio.create_task(asyncio.to_thread(slow.check, blob, blob.name))
    await asyncio.wait([waiting], timeout=0.2)
    slow.stop()
    async with asyncio.timeout(5):
        assert await waiting is Found.STOPPED


async def test_what_no_manifest_vouches_for_is_left_alone(hub: Hub, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    stranger = ModelFolder(cache, REPOSITORY).blob("0" * 64)
    stranger.write_bytes(b"not what its name says")
    scrub = scrub_of(cache)
    await _whole(scrub)
    assert (stranger.exists(), scrub.report().damaged) == (True, 0)


async def test_what_cannot_be_read_for_another_cause_is_left_and_keeps_no_other_waiting(
    hub: Hub, model: ServedModel, cache: Path
) -> None:
    """Somebody has put a folder there, or taken a permission away: that is no damage."""
    await fetch(order_for(hub, cache))
    blob = ModelFolder(cache, REPOSITORY).blob(model.files["model.safetensors"].etag)
    blob.unlink()
    blob.mkdir()
    scrub = scrub_of(cache)
    await _whole(scrub)
    assert (blob.is_dir(), scrub.report().damaged) == (True, 0)
    assert scrub.report().read_bytes >= sum(path.stat().st_size for path in blob.parent.iterdir() if path.is_file())


async def test_a_damaged_file_takes_readiness_at_once_and_is_fetched_alone(
    hub: Hub, model: ServedModel, cache: Path
) -> None:
    """From the flipped bit to the label and back: only that file comes over the network."""
    await fetch(order_for(hub, cache))
    weights = model.files["model.safetensors"]
    node, woken, published = LabelledNode({LABEL: "ready"}), asyncio.Event(), list[CacheReport]()

    async def publish(report: CacheReport) -> None:
        published.append(report)

    async with asyncio.TaskGroup() as tasks:
        fetches = FetchSupervisor(cache, tasks.create_task, woken.set, lambda _: None, time.time)
        room = RoomKeeper(RoomRules(cache, None, 0.0, 1, None), lambda: ())
        scrub = Scrub(cache, reader(), 7 * DAY, woken.set, lambda: time.time() + 8 * DAY)
        step = CachePass(
            CacheRules(cache, hub.url),
            WrittenCatalog(CATALOG),
            node,
            fetches,
            publish,
            time.time,
            room,
            scrub.report,
        )
        assert (await step.run()).models[0].state is ModelState.READY
        damage(ModelFolder(cache, REPOSITORY).blob(weights.etag))
        assert (await step.run()).models[0].state is ModelState.READY  # nobody can know yet
        hub.counters.reset()
        await _whole(scrub)
        assert woken.is_set()
        report = await step.run()
        assert (report.models[0].state, node.present[LABEL]) == (ModelState.FETCHING, "fetching")
        assert [(bad.repository, bad.name, bad.why) for bad in report.scrub.news] == [
            (REPOSITORY, weights.etag, "damaged")
        ]
        async with asyncio.timeout(20):
            while report.models[0].state is not ModelState.READY:
                woken.clear()
                report = await step.run()
                if report.models[0].state is not ModelState.READY:
                    await woken.wait()
    assert node.present[LABEL] == "ready"
    assert hub.counters.body_bytes == weights.size_bytes
    assert (report.scrub.damaged, sum(len(one.scrub.news) for one in published)) == (1, 1)
    assert verify_model(cache, TINY) is None


async def test_a_damaged_file_that_is_a_link_to_a_shared_store_takes_the_link_only(
    hub: Hub, model: ServedModel, cache: Path
) -> None:
    await fetch(order_for(hub, cache))
    blob = ModelFolder(cache, REPOSITORY).blob(model.files["model.safetensors"].etag)
    stored = cache / "stored"
    blob.rename(stored)
    blob.symlink_to(Path("../..") / stored.name)
    damage(stored)
    await _whole(scrub_of(cache))
    assert (blob.is_symlink(), stored.exists()) == (False, True)
