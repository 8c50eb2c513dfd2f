"""Two hundred nodes and three hundred workloads behind one API server: 197 agents in this process, three processes of their
own, of which one publishes what the workloads want, until it is killed."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import msgspec

from agent.adapters.kubelet import KubeletIfAny
from agent.adapters.nvml import Hardware
from agent.model import labels
from agent.model.demand_map import KEY, MOST_BYTES, NAME, read
from agent.partition_role import Machine
from agent.settings import Settings
from hack.devcluster import kinds
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object, dig, name_of
from hack.hub.server import Hub
from tests.e2e.agent_node import AgentNode, new_node
from tests.e2e.in_memory import agents_in_memory
from tests.e2e.test_fleet_of_fifty import _until
from tests.fakes.devcluster import DevCluster, bare_node, dev_cluster
from tests.fakes.hub import tiny_model
from tests.fakes.world import Effects, MemoryGpus, h100

NAMESPACE = "warmslice"
REAL = tuple(f"gpu-{number:03}" for number in range(3))
IN_MEMORY = tuple(f"gpu-{number:03}" for number in range(3, 200))
HERE = "org/here"
LABEL = f"{labels.MODEL_PREFIX}org--here"
ALLOW = {"serving-*": ["org/*"]}
SPACES = tuple(f"serving-{number}" for number in range(10))


def workloads() -> Iterator[tuple[Kind, Object]]:
    """Three hundred, of which one wants a model for the nodes of the pool ``real``."""
    for number in range(299):
        spec = pod_spec(f"org/model-{number % 120}", pool=f"pool-{number % 7}")
        metadata = {"name": f"w{number}", "namespace": SPACES[number % len(SPACES)]}
        yield of_kind(number % 5, metadata, spec)
    yield of_kind(0, {"name": "here", "namespace": SPACES[0]}, pod_spec(HERE, pool="real"))


def pod_spec(model: str, pool: str) -> Object:
    container = {"name": "main", "image": "vllm/vllm-openai:v0.11", "command": ["vllm", "serve", model]}
    return {"containers": [container], "nodeSelector": {"pool": pool}, "restartPolicy": "Always"}


def of_kind(kind: int, metadata: Object, spec: Object) -> tuple[Kind, Object]:
    app = {"app": metadata["name"]}
    template = {"metadata": {"labels": app}, "spec": spec}
    scaled = {"replicas": 0, "selector": {"matchLabels": app}, "template": template}
    match kind:
        case 0:
            return kinds.DEPLOYMENTS, {"metadata": metadata, "spec": scaled}
        case 1:
            return kinds.STATEFULSETS, {"metadata": metadata, "spec": {**scaled, "serviceName": "s"}}
        case 2:
            once = {**template, "spec": {**spec, "restartPolicy": "Never"}}
            return kinds.JOBS, {"metadata": metadata, "spec": {"suspend": True, "template": once}}
        case 3:
            groups = {"leaderWorkerTemplate": {"workerTemplate": template, "size": 1}, "replicas": 0}
            return kinds.LEADER_WORKER_SETS, {"metadata": metadata, "spec": groups}
        case _:
            return kinds.INFERENCE_SERVICES, {"metadata": metadata, "spec": {"predictor": {"minReplicas": 0, **spec}}}


def _agents_in_memory(cluster: DevCluster, folder: Path, hub: Hub) -> AbstractAsyncContextManager[None]:
    settings = Settings(
        role="cache",
        catalog_file=str(folder / "catalog.yaml"),
        cache_listen="127.0.0.1:0",
        hub_endpoint=hub.url,
        namespace=NAMESPACE,
        prewarm="auto",
        prewarm_allow=ALLOW,
        scrub_days=0,
    )
    machine = Machine(cast("Hardware", MemoryGpus(Effects(), [h100()])), KubeletIfAny(""))
    return agents_in_memory(
        cluster,
        IN_MEMORY,
        lambda name: msgspec.structs.replace(settings, cache_directory=str(folder / name)),
        lambda: machine,
    )


@asynccontextmanager
async def _written(cluster: DevCluster) -> AsyncIterator[list[str]]:
    """The text of the ConfigMap, each time that it was written."""
    texts: list[str] = []
    subscription = cluster.api.store.subscribe(kinds.CONFIGMAPS)

    async def follow() -> None:
        while True:
            batch = await subscription.next_batch()
            texts.extend(change.object["data"][KEY] for change in batch if name_of(change.object) == NAME)

    following = asyncio.create_task(follow())
    try:
        yield texts
    finally:
        following.cancel()
        cluster.api.store.unsubscribe(subscription)


def _publisher(cluster: DevCluster) -> str:
    lease = cluster.find(kinds.LEASES, NAME, NAMESPACE)
    return str(dig(lease or {}, "spec.holderIdentity") or "").rpartition("_")[0]


def _lists_of_workloads(cluster: DevCluster) -> Counter[str]:
    kinds_watched = ("deployments", "statefulsets", "jobs", "leaderworkersets", "inferenceservices")
    asked = [
        entry for entry in cluster.requests("list", "warmslice") if "continue=" not in f"{entry.query}{entry.path}"
    ]
    plurals = (entry.path.partition("?")[0].rpartition("/")[2] for entry in asked)
    return Counter(plural for plural in plurals if plural in kinds_watched)


async def _start(node: AgentNode, hub: Hub) -> None:
    await node.start(
        "cache",
        catalog_file=node.folder.parent / "catalog.yaml",
        hub_endpoint=hub.url,
        cache_directory=node.folder / "hub-cache",
        namespace=NAMESPACE,
        prewarm="auto",
        prewarm_allow=json.dumps(ALLOW),
    )


def _process(cluster: DevCluster, folder: Path, name: str) -> AgentNode:
    own = folder / f"machine-{name}"
    own.mkdir()
    return new_node(cluster, own, name, labels={"pool": "real"})


async def test_one_agent_watches_workloads_for_two_hundred_and_another_follows_when_it_is_killed(
    tmp_path: Path,
) -> None:
    """What it publishes is small, is written when demand changes and only then, and reaches the nodes that it concerns."""
    (tmp_path / "catalog.yaml").write_text("models: []\n", "utf-8")
    served = tmp_path / "served"
    served.mkdir()
    async with dev_cluster(tmp_path) as cluster, Hub({HERE: tiny_model(served, repository=HERE)}) as hub:
        for space in (NAMESPACE, *SPACES):
            cluster.create(kinds.NAMESPACES, {"metadata": {"name": space}})
        for kind, item in workloads():
            cluster.create(kind, item)
        processes = [_process(cluster, tmp_path, name) for name in REAL]
        for name in IN_MEMORY:
            cluster.create(kinds.NODES, bare_node(name))
        await _until(lambda: len(cluster.api.all(kinds.NODES)) == 200, "every node is there")
        try:
            async with _written(cluster) as texts:
                await _start(processes[0], hub)
                await _until(lambda: len(texts) == 1, "the first publishes")
                for process in processes[1:]:
                    await _start(process, hub)
                async with _agents_in_memory(cluster, tmp_path, hub):
                    await _until(lambda: _ready(cluster) == set(REAL), "the model is where its pods may come")
                    await _until(lambda: _watching(cluster) == 200, "all watch what is published")
                    # One of two hundred lists workloads: at first, and again where a busy machine broke a watch of its off.
                    listed = _lists_of_workloads(cluster)
                    assert (_publisher(cluster), len(listed), max(listed.values()) < 4) == (REAL[0], 5, True)
                    _touch(cluster)
                    await processes[0].kill()
                    began = asyncio.get_running_loop().time()
                    await _until(lambda: _publisher(cluster) not in ("", REAL[0]), "another publishes")
                    assert asyncio.get_running_loop().time() - began < 60
                    await _until(lambda: _lists_of_workloads(cluster) > listed, "it looks at workloads")
                    await _until(lambda: len(_lists_of_workloads(cluster) - listed) == 5, "at all of them")
                    assert len(texts) == 1, "nothing that anybody wants has changed"
                    cluster.create(*of_kind(0, {"name": "new", "namespace": SPACES[0]}, pod_spec("org/new", "real")))
                    await _until(lambda: len(texts) == 2, "what is wanted now is published")
        finally:
            for process in processes:
                await process.kill()
    assert [len(text.encode()) < MOST_BYTES for text in texts] == [True, True]
    before, after = (read(text) for text in texts)
    assert (len(before), {one.named.repository for one in after} - {one.named.repository for one in before}) == (
        len({_wish(item) for _, item in workloads()}),
        {"org/new"},
    )


def _wish(item: Object) -> tuple[Any, ...]:
    """What tells two wishes apart: the model, where it may run, and the namespace."""
    text = json.dumps(item["spec"])
    pool, model = text.partition('"pool": "')[2].partition('"')[0], text.partition('"serve", "')[2].partition('"')[0]
    return model, pool, item["metadata"]["namespace"]


def _ready(cluster: DevCluster) -> set[str]:
    return {name_of(n) for n in cluster.api.all(kinds.NODES) if dig(n, "metadata.labels", {}).get(LABEL) == "ready"}


def _watching(cluster: DevCluster) -> int:
    """Watches that are open now: one that was begun again counts once."""
    watches = cluster.requests("watch", "warmslice")
    return len([entry for entry in watches if "/configmaps" in entry.path and entry.duration_s is None])


def _touch(cluster: DevCluster) -> None:
    """What changes nothing that anybody wants: another scale, another label, a workload that serves nothing."""
    cluster.merge(kinds.LEADER_WORKER_SETS, "w3", {"spec": {"replicas": 7}}, SPACES[3])
    cluster.merge(kinds.DEPLOYMENTS, "w0", {"metadata": {"labels": {"touched": "yes"}}}, SPACES[0])
    web = {"containers": [{"name": "web", "image": "nginx"}], "nodeSelector": {"pool": "none"}}
    cluster.create(*of_kind(0, {"name": "web", "namespace": SPACES[0]}, web))
