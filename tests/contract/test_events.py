"""Events at the API server: what is said again is counted where it was said first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from agent.adapters.kube import Kube
from agent.observe.cluster import node_of
from agent.reconcile.telling import CountedEvents, tell
from agent.report.events import node_event
from hack.devcluster import kinds
from hack.devcluster.objects import Object
from tests.fakes.devcluster import DevCluster, dev_cluster

NODE = node_of({"metadata": {"name": "gpu-1", "uid": "u"}})


class Said:
    """An agent that says things, and what then stands in the cluster."""

    def __init__(self, cluster: DevCluster, kube: Kube) -> None:
        self.cluster = cluster
        self.kube = kube
        self.restart()

    def restart(self) -> None:
        self.events = CountedEvents(self.kube, lambda _: None)

    async def say(self, message: str, at: float, reason: str = "rolled-back") -> None:
        await tell(self.events, node_event(NODE, reason, message, "Partition", at, warning=True))

    @property
    def stand(self) -> list[tuple[str, int]]:
        return sorted((event["message"], event["count"]) for event in self._all())

    def _all(self) -> list[Object]:
        return self.cluster.api.all(kinds.EVENTS, "default")


@pytest_asyncio.fixture
async def said(tmp_path: Path) -> AsyncIterator[Said]:
    async with dev_cluster(tmp_path) as cluster:
        kube = await Kube.connect(str(cluster.kubeconfig()))
        try:
            yield Said(cluster, kube)
        finally:
            await kube.close()


async def test_the_same_words_are_counted_and_others_are_not(said: Said) -> None:
    for at in (100.0, 130.0, 190.0):
        await said.say("the driver refused", at)
    await said.say("the driver refused something else", 200.0)
    await said.say("the driver refused", 200.0, reason="gpu-unknown")
    assert said.stand == [
        ("the driver refused", 1),
        ("the driver refused", 3),
        ("the driver refused something else", 1),
    ]
    [event] = [event for event in said._all() if event["count"] == 3]
    assert (event["firstTimestamp"], event["lastTimestamp"]) == ("1970-01-01T00:01:40Z", "1970-01-01T00:03:10Z")


async def test_an_event_that_the_api_server_has_dropped_begins_anew(said: Said) -> None:
    await said.say("blocked", 100.0)
    for event in said._all():
        said.cluster.delete(kinds.EVENTS, event["metadata"]["name"], "default")
    await said.say("blocked", 200.0)
    await said.say("blocked", 300.0)
    assert said.stand == [("blocked", 2)]


async def test_a_restart_begins_a_new_row(said: Said) -> None:
    await said.say("blocked", 100.0)
    said.restart()
    await said.say("blocked", 200.0)
    assert said.stand == [("blocked", 1), ("blocked", 1)]


async def test_no_more_is_remembered_than_a_node_has_to_say(said: Said) -> None:
    for number in range(250):
        await said.say(f"message {number}", float(number))
    assert len(said.events._said) == 200
    await said.say("message 0", 400.0)
    await said.say("message 249", 400.0)
    counts = dict(sorted((event["message"], event["count"]) for event in said._all()))
    assert (counts["message 249"], counts["message 0"]) == (2, 1)
