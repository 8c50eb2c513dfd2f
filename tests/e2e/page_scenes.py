"""A node in the states that its status page is there to show: what the browser test checks, and hack/page_pictures.py draws."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hack.devcluster import kinds
from hack.devcluster.objects import Object
from hack.hub.content import ServedModel
from hack.hub.server import Hub
from tests.e2e.agent_node import DEADLINE_SECONDS, AgentNode, AgentProcess, agent_node
from tests.e2e.test_sharing import printed_config_map
from tests.fakes.hub import tiny_model

CHAT, EMBEDDINGS, REFUSED = "acme/chat-8b-instruct", "acme/embeddings-large", "acme/private-70b"
WEIGHTS_BYTES = {CHAT: 96 * 2**20, EMBEDDINGS: 24 * 2**20}
LAYOUTS = """\
version: v1
mig-configs:
  day:
  - devices: [0]
    mig-enabled: true
    mig-devices: {3g.40gb: 1, 1g.10gb: 3}
    sharing: {strategy: time-slicing, replicas: {1g.10gb: 4}}
  - {devices: [1], mig-enabled: true, mig-devices: {2g.20gb: 3}}
  night:
  - devices: [0]
    mig-enabled: true
    mig-devices: {3g.40gb: 1, 1g.10gb: 3}
    sharing: {strategy: time-slicing, replicas: {1g.10gb: 4}}
  - {devices: [1], mig-enabled: true, mig-devices: {7g.80gb: 1}}
"""
CATALOG = f"""\
models:
- {{repository: {EMBEDDINGS}, priority: 2}}
- {{repository: {CHAT}, gate: true}}
- {{repository: {REFUSED}}}
"""
_CREATE = "nvmlGpuInstanceCreateComputeInstance"
_DESTROY = "nvmlGpuInstanceDestroy"


@dataclass(slots=True)
class Stage:
    """A node with two H100, both containers of its agent, and a hub. Each scene is reached from ``idle``."""

    node: AgentNode
    cache: AgentProcess
    hub: Hub

    async def address(self) -> str:
        """Of the page, which the partition container serves."""
        return f"http://{await started(self.node)}"

    async def idle(self) -> None:
        """The layout is applied, pods run on slices and share some, models are ready."""
        self.node.wish("day")
        await self.node.until("success", "day")
        await self._run("chat", "llama-8b", "nvidia.com/mig-3g.40gb", 1, 30_400)
        await self._run("search", "embed", "nvidia.com/mig-1g.10gb", 5, 2_100)
        await self._run("speech", "whisper", "nvidia.com/mig-2g.20gb", 2, 11_300)
        for number, uuid in enumerate(self._slices()):
            self.node.gpus.run(
                "util", "--device", uuid, "--graphics", str((0.62, 0.31, 0.08, 0.87, 0.44, 0)[number % 6])
            )

    async def changing(self) -> None:
        """Slices are being destroyed and made, slowly."""
        for function in (_CREATE, _DESTROY):
            self.node.gpus.run("latency", "--function", function, "--ms", "3000")
        self.node.wish("night")

    async def changed(self) -> None:
        """The way back, at full speed."""
        for function in (_CREATE, _DESTROY):
            self.node.gpus.run("latency", "--function", function, "--ms", "0")
        await self.node.until("success", "night")
        self.node.wish("day")
        await self.node.until("success", "day")

    async def blocked(self) -> None:
        """A pod that nothing would start again has a slice that the wish needs."""
        pod = _pod({"app": "train"}, "nvidia.com/mig-2g.20gb", 17_800)
        self.node.cluster.create(
            kinds.PODS, {"metadata": {"name": "train-0", **pod["metadata"]}, "spec": pod["spec"]}, "research"
        )
        await self.node.cluster_until(lambda: len(self.node.pods("train")) == 1, "the pod runs")
        self.node.wish("night")
        await self.node.cluster_until(lambda: self.node.status().get("reason") == "blocked", "blocked")

    async def unblocked(self) -> None:
        """The pod is gone, and nothing is asked that needs its slice."""
        self.node.wish("day")
        self.node.cluster.delete(kinds.PODS, "train-0", "research", 0)
        await self.node.until("success", "day")

    async def refused(self) -> None:
        """A wish that the hardware cannot fulfil."""
        self.node.wish("2x3g.40gb_1x2g.20gb")
        await self.node.until("failed", "2x3g.40gb_1x2g.20gb")

    async def lost(self) -> None:
        """A GPU has fallen off the bus."""
        self.node.wish("day")
        await self.node.until("success", "day")
        self.node.gpus.run("lost", "--gpu", self.node.gpus.gpu_uuids()[1])

    async def fetch(self, bytes_per_second: float | None) -> None:
        """The cache container starts with an empty disk, or goes on."""
        self.hub.throttle.address_bytes_per_second = bytes_per_second
        if self.cache.process is None:
            catalog = self.cache.folder / "catalog.yaml"
            catalog.write_text(CATALOG, "utf-8")
            await self.cache.start(
                "cache",
                catalog_file=catalog,
                hub_endpoint=self.hub.url,
                cache_directory=self.cache.folder / "hub",
                cache_budget_bytes=400_000_000,
                status_socket=self.node.folder / "cache.sock",
            )

    def ready(self) -> set[str]:
        """Models that the node's labels call ready."""
        prefix = "models.warmslice.dev/"
        shown: dict[str, str] = self.node.node()["metadata"]["labels"]
        return {key.removeprefix(prefix) for key, value in shown.items() if key.startswith(prefix) and value == "ready"}

    async def until_ready(self) -> None:
        """All that can be had is there."""
        self.hub.throttle.address_bytes_per_second = None
        names = {name.replace("/", "--") for name in WEIGHTS_BYTES}
        await self.node.cluster_until(lambda: names <= self.ready(), "the models are ready")

    async def _run(self, namespace: str, name: str, resource: str, replicas: int, memory_mib: int) -> None:
        spec = {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": _pod({"app": name}, resource, memory_mib),
        }
        self.node.cluster.create(kinds.DEPLOYMENTS, {"metadata": {"name": name}, "spec": spec}, namespace)
        await self.node.cluster_until(lambda: len(self.node.pods(name)) == replicas, f"{replicas} pods of {name} run")

    def _slices(self) -> list[str]:
        """MIG devices that somebody holds, by GPU and placement."""
        shown = self.node.gpus.show()
        held = {process["mig_uuid"] for process in shown["processes"]}
        return [uuid for uuid in self.node.gpus.mig_uuids() if uuid in held]


