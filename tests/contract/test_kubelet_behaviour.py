"""Slow, old, rebooted and misbehaving: the sides of a node that are seen less often."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpclib
import pytest
import pytest_asyncio
from grpclib.client import Channel, UnaryUnaryMethod

from agent.adapters import podresources_pb2 as messages
from hack.devcluster import kinds
from hack.devcluster.kubelet.pod_worker import EXIT_CODE, PULL_SECONDS, RUN_SECONDS, STOP_SECONDS
from hack.devcluster.kubelet.processes import PodProcesses, Simgpu
from hack.devcluster.lifeline import Lifeline
from hack.devcluster.objects import Object, dig, is_deleting, phase_of, uid_of
from tests.contract.test_kubelet import allows, held
from tests.fakes.devcluster import DevCluster, SimulatedKubelet, dev_cluster, is_running, simple_pod
from tests.fakes.simgpu import SimulatedGpus

LARGE = "nvidia.com/mig-3g.40gb"
WHOLE = "nvidia.com/gpu"


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    async with dev_cluster(tmp_path) as running:
        yield running


def with_gpus(cluster: DevCluster, gpus: SimulatedGpus, **settings: Any) -> SimulatedKubelet:
    return cluster.add_kubelet(
        "gpu-1", {}, devices_file=None, simgpu_dir=gpus.paths.simgpu.parent, simgpu_state=gpus.state, **settings
    )


def cut(folder: Path, profiles: str) -> SimulatedGpus:
    gpus = SimulatedGpus.create(folder, "H100-80GB-SXM", mig=True)
    assert gpus.nvidia_smi("mig", "-cgi", profiles, "-C").returncode == 0
    return gpus


def one_run(name: str, *, exit_code: int = 0, policy: str = "Never") -> Object:
    """Its container ends at once."""
    pod = simple_pod(name, annotations={RUN_SECONDS: "0.01", EXIT_CODE: str(exit_code)})
    pod["spec"]["restartPolicy"] = policy
    return pod


def waits_for(reason: str) -> Any:
    def holds(pod: Object) -> bool:
        statuses = dig(pod, "status.containerStatuses") or []
        return any(dig(status, "state.waiting.reason") == reason for status in statuses)

    return holds


async def asked(kubelet: SimulatedKubelet, times: int) -> list[grpclib.Status]:
    """The status of each of so many List calls, one after the other."""
    channel = Channel(path=str(kubelet.socket))
    call = UnaryUnaryMethod(
        channel, "/v1.PodResourcesLister/List", messages.ListPodResourcesRequest, messages.ListPodResourcesResponse
    )
    answers = []
    try:
        for _ in range(times):
            try:
                await call(messages.ListPodResourcesRequest())
                answers.append(grpclib.Status.OK)
            except grpclib.GRPCError as error:
                answers.append(error.status)
    finally:
        channel.close()
    return answers


async def test_a_slow_plugin_is_advertised_late(cluster: DevCluster) -> None:
    cluster.add_kubelet("gpu-1", {LARGE: ["MIG-c"]}, plugin_start_s=0.3)
    node = await cluster.wait_for(kinds.NODES, "gpu-1", lambda _: True)
    await asyncio.sleep(0.15)
    assert LARGE not in node["status"]["allocatable"]
    assert LARGE not in cluster.get(kinds.NODES, "gpu-1")["status"]["allocatable"]
    await cluster.wait_for(kinds.NODES, "gpu-1", allows(LARGE, 1))


async def test_a_new_device_is_allocatable_after_the_next_status_update_only(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("gpu-1", {LARGE: ["MIG-c"]}, status_interval_s=0.4)
    await kubelet.wait_for_devices()
    assert LARGE not in cluster.get(kinds.NODES, "gpu-1")["status"]["allocatable"]
    await cluster.wait_for(kinds.NODES, "gpu-1", allows(LARGE, 1))


async def test_strategy_single_advertises_slices_as_gpus(cluster: DevCluster, tmp_path: Path) -> None:
    gpus = cut(tmp_path, "19,19,19")
    with_gpus(cluster, gpus, mig_strategy="single")
    node = await cluster.wait_for(kinds.NODES, "gpu-1", allows(WHOLE, 3))
    assert not [name for name in node["status"]["allocatable"] if "mig-" in name]


async def test_strategy_single_advertises_nothing_of_a_mixed_layout(cluster: DevCluster, tmp_path: Path) -> None:
    kubelet = with_gpus(cluster, cut(tmp_path, "9,19"), mig_strategy="single")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1.0):
            await kubelet.wait_for_devices()


async def test_strategy_none_advertises_the_gpu_although_it_is_cut(cluster: DevCluster, tmp_path: Path) -> None:
    gpus = cut(tmp_path, "9,19")
    with_gpus(cluster, gpus, mig_strategy="none")
    node = await cluster.wait_for(kinds.NODES, "gpu-1", allows(WHOLE, 1))
    assert LARGE not in node["status"]["allocatable"]


@pytest.mark.parametrize("old", [True, False])
async def test_old_kubelets_go_on_listing_finished_pods(cluster: DevCluster, old: bool) -> None:
    kubelet = cluster.add_kubelet("gpu-1", {}, lists_finished_pods=old)
    cluster.create(kinds.PODS, one_run("done"))
    await cluster.wait_for(kinds.PODS, "done", lambda pod: phase_of(pod) == "Succeeded")
    assert ("done" in await held(kubelet)) is old


async def test_get_is_unimplemented_on_a_kubelet_without_it(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("gpu-1", {LARGE: ["MIG-c"]}, has_get=False)
    await kubelet.wait_for_devices()
    channel = Channel(path=str(kubelet.socket))
    get = UnaryUnaryMethod(
        channel, "/v1.PodResourcesLister/Get", messages.GetPodResourcesRequest, messages.GetPodResourcesResponse
    )
    with pytest.raises(grpclib.GRPCError) as refused:
        await get(messages.GetPodResourcesRequest(pod_name="p", pod_namespace="default"))
    channel.close()
    assert refused.value.status is grpclib.Status.UNIMPLEMENTED


async def test_pod_resources_answers_so_many_calls_a_second_and_no_more(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("gpu-1", {LARGE: ["MIG-c"]}, pod_resources_per_s=1.0)
    await kubelet.wait_for_devices()
    answers = await asked(kubelet, 14)
    assert answers[:10] == [grpclib.Status.OK] * 10
    assert grpclib.Status.RESOURCE_EXHAUSTED in answers[10:]


async def test_the_socket_is_another_one_after_a_restart(cluster: DevCluster) -> None:
    """Whoever mounted the file instead of its folder talks to nobody."""
    kubelet = cluster.add_kubelet("gpu-1", {LARGE: ["MIG-c"]})
    await kubelet.wait_for_devices()
    before = kubelet.socket.stat().st_ctime_ns
    await kubelet.restart()
    await kubelet.wait_for_devices()
    assert kubelet.socket.stat().st_ctime_ns != before
    assert await held(kubelet) == {}


async def test_a_pod_that_ignores_sigterm_is_killed_after_its_grace_period(cluster: DevCluster) -> None:
    cluster.add_kubelet("gpu-1", {})
    cluster.create(kinds.PODS, simple_pod("p", annotations={STOP_SECONDS: "grace"}, grace_seconds=1))
    await cluster.wait_for(kinds.PODS, "p", is_running)
    clock = asyncio.get_running_loop().time
    begun = clock()
    cluster.delete(kinds.PODS, "p")
    await cluster.wait_until_gone(kinds.PODS, "p")
    assert clock() - begun >= 1


async def test_a_second_delete_shortens_the_grace_period(cluster: DevCluster) -> None:
    cluster.add_kubelet("gpu-1", {})
    cluster.create(kinds.PODS, simple_pod("p", annotations={STOP_SECONDS: "grace"}, grace_seconds=600))
    await cluster.wait_for(kinds.PODS, "p", is_running)
    cluster.delete(kinds.PODS, "p")
    await cluster.wait_for(kinds.PODS, "p", is_deleting)
    await asyncio.sleep(0.05)
    cluster.delete(kinds.PODS, "p", grace_seconds=1)
    await cluster.wait_until_gone(kinds.PODS, "p")


async def test_a_pod_fails_with_the_code_it_ends_with(cluster: DevCluster) -> None:
    cluster.add_kubelet("gpu-1", {})
    cluster.create(kinds.PODS, one_run("p", exit_code=3))
    pod = await cluster.wait_for(kinds.PODS, "p", lambda p: phase_of(p) == "Failed")
    assert dig(pod["status"]["containerStatuses"][0], "state.terminated.exitCode") == 3


async def test_a_pod_holds_its_device_while_its_image_comes(cluster: DevCluster) -> None:
    """And the second pod of that image starts at once."""
    kubelet = cluster.add_kubelet("gpu-1", {LARGE: ["MIG-c"]})
    pulling = {PULL_SECONDS: "3"}
    cluster.create(kinds.PODS, simple_pod("first", resources={LARGE: 1}, annotations=pulling))
    await cluster.wait_for(kinds.PODS, "first", waits_for("ContainerCreating"))
    assert (await held(kubelet))["first"] == [(LARGE, "MIG-c")]
    await cluster.wait_for(kinds.PODS, "first", is_running)
    clock = asyncio.get_running_loop().time
    begun = clock()
    cluster.create(kinds.PODS, simple_pod("second", annotations=pulling))
    await cluster.wait_for(kinds.PODS, "second", is_running)
    assert clock() - begun < 3


async def test_a_reboot_ends_restarts_or_fails_what_ran(cluster: DevCluster, tmp_path: Path) -> None:
    gpus = cut(tmp_path, "9,19")
    kubelet = with_gpus(cluster, gpus)
    await cluster.wait_for(kinds.NODES, "gpu-1", allows(LARGE, 1))
    once = simple_pod("once")
    once["spec"]["restartPolicy"] = "Never"
    for pod in (simple_pod("plain"), once, simple_pod("gpu", resources={LARGE: 1})):
        cluster.create(kinds.PODS, pod)
    before = {name: await cluster.wait_for(kinds.PODS, name, is_running) for name in ("plain", "once", "gpu")}
    boot_id = cluster.get(kinds.NODES, "gpu-1")["status"]["nodeInfo"]["bootID"]
    await kubelet.stop()
    gpus.run("reboot")
    await kubelet.restart()
    node = await cluster.wait_for(kinds.NODES, "gpu-1", lambda n: n["status"]["nodeInfo"]["bootID"] != boot_id)
    assert node["status"]["allocatable"][LARGE] == "0"
    again = await cluster.wait_for(
        kinds.PODS, "plain", lambda p: is_running(p) and p["status"]["containerStatuses"][0]["restartCount"] == 1
    )
    assert uid_of(again) == uid_of(before["plain"])
    await cluster.wait_for(kinds.PODS, "once", lambda p: phase_of(p) == "Failed")
    failed = await cluster.wait_for(kinds.PODS, "gpu", lambda p: phase_of(p) == "Failed")
    assert failed["status"]["reason"] == "UnexpectedAdmissionError"
    assert "gpu" not in await held(kubelet)


def test_pods_of_a_cluster_that_ends_have_ended_with_it(tmp_path: Path) -> None:
    """Also those of a kubelet that was restarted, and is not there any more."""

    async def pod() -> int:
        lifeline = Lifeline(tmp_path / "lifeline")
        simgpu = Simgpu(Path("/bin/true"), tmp_path / "state")
        processes = PodProcesses(tmp_path / "record", lifeline.path, simgpu, tmp_path / "proc")
        await processes.start("uid", [], 0)
        pid = processes.pid_of("uid")
        assert pid is not None
        del processes
        lifeline.close()
        await PodProcesses.ended()
        return pid

    assert not Path(f"/proc/{asyncio.run(pod())}").exists()
