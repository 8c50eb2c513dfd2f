"""A node as a whole: simulated GPUs, a development cluster, and the agent as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from agent.model import labels
from hack.devcluster import gpu_operator, kinds
from hack.devcluster.objects import Object, name_of
from tests.fakes.devcluster import DevCluster, SimulatedKubelet, dev_cluster, is_running
from tests.fakes.simgpu import SimulatedGpus

NODE = "gpu-1"
DEADLINE_SECONDS = 30.0
LAYOUTS = """\
version: v1
mig-configs:
  small: [{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 7}}]
  mixed: [{devices: all, mig-enabled: true, mig-devices: {3g.40gb: 1, 1g.10gb: 4}}]
"""


class AgentProcess:
    """The agent on one machine: ``start`` and ``stop`` it as often as needed; the machine stays."""

    def __init__(
        self, kubeconfig: Path, gpus: SimulatedGpus, kubelet: SimulatedKubelet, folder: Path, name: str = NODE
    ) -> None:
        self.name = name
        self.gpus = gpus
        self.kubelet = kubelet
        self.folder = folder
        self.layouts = folder / "layouts.yaml"
        self.layouts.write_text(LAYOUTS, "utf-8")
        self.process: asyncio.subprocess.Process | None = None
        self._kubeconfig = kubeconfig
        self._log = folder / "agent.log"

    async def start(self, role: str = "partition", **flags: object) -> None:
        """Start the agent; it has not done anything yet."""
        values = {
            "role": role,
            "node-name": self.name,
            "kubeconfig": self._kubeconfig,
            "layouts-file": self.layouts,
            "pod-resources-socket": self.kubelet.socket,
            "proc-directory": self.kubelet.proc,
            "state-directory": self.folder / "state",
            "partition-listen": "127.0.0.1:0",
            "cache-listen": "127.0.0.1:0",
            "telemetry-period-seconds": "0.2",
            "reconnect-jitter-seconds": "0.5",
            "cache-reserve-ratio": "0",
            "status-socket": self.folder / "cache.sock",
            **{name.replace("_", "-"): value for name, value in flags.items()},
        }
        path = f"{self.gpus.paths.nvidia_smi.parent}{os.pathsep}{os.environ['PATH']}"
        with self._log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "agent",
                "run",
                *(f"--{name}={value}" for name, value in values.items()),
                env={**os.environ, **self.gpus.env(), "PATH": path},
                stdout=log,
                stderr=log,
            )

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        return await self._end(signal.SIGTERM)

    async def kill(self) -> int:
        """SIGKILL."""
        return await self._end(signal.SIGKILL)

    async def ended(self) -> int:
        """Wait until the agent ended by itself (or was killed by somebody); the exit code."""
        assert self.process is not None
        async with asyncio.timeout(DEADLINE_SECONDS):
            code = await self.process.wait()
        self.process = None
        return code

    async def _end(self, number: signal.Signals) -> int:
        if self.process is None:
            return 0
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.ended()

    def log(self) -> list[dict[str, Any]]:
        """Every line of the agent's log, of all its lives."""
        return [json.loads(line) for line in self._log.read_text("utf-8").splitlines()]

    def slices(self, gpu: int = 0) -> list[str]:
        """profile@start of the instances on one GPU."""
        instances = self.gpus.show()["gpus"][gpu]["instances"]
        return [f"{i['profile']}@{i['start']}" for i in sorted(instances, key=lambda i: i["start"])]

    @staticmethod
    def words(node: Object) -> dict[str, Any]:
        """The status on a node object; empty before the first."""
        annotations = node["metadata"].get("annotations") or {}
        found: dict[str, Any] = json.loads(annotations.get(labels.STATUS, "{}"))
        return found


