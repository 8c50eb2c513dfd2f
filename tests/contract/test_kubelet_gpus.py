"""The simulated kubelet on simulated GPUs: what pods do to slices, and that nothing is left when the cluster ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest_asyncio

from hack.devcluster import kinds
from hack.devcluster.client import Client
from hack.devcluster.gpu_operator import DEPLOY_DEVICE_PLUGIN
from hack.devcluster.kubeconfig import read_kubeconfig
from hack.devcluster.kubelet.pod_worker import GPU_MEMORY_MIB
from hack.devcluster.objects import Object, dig
from tests.fakes.devcluster import DevCluster, SimulatedKubelet, dev_cluster, is_running, simple_pod
from tests.fakes.simgpu import SimulatedGpus

SMALL = "nvidia.com/mig-1g.10gb"
LARGE = "nvidia.com/mig-3g.40gb"
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class GpuNode:
    """One H100 cut into 3g.40gb and 1g.10gb."""

    cluster: DevCluster
    gpus: SimulatedGpus
    kubelet: SimulatedKubelet


@pytest_asyncio.fixture
async def node(tmp_path: Path) -> AsyncIterator[GpuNode]:
    gpus = cut_gpu(tmp_path)
    async with dev_cluster(tmp_path) as cluster:
        cluster.install_device_plugin()
        kubelet = cluster.add_kubelet(
            "gpu-1",
            {},
            devices_file=None,
            simgpu_dir=gpus.paths.simgpu.parent,
            simgpu_state=gpus.state,
            plugin_needs_pod=True,
            labels={DEPLOY_DEVICE_PLUGIN: "true"},
        )
        await cluster.wait_for(kinds.NODES, "gpu-1", allows(LARGE, 1))
        yield GpuNode(cluster, gpus, kubelet)


def cut_gpu(folder: Path) -> SimulatedGpus:
    gpus = SimulatedGpus.create(folder, "H100-80GB-SXM", mig=True)
    assert gpus.nvidia_smi("mig", "-cgi", "9,19", "-C").returncode == 0
    return gpus


def allows(resource: str, amount: int) -> Callable[[Object], bool]:
    def holds(node: Object) -> bool:
        allocatable: dict[str, str] = dig(node, "status.allocatable", {})
        return allocatable.get(resource) == str(amount)

    return holds


def holders(gpus: SimulatedGpus) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gpus.show()["processes"]
    return found


def destroy(gpus: SimulatedGpus, profile: str) -> bool:
    """Whether the driver let the instance of this profile go."""
    instance = next(i for gpu in gpus.show()["gpus"] for i in gpu["instances"] if i["profile"] == profile)
    gi = str(instance["gi_id"])
    if gpus.nvidia_smi("mig", "-dci", "-gi", gi, "-i", "0").returncode != 0:
        return False
    return gpus.nvidia_smi("mig", "-dgi", "-gi", gi, "-i", "0").returncode == 0


async def test_the_slice_of_a_running_pod_cannot_be_destroyed(node: GpuNode) -> None:
    pod = simple_pod("p", resources={LARGE: 1}, annotations={GPU_MEMORY_MIB: "2048"})
    node.cluster.create(kinds.PODS, pod)
    await node.cluster.wait_for(kinds.PODS, "p", is_running)
    assert len(holders(node.gpus)) == 1
    assert not destroy(node.gpus, "3g.40gb")
    assert destroy(node.gpus, "1g.10gb")
    node.cluster.delete(kinds.PODS, "p")
    await node.cluster.wait_until_gone(kinds.PODS, "p")
    assert holders(node.gpus) == []
    assert destroy(node.gpus, "3g.40gb")


async def test_the_plugin_sees_new_slices_after_its_restart_and_not_before(node: GpuNode) -> None:
    assert destroy(node.gpus, "3g.40gb")
    assert node.gpus.nvidia_smi("mig", "-cgi", "19,19,19", "-C").returncode == 0
    await asyncio.sleep(3 * node.kubelet.settings.status_interval_s)
    assert allows(LARGE, 1)(node.cluster.get(kinds.NODES, "gpu-1"))
    node.cluster.label_node("gpu-1", {DEPLOY_DEVICE_PLUGIN: "paused"})
    await node.cluster.wait_for(kinds.NODES, "gpu-1", allows(SMALL, 0))
    node.cluster.label_node("gpu-1", {DEPLOY_DEVICE_PLUGIN: "true"})
    await node.cluster.wait_for(kinds.NODES, "gpu-1", allows(SMALL, 4))
    assert allows(LARGE, 0)(node.cluster.get(kinds.NODES, "gpu-1"))


async def test_a_pod_given_a_slice_that_is_gone_does_not_start(node: GpuNode) -> None:
    """The plugin has not noticed yet, so the pod is admitted; its container cannot be made."""
    assert destroy(node.gpus, "3g.40gb")
    node.cluster.create(kinds.PODS, simple_pod("p", resources={LARGE: 1}))

    def cannot_start(pod: Object) -> bool:
        statuses = dig(pod, "status.containerStatuses") or []
        return any(dig(status, "state.waiting.reason") == "RunContainerError" for status in statuses)

    await node.cluster.wait_for(kinds.PODS, "p", cannot_start)
    node.cluster.delete(kinds.PODS, "p")
    await node.cluster.wait_until_gone(kinds.PODS, "p")


async def test_a_kubelet_restart_leaves_the_pods_process_alone(node: GpuNode) -> None:
    node.cluster.create(kinds.PODS, simple_pod("p", resources={LARGE: 1}))
    await node.cluster.wait_for(kinds.PODS, "p", is_running)
    before = holders(node.gpus)
    await node.kubelet.restart()
    await node.cluster.wait_for(kinds.NODES, "gpu-1", allows(LARGE, 1))
    assert holders(node.gpus) == before
    node.cluster.delete(kinds.PODS, "p")
    await node.cluster.wait_until_gone(kinds.PODS, "p")
    assert holders(node.gpus) == []


async def test_nothing_outlives_a_cluster_that_is_killed(tmp_path: Path) -> None:
    gpus, run_dir = cut_gpu(tmp_path), tmp_path / "run"
    cluster = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hack.devcluster", "--nodes", "gpu-1", "--run-dir", str(run_dir),
        "--simgpu-dir", str(gpus.paths.simgpu.parent), "--simgpu-state", str(gpus.state),
        "--status-interval", "0.05", "--pod-start", "0.02",
        cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert cluster.stdout is not None
    try:
        await cluster.stdout.readline()
        await _run_a_pod(run_dir / "kubeconfig")
        await _until(lambda: len(holders(gpus)) == 1)
        [pod_process], members = holders(gpus), _descendants(cluster.pid)
        assert len(members) >= 3  # the kubelet, its device plugin, the pod
    finally:
        cluster.kill()
        await cluster.communicate()
    await _until(lambda: not any(_lives(pid) for pid in (*members, pod_process["pid"])))


async def _run_a_pod(kubeconfig: Path) -> None:
    async with Client(read_kubeconfig(kubeconfig), "test") as client:
        await client.post("/api/v1/namespaces/default/pods", simple_pod("p", resources={LARGE: 1}))


def _descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [found for child in map(int, children) for found in (child, *_descendants(child))]


def _lives(pid: int) -> bool:
    """A zombie that nobody has waited for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


async def _until(holds: Callable[[], bool]) -> None:
    """Processes and the GPUs' state file give no notice; look again until a short deadline."""
    for _ in range(200):
        if holds():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("did not come true in time")
