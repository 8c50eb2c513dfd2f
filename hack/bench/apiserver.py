"""What a fleet costs the development API server: a thousand nodes of 20 KB, 6,000 pods, two watches per node.

The server runs in a process of its own, without controllers and kubelets; the memory is that process's peak. A patch is
timed from its request to its answer, with all watches open, and its event must have reached the node's watch.

    python -m hack.bench.apiserver [--nodes 1000] [--pods-per-node 6] [--patches 200]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import statistics
import time
from multiprocessing.connection import Connection

import aiohttp

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.objects import Object
from hack.devcluster.server import ApiServer

IMAGES = 50


def node(name: str) -> Object:
    """Of the size of a real one: most of it is the list of images."""
    images = [
        {"names": [f"registry.example/{name}/{i}@sha256:{i:064d}" + "x" * 200], "sizeBytes": i} for i in range(IMAGES)
    ]
    amounts = {"cpu": "64", "memory": "512Gi", "pods": "110"}
    return {"metadata": {"name": name}, "status": {"images": images, "allocatable": amounts, "capacity": amounts}}


def pod(name: str, node_name: str) -> Object:
    env = [{"name": f"VARIABLE_{i}", "value": "x" * 20} for i in range(20)]
    container = {"name": "main", "image": "example.org/main:1", "env": env}
    return {
        "metadata": {"name": name, "labels": {"app": "a"}},
        "spec": {"nodeName": node_name, "containers": [container]},
    }


def serve(pipe: Connection, nodes: int, pods_per_node: int) -> None:
    asyncio.run(_serve(pipe, nodes, pods_per_node))


async def _serve(pipe: Connection, nodes: int, pods_per_node: int) -> None:
    api = Api()
    api.create(kinds.NAMESPACES, "", {"metadata": {"name": "default"}})
    for number in range(nodes):
        api.create(kinds.NODES, "", node(f"node-{number}"))
        for one in range(pods_per_node):
            api.create(kinds.PODS, "default", pod(f"pod-{number}-{one}", f"node-{number}"))
    server = ApiServer(api)
    await server.start()
    pipe.send(server.url)
    await asyncio.to_thread(pipe.recv)
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    await server.stop()


async def measure(url: str, nodes: int, patches: int) -> list[float]:
    """Milliseconds of each patch."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as session:
        watches = []
        for number in range(nodes):
            for path, field in (("nodes", "metadata.name"), ("pods", "spec.nodeName")):
                query = {"watch": "1", "fieldSelector": f"{field}=node-{number}"}
                watches.append(await session.get(f"/api/v1/{path}", params=query))
                await watches[-1].content.readline()  # the first object: the watch is on
        print(f"{len(watches)} watches are open")
        times = [await _patch(session, watches[2 * (i % nodes)], f"node-{i % nodes}", i) for i in range(patches)]
        for watch in watches:
            watch.close()
        return times


async def _patch(session: aiohttp.ClientSession, watch: aiohttp.ClientResponse, name: str, number: int) -> float:
    body = json.dumps({"metadata": {"labels": {"nvidia.com/mig.config": f"layout-{number}"}}})
    headers = {"Content-Type": "application/merge-patch+json"}
    begun = time.perf_counter()
    async with session.patch(f"/api/v1/nodes/{name}", data=body, headers=headers) as answer:
        await answer.read()
        answer.raise_for_status()
    took = (time.perf_counter() - begun) * 1000
    event = json.loads(await watch.content.readuntil(b"\n"))
    if event["object"]["metadata"]["labels"]["nvidia.com/mig.config"] != f"layout-{number}":
        raise RuntimeError("the watch saw another change")
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--pods-per-node", type=int, default=6)
    parser.add_argument("--patches", type=int, default=200)
    chosen = parser.parse_args()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    ours, theirs = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, chosen.nodes, chosen.pods_per_node), daemon=True
    )
    server.start()
    times = asyncio.run(measure(ours.recv(), chosen.nodes, chosen.patches))
    ours.send("done")
    peak = ours.recv()
    ninety_nine = sorted(times)[int(len(times) * 0.99)]
    print("nodes | pods | MB at most | label patch, median ms | p99 ms")
    pods = chosen.nodes * chosen.pods_per_node
    print(f"{chosen.nodes} | {pods} | {peak:.0f} | {statistics.median(times):.1f} | {ninety_nine:.1f}")
    server.join(10)


if __name__ == "__main__":
    main()