def _pod(tags: Mapping[str, str], resource: str, memory_mib: int) -> Object:
    annotations = {"sim.warmslice.dev/gpu-memory-mib": str(memory_mib)}
    container = {"name": "main", "image": "example.org/serve:1", "resources": {"limits": {resource: "1"}}}
    return {
        "metadata": {"labels": dict(tags), "annotations": annotations},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
    }


async def started(process: AgentProcess) -> str:
    """The address that the agent listens on, once it does."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not (lines := [line for line in process.log() if line["event"] == "started"]):
            await asyncio.sleep(0.05)
    return str(lines[-1]["address"])


@asynccontextmanager
async def stage(folder: Path) -> AsyncIterator[Stage]:
    """Both containers of the agent run, the one with the models not yet."""
    layouts, served = folder / "shared-layouts.yaml", folder / "served"
    layouts.write_text(LAYOUTS, "utf-8")
    models = {name: _model(served, name, size) for name, size in WEIGHTS_BYTES.items()}
    config_map = await printed_config_map(layouts)
    async with Hub(models) as hub, agent_node(folder, "H100-80GB-SXM:2", config_map=config_map) as node:
        for namespace in ("chat", "search", "speech", "research"):
            if node.cluster.find(kinds.NAMESPACES, namespace) is None:
                node.cluster.create(kinds.NAMESPACES, {"metadata": {"name": namespace}})
        node.layouts.write_text(LAYOUTS, "utf-8")
        (folder / "cache").mkdir()
        cache = AgentProcess(node.cluster.kubeconfig(), node.gpus, node.kubelet, folder / "cache")
        await node.start("partition", resync_seconds=2)
        try:
            yield Stage(node, cache, hub)
        finally:
            await cache.kill()


def _model(served: Path, repository: str, size: int) -> ServedModel:
    folder = served / repository.replace("/", "--")
    folder.mkdir(parents=True)
    return tiny_model(folder, repository=repository, weights_bytes=size)
