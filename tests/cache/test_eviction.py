"""Room in the cache: models that nobody needs go for one that is wanted, whole, and after a kill at any point."""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import pytest

from agent.adapters.files import is_open
from agent.adapters.hub_cache import ModelFolder, disk_use, model_folders
from agent.execute.fetch import FetchSupervisor
from agent.execute.remove import finish_removals, remove
from agent.model.cache import CacheReport, ModelState
from agent.model.catalog import Catalog, CatalogModel
from agent.model.demand import Rank
from agent.model.revision import UNFINISHED, PodText
from agent.model.scrub import ScrubReport
from agent.observe.cache import observe_model, verify_model
from agent.observe.revisions import opened, pod_texts, read_revisions
from agent.plan.demand import Choice, Wanted
from agent.plan.room import make_room
from agent.reconcile.cache import CachePass, CacheRules, NoWorkloads
from agent.reconcile.room import RoomKeeper, RoomRules, Use
from hack.hub.content import Access, ServedModel, model_of, read_model
from hack.hub.server import Hub
from tests.fakes.hub import LabelledNode, WrittenCatalog, fetch, order_for, write_files
from tests.fakes.page_cache import NotWarm

OLD, NEW = CatalogModel("old", "acme/old"), CatalogModel("new", "acme/new")
SIZE = 3_000_000
BUDGET = 5_000_000
CATALOG = "models: [{repository: acme/new, name: new}, {repository: acme/old, name: old}]\nsets: {s: [new]}"


def served(folder: Path, repository: str) -> ServedModel:
    write_files(folder, {"model.safetensors": SIZE, "config.json": 100, f"{repository[-3:]}.json": 50})
    return read_model(repository, folder, Access.PUBLIC)


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Hub]:
    async with Hub({name: served(tmp_path / name, name) for name in ("acme/old", "acme/new")}) as running:
        yield running


@pytest.fixture
async def filled(hub: Hub, cache: Path) -> Path:
    """Holds the old model, as it came."""
    await fetch(order_for(hub, cache, repository="acme/old"))
    return cache


@dataclass(slots=True)
class Loop:
    """Passes of the cache loop on a node that wants the new model only."""

    step: CachePass
    woken: asyncio.Event
    pods: list[PodText]
    published: list[CacheReport] = field(default_factory=list)

    async def until(self, reached: Callable[[CacheReport], bool]) -> CacheReport:
        async with asyncio.timeout(20):
            while True:
                self.woken.clear()
                report = await self.step.run()
                if reached(report):
                    return report
                await self.woken.wait()


@pytest.fixture
async def loop(hub: Hub, filled: Path) -> AsyncIterator[Loop]:
    node = LabelledNode({"warmslice.dev/model-set": "s"})
    woken, pods, published = asyncio.Event(), list[PodText](), list[CacheReport]()
    now = time.time

    async def publish(report: CacheReport) -> None:
        published.append(report)

    async with asyncio.TaskGroup() as tasks:
        fetches = FetchSupervisor(filled, tasks.create_task, woken.set, lambda _: None, now)
        rules = CacheRules(filled, hub.url, budget_bytes=BUDGET)
        room = RoomKeeper(RoomRules(filled, BUDGET, 0.0, 1, None), lambda: pods)
        step = CachePass(
            rules, WrittenCatalog(CATALOG), node, fetches, publish, now, room, ScrubReport, NoWorkloads(), NotWarm()
        )
        yield Loop(step, woken, pods, published)


async def test_what_nobody_wants_goes_for_what_is_wanted(loop: Loop, filled: Path) -> None:
    report = await loop.until(lambda report: report.models[0].state is ModelState.READY)
    gone = [going for published in loop.published for going in published.gone]
    assert [(going.key.repository, going.reason) for going in gone] == [("acme/old", "room")]
    assert re.fullmatch(r"was not in use for \d+ seconds, and acme/new needs the room", gone[0].because)
    assert not (filled / "models--acme--old").exists()
    assert verify_model(filled, NEW) is None
    assert report.disk.used_bytes <= BUDGET


async def test_what_a_pod_names_stays_until_the_pod_is_gone(loop: Loop, filled: Path) -> None:
    loop.pods.append(PodText("ml/llm-0", "vllm serve acme/old"))
    report = await loop.until(lambda report: report.models[0].state is ModelState.FAILED)
    (model,) = report.models
    assert model.reason == "blocked"
    assert "the cache's budget leaves" in model.message
    assert "acme/old@" in model.message
    assert "named by pod ml/llm-0" in model.message
    assert (loop.step.room.waits, verify_model(filled, OLD)) == (True, None)
    loop.pods.clear()
    loop.step.now = lambda: time.time() + 11.0
    await loop.until(lambda report: report.models[0].state is ModelState.READY)
    assert not loop.step.room.waits


@dataclass(slots=True)
class Wishes:
    """Why the new and the old model are wanted."""

    new: Rank
    old: Rank

    def choose(self, catalog: Catalog, declared: Sequence[CatalogModel]) -> Choice:
        both = [Wanted(NEW, self.new, "pod a/b"), Wanted(OLD, self.old, "Deployment c/d")]
        return Choice(tuple(sorted(both, key=lambda one: -one.rank)))


