"""How a node behaves: pods and their devices, the device plugin, PodResources, and restarts of the kubelet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest_asyncio
from grpclib.client import Channel, UnaryUnaryMethod

from agent.adapters import podresources_pb2 as messages
from hack.devcluster import kinds
from hack.devcluster.gpu_operator import DEPLOY_DEVICE_PLUGIN
from hack.devcluster.kubelet.pod_worker import RUN_SECONDS, STOP_SECONDS
from hack.devcluster.objects import Object, controller_of, dig, is_deleting, uid_of
from tests.fakes.devcluster import DevCluster, SimulatedKubelet, dev_cluster, is_running, simple_pod

SMALL = "nvidia.com/mig-1g.10gb"
LARGE = "nvidia.com/mig-3g.40gb"
SLICES = {SMALL: ["MIG-a", "MIG-b"], LARGE: ["MIG-c"]}


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    async with dev_cluster(tmp_path) as running:
        yield running


def allows(resource: str, amount: int) -> Callable[[Object], bool]:
    def holds(node: Object) -> bool:
        allocatable: dict[str, str] = dig(node, "status.allocatable", {})
        return allocatable.get(resource) == str(amount)

    return holds


def is_pending_unschedulable(pod: Object) -> bool:
    conditions = dig(pod, "status.conditions") or []
    return any(c["type"] == "PodScheduled" and c["status"] == "False" for c in conditions)


async def held(kubelet: SimulatedKubelet) -> dict[str, list[tuple[str, str]]]:
    """What PodResources says: pod name to (resource, device id)."""
    channel = Channel(path=str(kubelet.socket))
    try:
        call = UnaryUnaryMethod(
            channel,
            "/v1.PodResourcesLister/List",
            messages.ListPodResourcesRequest,
            messages.ListPodResourcesResponse,
        )
        answer = await call(messages.ListPodResourcesRequest())
    finally:
        channel.close()
    return {
        pod.name: [(d.resource_name, i) for c in pod.containers for d in c.devices for i in d.device_ids]
        for pod in answer.pod_resources
    }


async def test_a_node_says_what_its_device_plugin_found(cluster: DevCluster) -> None:
    cluster.add_kubelet("gpu-1", SLICES)
    node = await cluster.wait_for(kinds.NODES, "gpu-1", allows(SMALL, 2))
    assert node["status"]["allocatable"][LARGE] == "1"
    assert node["status"]["nodeInfo"]["bootID"]
    lease = await cluster.wait_for(kinds.LEASES, "gpu-1", lambda _: True, "kube-node-lease")
    assert lease["spec"]["holderIdentity"] == "gpu-1"


async def test_pods_land_on_devices_and_pod_resources_tells_which(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("gpu-1", SLICES)
    for name, resource in (("one", SMALL), ("two", SMALL), ("big", LARGE)):
        cluster.create(kinds.PODS, simple_pod(name, resources={resource: 1}))
    for name in ("one", "two", "big"):
        await cluster.wait_for(kinds.PODS, name, is_running)
    shown = await held(kubelet)
    assert shown["big"] == [(LARGE, "MIG-c")]
    assert {*shown["one"], *shown["two"]} == {(SMALL, "MIG-a"), (SMALL, "MIG-b")}


async def test_a_pod_that_asks_for_more_than_is_free_waits_and_is_told_why(cluster: DevCluster) -> None:
    cluster.add_kubelet("gpu-1", {SMALL: ["MIG-a"]})
    await cluster.wait_for(kinds.NODES, "gpu-1", allows(SMALL, 1))
    cluster.create(kinds.PODS, simple_pod("first", resources={SMALL: 1}))
    cluster.create(kinds.PODS, simple_pod("second", resources={SMALL: 1}))
    waiting = await cluster.wait_for(kinds.PODS, "second", is_pending_unschedulable)
    [condition] = [c for c in waiting["status"]["conditions"] if c["type"] == "PodScheduled"]
    assert condition["message"].startswith(f"0/1 nodes are available: 1 Insufficient {SMALL}. ")
    event = await cluster.wait_for_any(kinds.EVENTS, lambda e: e["reason"] == "FailedScheduling")
    assert event["involvedObject"]["name"] == "second"
    cluster.delete(kinds.PODS, "first")
    await cluster.wait_for(kinds.PODS, "second", is_running)


async def test_a_pod_bound_beyond_what_there_is_fails_and_stays(cluster: DevCluster) -> None:
    cluster.add_kubelet("gpu-1", {SMALL: ["MIG-a"]})
    await cluster.wait_for(kinds.NODES, "gpu-1", allows(SMALL, 1))
    cluster.create(kinds.PODS, simple_pod("forced", resources={SMALL: 2}, node="gpu-1"))
    pod = await cluster.wait_for(kinds.PODS, "forced", lambda p: dig(p, "status.phase") == "Failed")
    assert pod["status"]["reason"] == "UnexpectedAdmissionError"
    cluster.create(kinds.PODS, simple_pod("unknown", resources={LARGE: 1}, node="gpu-1"))
    pod = await cluster.wait_for(kinds.PODS, "unknown", lambda p: dig(p, "status.phase") == "Failed")
    assert pod["status"]["reason"] == f"OutOf{LARGE}"


async def test_a_cordoned_node_takes_no_new_pods_but_its_daemons(cluster: DevCluster) -> None:
    cluster.add_kubelet("gpu-1", SLICES, labels={DEPLOY_DEVICE_PLUGIN: "true"})
    await cluster.wait_for(kinds.NODES, "gpu-1", allows(SMALL, 2))
    cluster.merge(kinds.NODES, "gpu-1", {"spec": {"unschedulable": True}})
    cluster.install_device_plugin()
    daemon = await cluster.wait_for_any(kinds.PODS, is_running)
    owner = controller_of(daemon)
    assert owner is not None
    assert owner["kind"] == "DaemonSet"
    cluster.create(kinds.PODS, simple_pod("p"))
    await cluster.wait_for(kinds.PODS, "p", is_pending_unschedulable)
    cluster.merge(kinds.NODES, "gpu-1", {"spec": {"unschedulable": None}})
    await cluster.wait_for(kinds.PODS, "p", is_running)


async def test_a_pod_keeps_its_device_through_its_grace_period(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("gpu-1", SLICES)
    slow = simple_pod("slow", resources={LARGE: 1}, annotations={STOP_SECONDS: "2"})
    cluster.create(kinds.PODS, slow)
    await cluster.wait_for(kinds.PODS, "slow", is_running)
    cluster.delete(kinds.PODS, "slow")
    await cluster.wait_for(kinds.PODS, "slow", is_deleting)
    assert (await held(kubelet))["slow"] == [(LARGE, "MIG-c")]
    await cluster.wait_until_gone(kinds.PODS, "slow")
    assert "slow" not in await held(kubelet)


async def test_a_finished_pod_holds_nothing(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("gpu-1", SLICES)
    job = simple_pod("job", resources={LARGE: 1}, annotations={RUN_SECONDS: "0.05"})
    job["spec"]["restartPolicy"] = "Never"
    cluster.create(kinds.PODS, job)
    await cluster.wait_for(kinds.PODS, "job", lambda p: dig(p, "status.phase") == "Succeeded")
    assert "job" not in await held(kubelet)
    cluster.create(kinds.PODS, simple_pod("next", resources={LARGE: 1}))
    await cluster.wait_for(kinds.PODS, "next", is_running)


async def test_new_slices_are_advertised_only_when_the_plugin_starts_again(cluster: DevCluster) -> None:
    """And the old resource stays listed, with nothing to have."""
    kubelet = cluster.add_kubelet("gpu-1", SLICES, plugin_needs_pod=True, labels={DEPLOY_DEVICE_PLUGIN: "true"})
    cluster.install_device_plugin()
    await cluster.wait_for(kinds.NODES, "gpu-1", allows(LARGE, 1))
    kubelet.set_devices({SMALL: [f"MIG-{n}" for n in range(7)]})
    cluster.label_node("gpu-1", {DEPLOY_DEVICE_PLUGIN: "paused-for-mig-change"})
    node = await cluster.wait_for(kinds.NODES, "gpu-1", allows(SMALL, 0))
    assert node["status"]["allocatable"][LARGE] == "0"
    cluster.label_node("gpu-1", {DEPLOY_DEVICE_PLUGIN: "true"})
    node = await cluster.wait_for(kinds.NODES, "gpu-1", allows(SMALL, 7))
    assert node["status"]["allocatable"][LARGE] == "0"


async def test_a_stopped_plugin_leaves_running_pods_alone(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("gpu-1", SLICES, plugin_needs_pod=True, labels={DEPLOY_DEVICE_PLUGIN: "true"})
    cluster.install_device_plugin()
    cluster.create(kinds.PODS, simple_pod("p", resources={LARGE: 1}))
    before = await cluster.wait_for(kinds.PODS, "p", is_running)
    cluster.label_node("gpu-1", {DEPLOY_DEVICE_PLUGIN: None})
    await cluster.wait_for(kinds.NODES, "gpu-1", allows(LARGE, 0))
    after = cluster.get(kinds.PODS, "p")
    assert (uid_of(after), is_running(after)) == (uid_of(before), True)
    assert (await held(kubelet))["p"] == [(LARGE, "MIG-c")]


async def test_the_plugins_pod_comes_back_when_it_is_deleted(cluster: DevCluster) -> None:
    cluster.add_kubelet("gpu-1", SLICES, plugin_needs_pod=True, labels={DEPLOY_DEVICE_PLUGIN: "true"})
    cluster.install_device_plugin()
    first = await cluster.wait_for_any(kinds.PODS, is_running)
    cluster.api.delete(kinds.PODS, "gpu-operator", first["metadata"]["name"])
    await cluster.wait_for_any(kinds.PODS, lambda pod: uid_of(pod) != uid_of(first) and is_running(pod))


async def test_a_kubelet_that_restarts_knows_who_holds_what(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("gpu-1", SLICES)
    cluster.create(kinds.PODS, simple_pod("p", resources={SMALL: 1}))
    before = await cluster.wait_for(kinds.PODS, "p", is_running)
    devices = (await held(kubelet))["p"]
    await kubelet.stop()
    cluster.label_node("gpu-1", {"set-meanwhile": "yes"})
    await kubelet.restart()
    await kubelet.wait_for_devices()
    cluster.create(kinds.PODS, simple_pod("other", resources={SMALL: 1}))
    await cluster.wait_for(kinds.PODS, "other", is_running)
    shown = await held(kubelet)
    assert shown["p"] == devices
    assert set(shown["other"]).isdisjoint(devices)
    assert uid_of(cluster.get(kinds.PODS, "p")) == uid_of(before)
    assert cluster.get(kinds.NODES, "gpu-1")["metadata"]["labels"]["set-meanwhile"] == "yes"


async def test_a_pod_deleted_while_no_kubelet_ran_frees_its_device(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("gpu-1", {LARGE: ["MIG-c"]})
    cluster.create(kinds.PODS, simple_pod("p", resources={LARGE: 1}))
    await cluster.wait_for(kinds.PODS, "p", is_running)
    await kubelet.stop()
    cluster.delete(kinds.PODS, "p", grace_seconds=0)
    await kubelet.restart()
    await kubelet.wait_for_devices()
    cluster.create(kinds.PODS, simple_pod("next", resources={LARGE: 1}))
    await cluster.wait_for(kinds.PODS, "next", is_running)


async def test_an_evicted_pod_of_a_deployment_comes_back_elsewhere(cluster: DevCluster) -> None:
    for node in ("gpu-1", "gpu-2"):
        cluster.add_kubelet(node, {LARGE: [f"MIG-{node}"]})
        await cluster.wait_for(kinds.NODES, node, allows(LARGE, 1))
    template = simple_pod("ignored", labels={"app": "web"}, resources={LARGE: 1})
    spec = {
        "replicas": 1,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"metadata": {"labels": {"app": "web"}}, "spec": template["spec"]},
    }
    cluster.create(kinds.DEPLOYMENTS, {"metadata": {"name": "web"}, "spec": spec})
    first = await cluster.wait_for_any(kinds.PODS, is_running)
    cluster.merge(kinds.NODES, first["spec"]["nodeName"], {"spec": {"unschedulable": True}})
    cluster.delete(kinds.PODS, first["metadata"]["name"])
    second = await cluster.wait_for_any(kinds.PODS, lambda pod: uid_of(pod) != uid_of(first) and is_running(pod))
    assert second["spec"]["nodeName"] != first["spec"]["nodeName"]


async def test_pods_requested_of_pod_resources_are_found_by_name(cluster: DevCluster) -> None:
    kubelet = cluster.add_kubelet("gpu-1", SLICES)
    cluster.create(kinds.PODS, simple_pod("p", resources={LARGE: 1}))
    await cluster.wait_for(kinds.PODS, "p", is_running)
    channel = Channel(path=str(kubelet.socket))
    try:
        get = UnaryUnaryMethod(
            channel, "/v1.PodResourcesLister/Get", messages.GetPodResourcesRequest, messages.GetPodResourcesResponse
        )
        found = await get(messages.GetPodResourcesRequest(pod_name="p", pod_namespace="default"))
        every = UnaryUnaryMethod(
            channel,
            "/v1.PodResourcesLister/GetAllocatableResources",
            messages.AllocatableResourcesRequest,
            messages.AllocatableResourcesResponse,
        )
        allocatable = await every(messages.AllocatableResourcesRequest())
    finally:
        channel.close()
    assert list(found.pod_resources.containers[0].devices[0].device_ids) == ["MIG-c"]
    assert {i for d in allocatable.devices for i in d.device_ids} == {"MIG-a", "MIG-b", "MIG-c"}
