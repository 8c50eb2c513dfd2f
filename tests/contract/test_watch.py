"""The agent's watch against what API servers, and what stands before them, do to watches: whatever it was, what is known is
again what is there, and the server was not asked in a hot loop."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from agent.adapters.kube import Kube
from agent.adapters.watch import Watch
from agent.model.errors import AgentError, RetryError
from hack.devcluster import kinds
from hack.devcluster.faults import Fault
from hack.devcluster.objects import Object
from tests.fakes.devcluster import DevCluster, bare_node, dev_cluster

NODE, OTHER = "gpu-1", "gpu-2"
LIST = r"GET", r"^/api/v1/nodes\?(?!.*watch=)"
WATCH = r"GET", r"^/api/v1/nodes\?.*watch=true"
_TRIES = range(3)
"""A machine that stands still for a second makes one moment of it; a herd comes each time."""


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    """With bookmarks so often that only a dead watch is silent."""
    async with dev_cluster(tmp_path, bookmark_interval_s=0.05) as cluster:
        for name in (NODE, OTHER):
            cluster.create(kinds.NODES, bare_node(name))
        yield cluster


class Watched:
    """One node as the agent's watch knows it."""

    def __init__(self, cluster: DevCluster, kube: Kube) -> None:
        self.cluster = cluster
        self._news = asyncio.Event()
        self.watch = Watch(kube, "/api/v1/nodes", f"metadata.name={NODE}", self._news.set)

    def told(self, label: str) -> bool:
        return [node["metadata"].get("labels", {}).get("wish") for node in self.watch.objects] == [label]

    async def until(self, label: str) -> None:
        """The node's label is known to be that."""
        await self._until(lambda: self.told(label))

    async def wish(self, label: str) -> None:
        """The label is changed, and known in the end."""
        self.cluster.label_node(NODE, {"wish": label})
        await self.until(label)

    async def until_watching(self) -> None:
        async with asyncio.timeout(10):
            while not self.watches:
                await asyncio.sleep(0.01)

    @property
    def lists(self) -> int:
        """How often it was asked for all of it."""
        return len(self.cluster.requests("list", "warmslice"))

    @property
    def watches(self) -> int:
        return len(self.cluster.requests("watch", "warmslice"))

    async def _until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self._news.clear()
                await self._news.wait()


@asynccontextmanager
async def watched(cluster: DevCluster, silent_seconds: float = 150.0) -> AsyncIterator[Watched]:
    kube = await Kube.connect(str(cluster.kubeconfig()), silent_seconds, jitter_seconds=0.5)
    seen = Watched(cluster, kube)
    running = asyncio.create_task(seen.watch.run())
    try:
        yield seen
    finally:
        running.cancel()
        await asyncio.wait([running])
        await kube.close()


async def test_a_change_comes_by_the_watch_and_nothing_is_listed_twice(cluster: DevCluster) -> None:
    async with watched(cluster, silent_seconds=3.0) as seen:
        for wish in ("a", "b", "c"):
            await seen.wish(wish)
        await asyncio.sleep(3.5)
        assert (seen.lists, seen.watches) == (1, 1)


async def test_a_watch_that_falls_silent_is_broken_off_and_begun_anew(cluster: DevCluster) -> None:
    """A half-open connection: no end, no error, no bookmark."""
    cluster.inject(Fault(*WATCH, stall_after_lines=0))
    async with watched(cluster, silent_seconds=1.0) as seen:
        await seen.until_watching()
        await seen.wish("b")
        assert (seen.lists, seen.watches > 1) == (1, True)


async def test_a_watch_whose_past_is_forgotten_lists_again(cluster: DevCluster) -> None:
    cluster.label_node(NODE, {"wish": "a"})
    cluster.inject(Fault(*WATCH, error_after_lines=0))
    async with watched(cluster) as seen:
        await seen.until("a")
        await seen.wish("b")
        assert seen.lists == 2


async def test_a_watch_that_breaks_goes_on_from_what_it_has_seen(cluster: DevCluster) -> None:
    """What happened meanwhile comes by the watch too: nothing is listed again."""
    async with watched(cluster) as seen:
        await seen.until_watching()
        await seen.wish("a")
        cluster.control_plane.server.restart(forgets=False, away_s=0.1)
        await seen.wish("b")
        assert (seen.lists, seen.watches > 1) == (1, True)


async def test_an_api_server_that_is_away_knows_nothing_of_who_tried(cluster: DevCluster) -> None:
    kube = await Kube.connect(str(cluster.kubeconfig()))
    try:
        cluster.control_plane.server.restart(forgets=False, away_s=60.0)
        with pytest.raises(AgentError):
            await kube.get("/api/v1/nodes")
        assert not cluster.requests("list", "warmslice")
        cluster.control_plane.server.restart(forgets=False)
        await kube.get("/api/v1/nodes")
        assert len(cluster.requests("list", "warmslice")) == 1
    finally:
        await kube.close()