async def test_what_is_wanted_less_urgently_goes_for_a_model_that_a_pod_waits_for(loop: Loop, filled: Path) -> None:
    """And does not come back for it: then it would be that one's turn to go."""
    loop.step.catalog = WrittenCatalog("models: []\n")
    loop.step.node = LabelledNode()
    loop.step.workloads = Wishes(new=Rank.HERE, old=Rank.WORKLOAD)
    await loop.until(lambda report: report.models[0].state is ModelState.READY)
    assert verify_model(filled, NEW) is None
    report = await loop.until(lambda report: report.models[1].state is ModelState.FAILED)
    assert (report.models[0].state, report.models[1].reason) == (ModelState.READY, "blocked")
    assert "wanted on this node" in report.models[1].message


async def test_what_is_declared_stays_whatever_workloads_say(loop: Loop, filled: Path) -> None:
    """Else whoever may make a pod could have the administrator's models removed."""
    loop.step.catalog = WrittenCatalog("models: [{repository: acme/old, name: old}]\n")
    loop.step.node = LabelledNode()
    loop.step.workloads = Wishes(new=Rank.HERE, old=Rank.DECLARED)
    report = await loop.until(lambda report: report.models[0].state is ModelState.FAILED)
    assert (report.models[0].reason, report.models[1].state) == ("blocked", ModelState.READY)
    assert verify_model(filled, OLD) is None


async def test_what_is_wanted_as_urgently_stays(loop: Loop, filled: Path) -> None:
    loop.step.workloads = Wishes(new=Rank.WORKLOAD, old=Rank.WORKLOAD)
    report = await loop.until(lambda report: report.models[0].state is ModelState.FAILED)
    assert (report.models[0].reason, report.models[1].state) == ("blocked", ModelState.READY)
    assert verify_model(filled, OLD) is None


async def test_what_a_process_has_open_stays(loop: Loop, filled: Path) -> None:
    blob = max((filled / "models--acme--old" / "blobs").iterdir(), key=lambda path: path.stat().st_size)
    with blob.open("rb"):
        report = await loop.until(lambda report: report.models[0].state is ModelState.FAILED)
        assert "open in a process" in report.models[0].message
    assert verify_model(filled, OLD) is None


async def test_a_budget_that_was_lowered_is_kept(hub: Hub, filled: Path) -> None:
    """Nothing is fetched; and what is wanted stays all the same, which is said."""
    node, report = LabelledNode({"warmslice.dev/model-set": "s"}), None

    async def publish(_: CacheReport) -> None:
        return

    await fetch(order_for(hub, filled, repository="acme/new"))
    async with asyncio.TaskGroup() as tasks:
        fetches = FetchSupervisor(filled, tasks.create_task, lambda: None, lambda _: None, time.time)
        for budget in (BUDGET, 1_000_000):
            room = RoomKeeper(RoomRules(filled, budget, 0.0, 1, None), lambda: ())
            rules = CacheRules(filled, hub.url, budget)
            step = CachePass(
                rules,
                WrittenCatalog(CATALOG),
                node,
                fetches,
                publish,
                time.time,
                room,
                ScrubReport,
                NoWorkloads(),
                NotWarm(),
            )
            report = await step.run()
            assert report.models[0].state is ModelState.READY
            assert [going.key.repository for going in report.gone] == (["acme/old"] if budget == BUDGET else [])
            assert (report.over is None) == (budget == BUDGET)
    assert report is not None
    assert report.over is not None
    assert "acme/new@" in report.over
    assert "wanted on this node" in report.over


async def test_earlier_revisions_go_once_the_next_is_complete(hub: Hub, filled: Path) -> None:
    """All but one; and blobs that the revisions share stay."""
    model = hub.models["acme/old"]
    for number in range(3):
        newer = model_of({**model.files, f"{number}.json": model.files["old.json"]}, "acme/old", Access.PUBLIC)
        hub.add(newer)
        await fetch(order_for(hub, filled, repository="acme/old"))
    keeper = RoomKeeper(RoomRules(filled, None, 0.0, 1, None), lambda: ())
    wanted = [OLD]
    models = {"old": observe_model(filled, OLD)}
    kept = await keeper.keep(Use(wanted, models, [], ()), None, disk_use(filled), time.time())
    assert [going.reason for going in kept.gone] == ["old", "old"]
    assert len(list((filled / "models--acme--old" / "snapshots").iterdir())) == 2
    assert verify_model(filled, OLD) is None


# -- removal ------------------------------------------------------------------------------------------------------------


async def _two_that_share(hub: Hub, cache: Path) -> None:
    """Two commits of a repository: the weights are the same."""
    await fetch(order_for(hub, cache, repository="acme/old"))
    model = hub.models["acme/old"]
    hub.add(model_of({**model.files, "old.json": model.files["config.json"]}, "acme/old", Access.PUBLIC))
    await fetch(order_for(hub, cache, repository="acme/old"))


