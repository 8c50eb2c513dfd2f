"""The server of MPS, which holds the GPUs although nobody's pod is known to be it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from hack.devcluster import kinds
from hack.devcluster.gpu_operator import DEPLOY_DEVICE_PLUGIN
from hack.devcluster.kubelet.config_manager import NODE_LABEL
from hack.devcluster.kubelet.mps_server import SERVER
from tests.contract.test_kubelet import allows
from tests.contract.test_plugin_config import CONFIG, configure, sharing
from tests.fakes.devcluster import DEADLINE_S, dev_cluster, is_running, simple_pod
from tests.fakes.simgpu import SimulatedGpus

WHOLE = "nvidia.com/gpu"


def names(gpus: SimulatedGpus) -> list[tuple[str, str]]:
    """(GPU, what NVML says the process is called) of each process."""
    return [(p["gpu"], _command(p["pid"])) for p in gpus.show()["processes"]]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().partition("\0")[0]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not holds():
            await asyncio.sleep(0.02)


async def test_it_comes_with_the_first_client_and_stays_until_the_plugin_stops(tmp_path: Path) -> None:
    gpus = SimulatedGpus.create(tmp_path, "H100-80GB-SXM:2")
    async with dev_cluster(tmp_path) as cluster:
        cluster.install_device_plugin(CONFIG)
        configure(cluster, {"by-mps": sharing(WHOLE, 8, "mps")})
        kubelet = cluster.add_kubelet(
            "n",
            {},
            devices_file=None,
            simgpu_dir=gpus.paths.simgpu.parent,
            simgpu_state=gpus.state,
            plugin_needs_pod=True,
            labels={DEPLOY_DEVICE_PLUGIN: "true", NODE_LABEL: "by-mps"},
        )
        await cluster.wait_for(kinds.NODES, "n", allows(WHOLE, 16))
        assert names(gpus) == []
        cluster.create(kinds.PODS, simple_pod("p", resources={WHOLE: 1}))
        await cluster.wait_for(kinds.PODS, "p", is_running)
        servers = [(gpu, SERVER) for gpu in gpus.gpu_uuids()]
        await until(lambda: set(names(gpus)) > set(servers))
        cluster.delete(kinds.PODS, "p")
        await cluster.wait_until_gone(kinds.PODS, "p")
        assert sorted(names(gpus)) == sorted(servers)
        await kubelet.restart()
        await kubelet.wait_for_devices()
        assert sorted(names(gpus)) == sorted(servers)
        assert "In use by another client" in gpus.nvidia_smi("-i", "0", "-mig", "1").stdout
        cluster.label_node("n", {DEPLOY_DEVICE_PLUGIN: "paused"})
        await until(lambda: names(gpus) == [])