async def test_a_version_from_which_no_watch_can_be_opened_is_given_up(cluster: DevCluster) -> None:
    async with watched(cluster) as seen:
        await seen.wish("a")
        cluster.inject(Fault(*WATCH, code=504, count=3))
        cluster.control_plane.server.restart(forgets=False)
        await seen.wish("b")
        assert seen.lists == 2


@pytest.mark.parametrize("forgets", [False, True])
async def test_a_hundred_watches_do_not_come_back_in_one_moment(cluster: DevCluster, forgets: bool) -> None:
    """An API server that was restarted; lists are from its cache, and there are none where it remembers."""
    jitter = 3.0
    kubes = [await Kube.connect(str(cluster.kubeconfig()), jitter_seconds=jitter) for _ in range(10)]
    watches = [Watch(kubes[n % 10], "/api/v1/nodes", f"metadata.name={NODE}", lambda: None) for n in range(100)]
    running = [asyncio.create_task(watch.run()) for watch in watches]
    try:
        await _open(cluster, 100, since=0)
        for _ in _TRIES:
            last = cluster.requests("watch", "warmslice")[-1].number
            cluster.control_plane.server.restart(forgets=False)
            cluster.label_node(NODE, {"wish": "new"})
            if forgets:
                cluster.api.store.compact()
            await _open(cluster, 100, since=last)
            seen = [request for request in cluster.requests("", "warmslice") if request.number > last]
            most = max(Counter(int(request.at / (jitter / 10)) for request in seen).values())
            if most <= 60:
                break
        assert most <= 60, "at most thirty are to be expected in a tenth of the time"
        lists = [request.query for request in seen if request.verb == "list"]
        assert (len(lists), {"resourceVersion=0" in query for query in lists}) == (
            (100, {True}) if forgets else (0, set())
        )
        async with asyncio.timeout(20):
            # The last of them is open, and still has to be told.
            while not all(
                node["metadata"].get("labels") == {"wish": "new"} for watch in watches for node in watch.objects
            ):
                await asyncio.sleep(0.05)
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        for kube in kubes:
            await kube.close()


async def _open(cluster: DevCluster, count: int, since: int) -> None:
    """So many watches that were begun since then are open."""
    async with asyncio.timeout(20):
        while True:
            begun = [request for request in cluster.requests("watch", "warmslice") if request.number > since]
            if len([request for request in begun if request.duration_s is None]) == count:
                return
            await asyncio.sleep(0.05)


async def test_a_fault_can_be_for_one_client_alone(cluster: DevCluster) -> None:
    """So that whoever plants it is not struck by it."""
    kube = await Kube.connect(str(cluster.kubeconfig()))
    try:
        cluster.inject(Fault("GET", "/api/v1/nodes", user_agent="^somebody-else", code=503))
        await kube.get("/api/v1/nodes")
        cluster.inject(Fault("GET", "/api/v1/nodes", user_agent="^warmslice", code=503))
        with pytest.raises(RetryError):
            await kube.get("/api/v1/nodes")
    finally:
        await kube.close()


async def test_watches_that_a_server_ends_in_order_do_not_come_back_in_one_moment_either(cluster: DevCluster) -> None:
    """As one does that goes down: long before they would have ended by themselves."""
    jitter = 3.0
    kube = await Kube.connect(str(cluster.kubeconfig()), jitter_seconds=jitter)
    watches = [Watch(kube, "/api/v1/nodes", f"metadata.name={NODE}", lambda: None) for _ in range(100)]
    running = [asyncio.create_task(watch.run()) for watch in watches]
    try:
        await _open(cluster, 100, since=0)
        for _ in _TRIES:
            last = cluster.requests("watch", "warmslice")[-1].number
            cluster.control_plane.server.restart(forgets=False, in_order=True)
            await _open(cluster, 100, since=last)
            moments = sorted(one.at for one in cluster.requests("watch", "warmslice", since=last))
            between = moments[89] - moments[9]
            if between >= jitter / 2:
                break
        assert between >= jitter / 2, "eight tenths of the time are to be expected between these"
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)
        await kube.close()


async def test_what_stands_before_an_api_server_cannot_make_a_watch_wait_for_a_day(
    cluster: DevCluster, caplog: pytest.LogCaptureFixture
) -> None:
    cluster.inject(Fault(*LIST, code=503, retry_after=86_400))
    async with watched(cluster), asyncio.timeout(10):
        while not (failed := [one for one in caplog.records if one.message == "watch.failed"]):
            await asyncio.sleep(0.01)
    assert 60.0 <= vars(failed[0])["wait_seconds"] <= 61.0