def _dies_at(effect: int, act: Callable[[], object]) -> bool:
    """Do it in a process that is killed before its ``effect``-th change of the disk; whether it was."""
    child = os.fork()
    if child == 0:
        left = effect

        def audit(event: str, arguments: tuple[object, ...]) -> None:
            nonlocal left
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in {"os.remove", "os.rename", "os.rmdir"} or writes:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(audit)
        try:
            act()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


async def test_a_removal_that_is_killed_anywhere_leaves_all_or_nothing(hub: Hub, tmp_path: Path) -> None:
    """And never harms another revision that has some of the blobs."""
    await _two_that_share(hub, tmp_path / "prepared")
    for effect in range(100):
        cache = shutil.copytree(tmp_path / "prepared", tmp_path / str(effect), symlinks=True)
        newest = observe_model(cache, OLD).commit
        earlier = next(r for r in read_revisions(cache) if r.key.commit != newest)
        (going,) = make_room([earlier], {}, 1, time.time()).going
        killed = _dies_at(effect, partial(remove, cache, going))
        finish_removals(cache)
        assert verify_model(cache, OLD) is None
        pinned = replace(OLD, revision=earlier.key.commit)
        folder = ModelFolder(cache, "acme/old")
        there = earlier.key in {r.key for r in read_revisions(cache)}
        assert there == folder.snapshot(earlier.key.commit).exists()
        assert not there or verify_model(cache, pinned) is None
        assert list(folder.private.glob("*.going")) == list(folder.private.glob("*.gone")) == []
        if not killed:
            assert not there
            return
    raise AssertionError("it never came to its end")


async def test_a_commit_that_was_fetched_again_after_the_kill_stays(hub: Hub, filled: Path) -> None:
    (going,) = make_room(read_revisions(filled), {}, 1, time.time()).going
    assert _dies_at(4, lambda: remove(filled, going))
    await fetch(order_for(hub, filled, repository="acme/old"))
    finish_removals(filled)
    assert verify_model(filled, OLD) is None


async def test_while_a_fetch_is_at_work_on_the_repository_nothing_of_it_goes(filled: Path) -> None:
    (going,) = make_room(read_revisions(filled), {}, 1, time.time()).going
    with _held(ModelFolder(filled, "acme/old").lock):
        assert not remove(filled, going)
    assert verify_model(filled, OLD) is None
    assert remove(filled, going)
    assert model_folders(filled) == []


async def test_a_blob_that_the_hubs_own_client_is_bringing_stays(hub: Hub, filled: Path) -> None:
    """It would make a link to it as soon as it has it."""
    (going,) = make_room(read_revisions(filled), {}, 1, time.time()).going
    folder = ModelFolder(filled, "acme/old")
    weights = hub.models["acme/old"].files["model.safetensors"].etag
    lock = folder.lock_of_the_client(weights)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with _held(lock):
        remove(filled, going)
        finish_removals(filled)
        assert [path.name for path in folder.blobs.iterdir()] == [weights]
    finish_removals(filled)
    assert not folder.root.exists()


async def test_parts_of_a_model_that_nobody_wants_any_more_go_too(hub: Hub, cache: Path) -> None:
    hub.faults.add("GET cdn/", "status", status=403)
    with pytest.raises(Exception, match="answers 403"):
        await fetch(order_for(hub, cache, repository="acme/old"))
    (left,) = read_revisions(cache)
    assert (left.key.commit, left.bytes >= SIZE) == (UNFINISHED, True)
    (going,) = make_room([left], {}, SIZE, time.time()).going
    assert remove(cache, going)
    assert read_revisions(cache) == ()


# -- who uses it --------------------------------------------------------------------------------------------------------


@contextmanager
def _held(lock: Path) -> Iterator[None]:
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


async def test_a_file_is_open_while_a_process_has_it_open_or_mapped(filled: Path) -> None:
    (revision,) = read_revisions(filled)
    assert opened(filled, [revision]) == frozenset()
    blob = ModelFolder(filled, "acme/old").blob(max(revision.blobs, key=lambda name: revision.blobs[name]))
    maps = "import mmap, sys; f = open(sys.argv[1]); m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); f.close()"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        f"{maps}; print('mapped', flush=True); sys.stdin.read()",
        str(blob),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"mapped\n"
    assert is_open(blob)
    assert opened(filled, [revision]) == {revision.key}
    process.kill()
    await process.communicate()
    assert not is_open(blob)


def test_a_pod_that_has_ended_names_nothing() -> None:
    def pod(name: str, phase: str) -> dict[str, object]:
        containers = [{"args": ["--model", "acme/old"], "env": [{"name": "A", "value": "b"}, {"name": "C"}]}]
        return {
            "metadata": {"namespace": "ml", "name": name},
            "spec": {"containers": containers, "volumes": [{"hostPath": {"path": "/hub"}}, {"emptyDir": {}}]},
            "status": {"phase": phase},
        }

    texts = pod_texts([pod("a", "Running"), pod("b", "Succeeded"), pod("c", "Pending")])
    assert [text.pod for text in texts] == ["ml/a", "ml/c"]
    assert texts[0].text.split() == ["--model", "acme/old", "b", "/hub"]
