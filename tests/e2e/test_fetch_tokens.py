"""Two nodes want a model that one may fetch at once: the other waits, says so, and goes on when the first is killed."""

from __future__ import annotations

from pathlib import Path

from agent.model.fleet import FETCH_PREFIX
from hack.devcluster import kinds
from hack.devcluster.objects import dig, name_of
from hack.hub.server import Hub
from tests.e2e.agent_node import AgentNode, new_node
from tests.e2e.test_fleet_of_fifty import _until
from tests.fakes.devcluster import DevCluster, dev_cluster
from tests.fakes.hub import REPOSITORY, tiny_model

NAMESPACE = "warmslice"
LABEL = f"models.warmslice.dev/{REPOSITORY.replace('/', '--')}"


def _holders(cluster: DevCluster) -> list[str]:
    leases = [one for one in cluster.api.all(kinds.LEASES, NAMESPACE) if name_of(one).startswith(FETCH_PREFIX)]
    return [str(dig(one, "spec.holderIdentity")).rpartition("_")[0] for one in leases]


def _ready(cluster: DevCluster) -> set[str]:
    nodes = cluster.api.all(kinds.NODES)
    return {name_of(node) for node in nodes if (dig(node, "metadata.labels") or {}).get(LABEL) == "ready"}


async def _start(node: AgentNode, catalog: Path, hub: Hub) -> None:
    cache = node.folder / "hub-cache"
    await node.start(
        "cache", catalog_file=catalog, hub_endpoint=hub.url, cache_directory=cache, namespace=NAMESPACE, fetch_at_once=1
    )


async def test_the_token_of_a_killed_holder_is_free_again(tmp_path: Path) -> None:
    catalog, served = tmp_path / "catalog.yaml", tmp_path / "served"
    catalog.write_text(f"models: [{{repository: {REPOSITORY}}}]\n", "utf-8")
    served.mkdir()
    async with dev_cluster(tmp_path) as cluster, Hub({REPOSITORY: tiny_model(served)}) as hub:
        cluster.create(kinds.NAMESPACES, {"metadata": {"name": NAMESPACE}})
        hub.faults.add("GET cdn/", "slow", bytes_per_second=1000)
        nodes = {}
        for name in ("gpu-1", "gpu-2"):
            folder = tmp_path / f"machine-{name}"
            folder.mkdir()
            nodes[name] = new_node(cluster, folder, name)
        await _until(lambda: len(cluster.api.all(kinds.NODES)) == 2, "both nodes are there")
        try:
            await _start(nodes["gpu-1"], catalog, hub)
            await _until(lambda: _holders(cluster) == ["gpu-1"], "the first has the token")
            await _until(lambda: any("cdn" in line for line in hub.counters.request_lines), "it fetches")
            await _start(nodes["gpu-2"], catalog, hub)
            await _until(
                lambda: "waits for its fetch token" in str(nodes["gpu-2"].log()), "the second says what it waits for"
            )
            assert _holders(cluster) == ["gpu-1"]
            await nodes["gpu-1"].kill()
            hub.faults.clear()
            await _until(lambda: _ready(cluster) == {"gpu-2"}, "the second has fetched it")
            await _until(lambda: _holders(cluster) == [], "and given the token back")
        finally:
            for node in nodes.values():
                await node.kill()