class AgentNode(AgentProcess):
    """An agent's machine in a development cluster that is in this process too, so that tests can look behind it."""

    def __init__(
        self, cluster: DevCluster, gpus: SimulatedGpus, kubelet: SimulatedKubelet, folder: Path, name: str = NODE
    ) -> None:
        super().__init__(cluster.kubeconfig(), gpus, kubelet, folder, name)
        self.cluster = cluster

    # -- looking --------------------------------------------------------------------------------------------------

    def node(self) -> Object:
        """The node object."""
        return self.cluster.get(kinds.NODES, self.name)

    def status(self) -> dict[str, Any]:
        """The status annotation; empty before the first."""
        return self.words(self.node())

    async def until(self, state: str, layout: str) -> dict[str, Any]:
        """The status, once it is that of that layout and no operation runs."""
        await self.cluster_until(lambda: self._says(state, layout), f"{state} for {layout!r}")
        return self.status()

    def _says(self, state: str, layout: str) -> bool:
        metadata = self.node()["metadata"]
        idle = labels.OPERATION not in (metadata.get("annotations") or {})
        status = self.status()
        return idle and (metadata["labels"].get(labels.STATE), status.get("layout")) == (state, layout)

    async def cluster_until(self, holds: Callable[[], bool], what: str) -> None:
        """Look, as often as is needed, until it is so."""
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                while not holds():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            last = self._log.read_text("utf-8", "replace")[-3000:] if self._log.exists() else ""
            raise AssertionError(f"never came: {what}; status {self.status()}; log ends {last}") from None

    def events(self) -> list[Object]:
        """Events about the node from the agent."""
        return [e for e in self.cluster.api.all(kinds.EVENTS) if e.get("reportingComponent") == "warmslice.dev/agent"]

    async def page(self, path: str) -> str:
        """GET from the agent's own pages."""
        started = [line for line in self.log() if line["event"] == "started"]
        async with aiohttp.ClientSession() as session, session.get(f"http://{started[-1]['address']}{path}") as answer:
            return await answer.text()

    # -- acting ---------------------------------------------------------------------------------------------------

    def wish(self, layout: str | None) -> None:
        """Label the node."""
        self.cluster.label_node(self.name, {labels.CONFIG: layout})

    async def run_deployment(self, name: str, resource: str, replicas: int = 1) -> None:
        """A Deployment, running."""
        container = {"name": "main", "image": "example.org/serve:1", "resources": {"limits": {resource: "1"}}}
        template = {
            "metadata": {"labels": {"app": name}},
            "spec": {"containers": [container], "terminationGracePeriodSeconds": 1},
        }
        spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
        self.cluster.create(kinds.DEPLOYMENTS, {"metadata": {"name": name}, "spec": spec})
        await self.cluster_until(lambda: len(self.pods(name)) == replicas, f"{replicas} pods of {name} run")

    def pods(self, app: str) -> dict[str, Object]:
        """Running pods of an app, by UID."""
        return {
            pod["metadata"]["uid"]: pod
            for pod in self.cluster.api.all(kinds.PODS)
            if pod["metadata"].get("labels", {}).get("app") == app
            and is_running(pod)
            and "deletionTimestamp" not in pod["metadata"]
        }

    def evictions(self) -> list[str]:
        """Names of the pods that the agent asked to evict."""
        paths = [r.path for r in self.cluster.requests(user_agent="warmslice") if r.method == "POST"]
        return [path.split("/")[-2] for path in paths if path.endswith("/eviction")]


@asynccontextmanager
async def agent_node(
    folder: Path,
    *boards: str,
    mig: bool = True,
    deploy_labels: bool = True,
    driver: int = 580,
    config_map: Object | None = None,
    device_plugin: bool = True,
    **settings: Any,
) -> AsyncIterator[AgentNode]:
    """A node whose device plugin runs; the agent is not started yet, and is ended at the end. ``config_map`` has the plugin's
    configurations; ``settings`` are fields of KubeletSettings."""
    async with dev_cluster(folder) as cluster:
        if device_plugin:
            cluster.install_device_plugin(name_of(config_map) if config_map else "")
        if config_map:
            cluster.create(kinds.CONFIGMAPS, config_map, gpu_operator.NAMESPACE)
        if device_plugin and not deploy_labels:
            selector = {"spec": {"template": {"spec": {"nodeSelector": None}}}}
            cluster.merge(kinds.DAEMONSETS, gpu_operator.DEVICE_PLUGIN, selector, gpu_operator.NAMESPACE)
        deploy = {"nvidia.com/gpu.deploy.dcgm-exporter": "true"}
        deploy |= {labels.DEVICE_PLUGIN: "true"} if device_plugin else {}
        settings |= {"labels": deploy if deploy_labels else {}}
        node = new_node(cluster, folder, NODE, *boards, mig=mig, driver=driver, **settings)
        await node.cluster_until(lambda: cluster.find(kinds.NODES, NODE) is not None, "the node is there")
        if device_plugin:
            await node.cluster_until(lambda: bool(node.pods("nvidia-device-plugin-daemonset")), "device plugin runs")
        try:
            yield node
        finally:
            await node.kill()


def new_node(
    cluster: DevCluster, folder: Path, name: str, *boards: str, mig: bool = True, driver: int = 580, **settings: Any
) -> AgentNode:
    """A kubelet that is starting, and the simulated GPUs of its machine."""
    gpus = SimulatedGpus.create(folder, *(boards or ("H100-80GB-SXM",)), mig=mig, driver=driver)
    kubelet = cluster.add_kubelet(
        name,
        {},
        devices_file=None,
        simgpu_dir=gpus.paths.simgpu.parent,
        simgpu_state=gpus.state,
        lifeline=None,  # pods end with their kubelet
        plugin_needs_pod=True,
        **settings,
    )
    return AgentNode(cluster, gpus, kubelet, folder, name)
