"""Fifty nodes labelled at once behind one API server: 47 agents in this process over GPUs in memory, three processes of their own
over simulated ones. The leader is one of these, and it and two that are in mid-change are killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import msgspec

from agent.adapters.kubelet import KubeletIfAny
from agent.adapters.nvml import Hardware
from agent.model import labels
from agent.model.fleet import LEADER, SLOT_PREFIX
from agent.partition_role import Machine
from agent.settings import Settings
from hack.devcluster import kinds
from hack.devcluster.objects import Object, dig, name_of, uid_of
from tests.e2e.agent_node import LAYOUTS, AgentNode, new_node
from tests.e2e.in_memory import agents_in_memory
from tests.fakes.devcluster import DevCluster, bare_node, dev_cluster
from tests.fakes.world import Effects, GpusWithoutNvml, h100
from tests.scenario.story import SEVEN

NAMESPACE, MOST = "warmslice", 3
REAL = tuple(f"gpu-{number:02}" for number in range(3))
IN_MEMORY = tuple(f"gpu-{number:02}" for number in range(3, 50))
DEADLINE_SECONDS = 180.0


@dataclass
class Record:
    """What the API server has seen, change by change: cordoned nodes, and who was given a slot while somebody waited longer."""

    most: int = 0
    cordoned: set[str] = field(default_factory=set)
    granted: list[str] = field(default_factory=list)
    overtaken: list[str] = field(default_factory=list)
    _waiting: dict[str, str] = field(default_factory=dict)

    def node(self, node: Object) -> None:
        there = bool(dig(node, "spec.unschedulable"))
        (self.cordoned.add if there else self.cordoned.discard)(name_of(node))
        self.most = max(self.most, len(self.cordoned))

    def slot(self, lease: Object, deleted: bool) -> None:
        since = self._waiting.pop(uid_of(lease), "")
        if deleted:
            return
        if not dig(lease, "spec.holderIdentity"):
            self._waiting[uid_of(lease)] = str(dig(lease, "metadata.creationTimestamp"))
        elif since:
            self.granted.append(name_of(lease))
            # The leader's view is a moment behind, and the stamps have whole seconds.
            self.overtaken += [
                f"{name_of(lease)} before {uid}" for uid, at in self._waiting.items() if _seconds(since, at) > 3
            ]


def _seconds(later: str, earlier: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()


@asynccontextmanager
async def _recorded(cluster: DevCluster) -> AsyncIterator[Record]:
    record = Record()
    subscription = cluster.api.store.subscribe(kinds.NODES, kinds.LEASES)

    async def follow() -> None:
        while True:
            for change in await subscription.next_batch():
                if change.storage == kinds.NODES.storage:
                    record.node(change.object)
                elif name_of(change.object).startswith(SLOT_PREFIX):
                    record.slot(change.object, change.type == "DELETED")

    following = asyncio.create_task(follow())
    try:
        yield record
    finally:
        following.cancel()
        cluster.api.store.unsubscribe(subscription)


def _agents_in_memory(cluster: DevCluster, folder: Path) -> AbstractAsyncContextManager[None]:
    settings = Settings(
        role="partition",
        layouts_file=str(folder / "layouts.yaml"),
        proc_directory=str(folder),
        partition_listen="127.0.0.1:0",
        max_unavailable=MOST,
        namespace=NAMESPACE,
    )
    return agents_in_memory(
        cluster,
        IN_MEMORY,
        lambda name: msgspec.structs.replace(settings, state_directory=str(folder / name)),
        lambda: Machine(cast("Hardware", GpusWithoutNvml(Effects(), [h100(SEVEN)])), KubeletIfAny("")),
    )


def _leader(cluster: DevCluster) -> str:
    """The node whose agent leads."""
    lease = cluster.find(kinds.LEASES, LEADER, NAMESPACE)
    return str(dig(lease or {}, "spec.holderIdentity") or "").rpartition("_")[0]


def _done(cluster: DevCluster) -> list[str]:
    """Nodes that have what they want, and are as they were."""
    return [
        name_of(node)
        for node in cluster.api.all(kinds.NODES)
        if dig(node, "metadata.labels", {}).get(labels.STATE) == "success"
        and labels.OPERATION not in (dig(node, "metadata.annotations") or {})
        and not dig(node, "spec.unschedulable")
    ]


async def _until(holds: Callable[[], bool], what: str) -> None:
    try:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not holds():
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"never came: {what}") from None


async def test_never_more_than_three_are_in_change_though_the_leader_and_two_holders_are_killed(tmp_path: Path) -> None:
    (tmp_path / "layouts.yaml").write_text(LAYOUTS, "utf-8")
    flags: Mapping[str, Any] = {"max_unavailable": str(MOST), "namespace": NAMESPACE}
    async with dev_cluster(tmp_path) as cluster:
        cluster.create(kinds.NAMESPACES, {"metadata": {"name": NAMESPACE}})
        processes = {name: _process(cluster, tmp_path, name) for name in REAL}
        for name in IN_MEMORY:
            cluster.create(kinds.NODES, bare_node(name))
        leads, *holders = processes.values()
        await _until(lambda: len(cluster.api.all(kinds.NODES)) == 50, "every node is there")
        for name in (*REAL, *IN_MEMORY):
            cluster.label_node(name, {labels.CONFIG: "mixed"})
        try:
            async with _recorded(cluster) as record:
                await leads.start(**flags)
                await _until(lambda: _leader(cluster) == leads.name, "the first leads")
                for holder in holders:
                    await holder.start(**flags)
                for holder in holders:
                    assert await holder.ended() == -9, "the driver kills it in the middle of its change"
                assert record.cordoned >= {holder.name for holder in holders}
                async with _agents_in_memory(cluster, tmp_path):
                    await _until(lambda: len(_done(cluster)) >= 6, "the third place goes round")
                    assert _leader(cluster) == leads.name
                    await leads.kill()
                    began = asyncio.get_running_loop().time()
                    await _until(lambda: _leader(cluster) not in ("", leads.name), "another leads")
                    assert asyncio.get_running_loop().time() - began < 60
                    for process in processes.values():
                        await process.start(**flags)
                    await _until(lambda: len(_done(cluster)) == 50, "all are done")
                    await _until(lambda: not _slots(cluster), "every slot is given back")
        finally:
            for process in processes.values():
                await process.kill()
    assert record.most == MOST
    assert record.overtaken == []
    assert len(record.granted) >= 50


def _process(cluster: DevCluster, folder: Path, name: str) -> AgentNode:
    """A node with seven slices, whose driver kills the second and the third agent when they have destroyed the first slice."""
    own = folder / f"machine-{name}"
    own.mkdir()
    node = new_node(cluster, own, name, labels={})
    assert node.gpus.nvidia_smi("mig", "-cgi", ",".join(["19"] * 7), "-C").returncode == 0
    if name != REAL[0]:
        node.gpus.fault("nvmlGpuInstanceDestroy", "--die", "after", "--count", "1")
    return node


def _slots(cluster: DevCluster) -> list[str]:
    names = [name_of(lease) for lease in cluster.api.all(kinds.LEASES, NAMESPACE)]
    return [name for name in names if name.startswith(SLOT_PREFIX)]
