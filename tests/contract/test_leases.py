"""What the fleet relies on in Leases, and in metadata alone, tried through the agent's own door on the development API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from agent.adapters.demand import WorkloadView
from agent.adapters.kube import Kube
from agent.adapters.leases import Leases
from agent.adapters.watch import Metadata, Watch
from agent.execute.fleet import FleetHands, LeaderHands
from agent.model import labels
from agent.model.errors import ConflictError, GoneError
from agent.model.fleet import LEADER, Slot, Word, slot_name
from agent.observe.fleet import kept_of_member, leader_of, member_of, slot_of
from hack.devcluster import kinds
from hack.devcluster.objects import Object, name_of
from tests.fakes.devcluster import DevCluster, bare_node, dev_cluster

NAMESPACE = "warmslice"


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    async with dev_cluster(tmp_path) as cluster:
        cluster.create(kinds.NAMESPACES, {"metadata": {"name": NAMESPACE}})
        yield cluster


@pytest_asyncio.fixture
async def kube(cluster: DevCluster) -> AsyncIterator[Kube]:
    kube = await Kube.connect(str(cluster.kubeconfig()), jitter_seconds=0.5)
    yield kube
    await kube.close()


@pytest.fixture
def leases(kube: Kube) -> Leases:
    return Leases(kube, NAMESPACE)


@pytest.fixture
def hands(leases: Leases) -> FleetHands:
    return FleetHands(leases, lambda: 1_000_000.5)


def _slot(lease: Object) -> Slot:
    slot = slot_of(lease)
    assert slot is not None
    return slot


async def test_agents_are_counted_by_the_pods_of_their_namespace_or_else_by_nodes(
    cluster: DevCluster, kube: Kube
) -> None:
    """A cluster may have far more nodes than GPU nodes."""
    view = WorkloadView(kube, NAMESPACE, lambda _, item: item, asyncio.create_task, lambda: None)
    for number in range(7):
        cluster.create(kinds.NODES, bare_node(f"cpu-{number}"))
    assert await view.agents() == 7
    spec = {"containers": [{"name": "agent", "image": "warmslice"}]}
    for number in range(3):
        cluster.create(kinds.PODS, {"metadata": {"name": f"agent-{number}"}, "spec": spec}, NAMESPACE)
    cluster.create(kinds.PODS, {"metadata": {"name": "another"}, "spec": spec}, "default")
    assert await view.agents() == 3


async def test_a_slot_is_a_wish_until_it_has_a_holder(hands: FleetHands) -> None:
    wish = _slot(await hands.ask("gpu-1"))
    granted = _slot(await hands.grant(wish))
    confirmed = _slot(await hands.confirm(granted))
    assert [(slot.node, slot.granted) for slot in (wish, granted, confirmed)] == [
        ("gpu-1", False), ("gpu-1", True), ("gpu-1", True),
    ]  # fmt: skip
    assert len({slot.version for slot in (wish, granted, confirmed)}) == 3
    assert {slot.since for slot in (wish, granted, confirmed)} == {wish.since}


async def test_of_two_that_ask_for_one_node_the_second_is_told_so(hands: FleetHands) -> None:
    first = _slot(await hands.ask("gpu-1"))
    with pytest.raises(ConflictError):
        await hands.ask("gpu-1")
    assert _slot(await hands.find(slot_name("gpu-1"))) == first


async def test_a_slot_that_changed_meanwhile_is_neither_granted_nor_confirmed_nor_taken(hands: FleetHands) -> None:
    wish = _slot(await hands.ask("gpu-1"))
    granted = _slot(await hands.grant(wish))
    for act in (hands.grant, hands.confirm, hands.take):
        with pytest.raises(ConflictError):
            await act(wish)
    assert _slot(await hands.find(slot_name("gpu-1"))) == granted


async def test_a_slot_of_the_same_name_is_another_slot(hands: FleetHands) -> None:
    """Who was taken out of the queue and asked again does not use the old one."""
    old = _slot(await hands.ask("gpu-1"))
    await hands.take(old)
    new = _slot(await hands.ask("gpu-1"))
    for act in (hands.grant, hands.confirm, hands.take):
        with pytest.raises(ConflictError):
            await act(old)
    assert _slot(await hands.find(slot_name("gpu-1"))) == new


async def test_what_is_gone_is_gone(hands: FleetHands) -> None:
    slot = _slot(await hands.ask("gpu-1"))
    await hands.remove("gpu-1")
    await hands.remove("gpu-1")
    await hands.take(slot)
    for act in (hands.grant, hands.confirm):
        with pytest.raises(GoneError):
            await act(slot)


async def test_one_leads_and_each_renewal_leaves_another_mark(cluster: DevCluster, leases: Leases) -> None:
    times = iter([1.0, 2.0, 2.5, 3.0])
    hands = LeaderHands(leases, LEADER, 15.0, lambda: next(times))
    first = leader_of(await hands.lead(None, "a", None))
    with pytest.raises(ConflictError):
        await hands.lead(None, "b", None)
    renewed = leader_of(await hands.lead(first, "a", Word(7, 3, 3)))
    with pytest.raises(ConflictError):
        await hands.lead(first, "b", None)
    said = Word.from_json(renewed.said)
    assert (renewed.holder, said, renewed.renewed == first.renewed) == ("a", Word(7, 3, 3), False)
    assert cluster.get(kinds.LEASES, LEADER, NAMESPACE)["spec"]["leaseDurationSeconds"] == 15


async def test_who_takes_over_begins_another_term_and_who_resigns_leaves_no_word(leases: Leases) -> None:
    hands = LeaderHands(leases, LEADER, 15.0, lambda: 1_000_000.5)
    first = leader_of(await hands.lead(None, "a", None))
    second = leader_of(await hands.lead(first, "b", Word(1, 1, 1)))
    await hands.resign(second)
    empty = leader_of(await hands.find())
    assert (first.terms, second.terms, empty.holder, empty.said) == (0, 1, "", "")


async def test_a_leader_watches_of_nodes_what_it_needs_and_in_pages(cluster: DevCluster, kube: Kube) -> None:
    """Only nodes of which an agent has said something; of them who is labelled, and who has a record."""
    for number in range(501):
        cluster.create(kinds.NODES, bare_node(f"gpu-{number}", labels={labels.STATE: "pending", labels.CONFIG: "x"}))
    cluster.create(kinds.NODES, bare_node("cpu-1"))
    metadata = Metadata(labels.STATE, lambda item: kept_of_member(item, labels.CONFIG))
    changed = asyncio.Event()
    watch = Watch(kube, "/api/v1/nodes", "", changed.set, metadata=metadata)
    running = asyncio.create_task(watch.run())

    async def until(*changing: str) -> None:
        async with asyncio.timeout(30):
            while True:
                members = [member_of(item, labels.CONFIG) for item in watch.objects]
                if len(members) == 501 and tuple(m.name for m in members if m.changing) == changing:
                    assert all(member.labelled for member in members)
                    return
                changed.clear()
                await changed.wait()

    await until()
    cluster.merge(kinds.NODES, "gpu-7", {"metadata": {"annotations": {labels.OPERATION: "{}"}}})
    await until("gpu-7")
    assert {frozenset(item) for item in watch.objects} == {frozenset({"metadata"})}
    lists = [entry for entry in cluster.requests("list", "warmslice") if name_of_path(entry.path) == "nodes"]
    assert len(lists) == 2
    running.cancel()
    await asyncio.wait([running])


def name_of_path(path: str) -> str:
    return path.partition("?")[0].rpartition("/")[2]


async def test_one_node_is_looked_at_by_its_metadata(cluster: DevCluster, kube: Kube) -> None:
    cluster.create(kinds.NODES, bare_node("gpu-1", labels={"warmslice.dev/gpu-0a1b2c3d.layout": "7x1g.10gb"}))
    item = await kube.metadata("/api/v1/nodes/gpu-1")
    assert "status" not in item
    member = member_of(item, labels.CONFIG)
    assert (member.name, member.labelled, member.changing) == ("gpu-1", True, False)
    assert name_of(item) == "gpu-1"
