"""Reading again what is on disk: in time, slowly, beside the page cache, and what becomes of a file that the disk has changed."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agent.adapters.hub_cache import ModelFolder
from agent.adapters.page_cache import read_beside_cache, resident_pages
from agent.execute.fetch import FetchSupervisor
from agent.execute.scrub import Found, Reader
from agent.model.cache import CacheReport, ModelState
from agent.model.scrub import StoredBlob
from agent.observe.cache import verify_model
from agent.observe.stored import believable, stored_blobs
from agent.plan.scrub import plan_scrub
from agent.reconcile.cache import CachePass, CacheRules, NoWorkloads
from agent.reconcile.room import RoomKeeper, RoomRules
from agent.reconcile.scrub import Scrub
from hack.hub.content import ServedModel
from hack.hub.server import Hub
from tests.fakes.hub import REPOSITORY, TINY, LabelledNode, WrittenCatalog, fetch, order_for
from tests.fakes.page_cache import NotWarm, can_drop, resident_bytes

DAY = 86400.0
QUIET = Path("/nowhere/pressure")
LABEL = "models.warmslice.dev/tiny"
CATALOG = "models: [{repository: acme/tiny, name: tiny}]"


def reader(rate: float = 1e9, pressure: Path = QUIET) -> Reader:
    return Reader(rate, pressure)


def scrub_of(cache: Path, rate: float = 1e9, now: float = 8 * DAY) -> Scrub:
    """A week and a day after everything came."""
    return Scrub(cache, reader(rate), 7 * DAY, lambda: None, lambda: time.time() + now)


def stored_bytes(cache: Path) -> int:
    return sum(blob.bytes for blob in stored_blobs(cache, {}, time.time()))


def weights_of(model: ServedModel, cache: Path) -> Path:
    return ModelFolder(cache, REPOSITORY).blob(model.files["model.safetensors"].etag)


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
    turns_of_a_look=st.integers(1, 6),
)
def test_every_blob_is_read_again_in_time_where_the_rate_is_enough(
    sizes: list[int], came: list[float], rate: float, turns_of_a_look: int
) -> None:
    """Followed for ten periods, reading as late as the plan allows, several turns of one look where they are due."""
    period, now, checked = 1000.0, 1000.0, dict(enumerate(came[: len(sizes)]))
    assume(sum(sizes) / (rate * 0.7) <= period)
    reads = 0
    while now < 11 * period:
        blobs = [StoredBlob("org/m", str(number), size, checked[number]) for number, size in enumerate(sizes)]
        turns = plan_scrub(blobs, period, rate).turns[:turns_of_a_look]
        now = max(now, turns[0].begin_at_seconds)
        for turn in turns:
            if turn.begin_at_seconds > now:
                break
            now += turn.blob.bytes / rate
            reads += 1
            # What came long before we looked for the first time may be late once.
            assert now - turn.blob.checked_at_seconds <= period + 1e-6 or turn.blob.checked_at_seconds <= 1000.0
            checked[int(turn.blob.name)] = now
    assert reads <= len(sizes) * 30


def test_a_rate_that_is_too_low_is_told_with_how_late_it_is() -> None:
    blobs = [StoredBlob("org/m", str(number), 1000, 0.0) for number in range(3)]
    plan = plan_scrub(blobs, 100.0, 10.0)
    assert ([turn.blob for turn in plan.turns], plan.late_seconds) == (blobs, 200.0)
    assert plan_scrub(blobs, 1000.0, 10.0).late_seconds == 0.0
    assert plan_scrub([], 100.0, 10.0).turns == ()


def test_a_time_that_is_yet_to_come_says_nothing() -> None:
    assert believable((100.0, 900.0), 500.0) == 100.0
    assert believable((900.0,), 500.0) == 500.0


# -- on disk ------------------------------------------------------------------------------------------------------------


async def test_every_blob_is_read_once_and_then_not_before_its_time(hub: Hub, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    scrub = scrub_of(cache)
    await _whole(scrub)
    sizes = stored_bytes(cache)
    assert scrub.report().read_bytes == sizes
    assert (scrub.report().oldest_seconds or 0) > time.time() + 7 * DAY
    assert scrub.report().news == ()
    assert await scrub.step() > 0
    assert scrub.report().read_bytes == sizes


async def test_what_was_read_is_known_after_a_restart(hub: Hub, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    running = asyncio.create_task((first := scrub_of(cache)).run())
    async with asyncio.timeout(10):
        while first.report().read_bytes < stored_bytes(cache):
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
    blob = weights_of(model, cache)
    assert resident_bytes(blob) == 0
    assert reader().check(blob, blob.name) is Found.GOOD
    assert resident_bytes(blob) == 0
    blob.read_bytes()
    before = resident_bytes(blob)
    assert before >= blob.stat().st_size
    assert reader().check(blob, blob.name) is Found.GOOD
    assert resident_bytes(blob) == before


async def test_a_reading_through_the_page_cache_gives_back_what_it_brought_and_no_more(
    hub: Hub, model: ServedModel, cache: Path
) -> None:
    """As where the file system cannot read around it: what a pod has read stays, here the first half."""
    await fetch(order_for(hub, cache))
    if not can_drop(cache):
        pytest.skip("files in this folder are in memory")
    blob, step = weights_of(model, cache), memoryview(bytearray(1024 * 1024))
    size = blob.stat().st_size
    with blob.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        os.preadv(file.fileno(), [bytearray(size // 2)], 0)
        before = resident_pages(file.fileno(), 0, size)
        position = 0
        while position < size:
            position += read_beside_cache(file.fileno(), step, position, size)
        assert resident_pages(file.fileno(), 0, size) == before
        assert 0 < sum(before) < len(before)


async def test_reading_keeps_to_its_rate_and_pauses_while_the_disk_is_busy(
    hub: Hub, model: ServedModel, cache: Path, tmp_path: Path
) -> None:
    await fetch(order_for(hub, cache))
    blob = weights_of(model, cache)
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
    blob = weights_of(model, cache)
    slow = reader(rate=1.0)
    waiting = asyncio.create_task(asyncio.to_thread(slow.check, blob, blob.name))
    await asyncio.wait([waiting], timeout=0.2)
    slow.stop()
    async with asyncio.timeout(5):
        assert await waiting is Found.STOPPED


async def test_a_stop_notes_what_was_read_and_ends_at_once(hub: Hub, model: ServedModel, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    weights_of(model, cache).touch()  # the last in turn
    scrub = scrub_of(cache, rate=1e3)  # the small files at once, the weights in an hour
    running = asyncio.create_task(scrub.run())
    async with asyncio.timeout(10):
        while scrub.report().read_bytes < 1024 * 1024:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait([running])
    noted = msgspec.json.decode(ModelFolder(cache, REPOSITORY).checked.read_bytes(), type=dict[str, float])
    late = {name for name, at in noted.items() if at < time.time() + DAY}
    assert late == {weights_of(model, cache).name}


async def test_where_nothing_can_be_noted_what_was_read_is_not_read_again(hub: Hub, cache: Path) -> None:
    """A full disk, for one. It is noted as soon as that can be."""
    await fetch(order_for(hub, cache))
    checked, clock = ModelFolder(cache, REPOSITORY).checked, [time.time() + 8 * DAY]
    checked.mkdir()
    scrub = Scrub(cache, reader(), 7 * DAY, lambda: None, lambda: clock[0])
    for _ in range(20):
        await scrub.step()
        clock[0] += 100.0
    assert scrub.report().read_bytes == stored_bytes(cache)
    checked.rmdir()
    clock[0] += 7 * DAY
    await _whole(scrub)
    assert checked.is_file()


async def test_a_blob_from_the_future_is_read_once_a_period(hub: Hub, model: ServedModel, cache: Path) -> None:
    """It was written while the clock was wrong, and counts as found right when we first saw it, also after a restart."""
    await fetch(order_for(hub, cache))
    began = time.time()
    for path in ModelFolder(cache, REPOSITORY).blobs.iterdir():
        os.utime(path, (began + 400 * DAY, began + 400 * DAY))
    read = 0
    for day in range(0, 30, 5):
        scrub = scrub_of(cache, now=day * DAY)
        running = asyncio.create_task(scrub.run())
        async with asyncio.timeout(10):
            while (scrub.report().oldest_seconds or 0.0) < began + (day - 7) * DAY:
                await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.wait([running])
        read += scrub.report().read_bytes
        assert (scrub.report().oldest_seconds or 0.0) <= began + day * DAY + 60
    assert read == 2 * stored_bytes(cache)  # on days 10 and 20


async def test_a_look_serves_for_all_files_that_are_due(hub: Hub, cache: Path) -> None:
    """Reading each manifest again for each of ten thousand files would take half an hour of a processor: what comes after the
    look has to wait for the next."""
    await fetch(order_for(hub, cache))
    folder, clock = ModelFolder(cache, REPOSITORY), [time.time() + 8 * DAY]
    scrub = Scrub(cache, reader(), 7 * DAY, lambda: None, lambda: clock[0])
    await scrub.step()
    manifest = next(folder.private.glob("*.json"))
    away = manifest.rename(manifest.with_suffix(".away"))
    await scrub.step()
    after_two = scrub.report()
    away.rename(manifest)
    await _whole(scrub)
    assert after_two.oldest_seconds is not None
    assert scrub.report().read_bytes == stored_bytes(cache)


async def test_what_is_wrong_once_only_is_no_damage(hub: Hub, model: ServedModel, cache: Path) -> None:
    """It came wrong over the wire, or out of memory: the disk has it right."""
    await fetch(order_for(hub, cache))
    blob = weights_of(model, cache)
    damage(blob)
    slow = reader(rate=2e7)
    reading = asyncio.create_task(asyncio.to_thread(slow.check, blob, blob.name))
    async with asyncio.timeout(10):
        while not slow.read_bytes:
            await asyncio.sleep(0.005)
        damage(blob)  # the same bit again
        assert await reading is Found.GOOD
    assert slow.read_bytes == 2 * blob.stat().st_size


async def test_a_file_that_was_replaced_while_it_was_read_stays(hub: Hub, model: ServedModel, cache: Path) -> None:
    await fetch(order_for(hub, cache))
    blob = weights_of(model, cache)
    good, size = blob.read_bytes(), blob.stat().st_size
    os.utime(blob, (0.0, 0.0))  # the first in turn
    damage(blob)
    os.utime(blob, (0.0, 0.0))
    scrub = scrub_of(cache, rate=2e7)
    reading = asyncio.create_task(scrub.step())
    async with asyncio.timeout(10):
        while scrub.report().read_bytes <= size:  # it reads for the second time
            await asyncio.sleep(0.005)
        (other := blob.with_name("other")).write_bytes(good)
        other.rename(blob)
        assert await reading == 0.0
    assert (blob.read_bytes() == good, scrub.report().damaged) == (True, 0)


@pytest.mark.parametrize("steps", [1, 3, 5])
async def test_a_kill_leaves_nothing_to_put_back(hub: Hub, model: ServedModel, cache: Path, steps: int) -> None:
    """Killed after so many files, of four: what was right is still here, and the next scrub does what is left to do."""
    await fetch(order_for(hub, cache))
    weights, blobs = weights_of(model, cache), ModelFolder(cache, REPOSITORY).blobs
    damage(weights)
    weights.touch()  # the last in turn
    whole = {path.name for path in blobs.iterdir()} - {weights.name}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _ENDLESS, str(cache), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(20):
        for _ in range(steps):
            await process.stdout.readline()
        process.kill()
        await process.wait()
    assert weights.exists() == (steps < 5)
    after = scrub_of(cache, now=8 * DAY + 3600)
    await _whole(after)
    assert {path.name for path in blobs.iterdir()} == whole
    assert (after.report().oldest_seconds or 0.0) > time.time() + 7 * DAY
    assert steps < 5 or after.report().read_bytes == 0  # what was noted is not read again


_ENDLESS = """
import asyncio, sys, time
from pathlib import Path
from agent.execute.scrub import Reader
from agent.reconcile.scrub import Scrub

async def main():
    clock = [time.time() + 8 * 86400]
    scrub = Scrub(Path(sys.argv[1]), Reader(1e7, Path("/nowhere")), 7 * 86400, lambda: None, lambda: clock[0])
    while True:
        await scrub.step()
        clock[0] += 100.0  # so that each file is noted
        print("step", flush=True)

asyncio.run(main())
"""


async def test_a_note_that_a_kill_cut_short_goes_with_the_next(hub: Hub, cache: Path) -> None:
    """Left to lie, it would look like a publication that was interrupted."""
    await fetch(order_for(hub, cache))
    checked = ModelFolder(cache, REPOSITORY).checked
    cut = checked.with_name(".checked.4711.4712.draft")
    cut.write_text('{"0')
    await _whole(scrub_of(cache))
    assert (cut.exists(), checked.exists()) == (False, True)


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
    blob = weights_of(model, cache)
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
            NoWorkloads(),
            NotWarm(),
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
    blob = weights_of(model, cache)
    stored = cache / "stored"
    blob.rename(stored)
    blob.symlink_to(Path("../..") / stored.name)
    damage(stored)
    await _whole(scrub_of(cache))
    assert (blob.is_symlink(), stored.exists()) == (False, True)