async def test_an_answer_that_comes_late_brings_nothing_back_that_was_deleted(cluster: DevCluster) -> None:
    """The answer to a write may be read after the watch has told that the object is gone."""
    cluster.label_node(NODE, {"wish": "a"})
    async with watched(cluster) as seen:
        await seen.until("a")
        late = cluster.get(kinds.NODES, NODE)
        cluster.delete(kinds.NODES, NODE)
        async with asyncio.timeout(10):
            while seen.watch.objects:
                await asyncio.sleep(0.01)
        seen.watch.put(late)
        assert seen.watch.objects == ()
        made = cluster.create(kinds.NODES, bare_node(NODE, labels={"wish": "b"}))
        seen.watch.put(made)
        assert seen.told("b")


async def test_half_a_line_is_no_event(cluster: DevCluster) -> None:
    async with watched(cluster) as seen:
        await seen.wish("a")
        cluster.inject(Fault(*WATCH, cut_after_lines=0))
        cluster.control_plane.server.restart()
        await seen.wish("b")
        await seen.wish("c")


async def test_what_was_deleted_while_nobody_watched_is_known_to_be_gone(cluster: DevCluster) -> None:
    """And a node of the same name is another node."""
    async with watched(cluster) as seen:
        await seen.wish("a")
        [first] = [node["metadata"]["uid"] for node in seen.watch.objects]
        cluster.inject(Fault(*WATCH, reset=True, count=2))
        cluster.control_plane.server.restart()
        cluster.delete(kinds.NODES, NODE)
        cluster.create(kinds.NODES, bare_node(NODE, labels={"wish": "b"}))
        await seen.until("b")
        [second] = [node["metadata"]["uid"] for node in seen.watch.objects]
        assert first != second


@pytest.mark.parametrize(
    "fault",
    [
        Fault(*LIST, code=429, retry_after=1),
        Fault(*LIST, code=500),
        Fault(*LIST, code=503, body="<html>maintenance</html>", content_type="text/html"),
        Fault(*LIST, code=200, body="<html>log in</html>", content_type="text/html"),
        Fault(*LIST, code=401),
        Fault(*LIST, code=410),
        Fault(*LIST, reset=True, count=2),
        Fault(*WATCH, code=429, retry_after=1),
        Fault(*WATCH, code=504),
        Fault(*WATCH, code=410),
        Fault(*WATCH, code=401),
        Fault(*WATCH, code=200, body="[]\n"),
        Fault(*WATCH, code=200, body="{}\n"),
        Fault(*WATCH, code=200, body="no JSON\n"),
        Fault(*WATCH, code=200, body=""),
    ],
    ids=lambda fault: f"{'watch' if fault.path == WATCH[1] else 'list'} {fault.code or 'reset'} {fault.body}".strip(),
)
async def test_an_answer_that_is_none_is_asked_for_again(cluster: DevCluster, fault: Fault) -> None:
    cluster.inject(fault)
    async with watched(cluster) as seen:
        await seen.wish("a")
        await seen.wish("b")
        assert fault.hits >= 1
        assert seen.lists + seen.watches <= 6


async def test_the_server_is_not_asked_again_before_it_wants_to_be(cluster: DevCluster) -> None:
    cluster.inject(Fault(*LIST, code=429, retry_after=1))
    async with watched(cluster) as seen:
        await seen.wish("a")
    first, second = [request.at for request in cluster.requests("list", "warmslice")]
    assert second - first >= 1


async def test_an_event_longer_than_the_reader_takes_is_seen_by_the_next_list(cluster: DevCluster) -> None:
    """Objects of a megabyte are sent with every ``<`` as six characters; whoever may write one must not end the agent."""

    def config(text: str) -> Object:
        return {"metadata": {"name": "long"}, "data": {"text": text}}

    kube, news = await Kube.connect(str(cluster.kubeconfig()), jitter_seconds=0.5), asyncio.Event()
    watch = Watch(kube, "/api/v1/configmaps", "", news.set)
    running = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(20):
            while not cluster.requests("watch", "warmslice"):
                await asyncio.sleep(0.01)
            cluster.create(kinds.CONFIGMAPS, config("x" * 5_000_000))
            while not watch.objects:
                news.clear()
                await news.wait()
            cluster.merge(kinds.CONFIGMAPS, "long", config("short"), "default")
            while watch.objects[0]["data"]["text"] != "short":
                news.clear()
                await news.wait()
    finally:
        running.cancel()
        await asyncio.wait([running])
        await kube.close()
    assert len(cluster.requests("list", "warmslice")) == 2
