"""Dynamic Resource Allocation on a node: what its driver publishes, when a claiming pod starts and ends, and what
PodResources says of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from grpclib.client import Channel, UnaryUnaryMethod

from agent.adapters import podresources_pb2 as messages
from hack.devcluster import kinds, nvidia_dra_driver
from hack.devcluster.dra.publishing import publication
from hack.devcluster.kubelet.dra_driver import DRIVER_POD_LABEL
from hack.devcluster.objects import Object, dig, is_deleting, labels_of, name_of, uid_of
from tests.fakes.devcluster import DevCluster, SimulatedKubelet, dev_cluster, is_running
from tests.fakes.dra import (
    DRIVER,
    MIG_CLASS,
    claim,
    claiming_pod,
    device_class,
    mig_device,
    of_profile,
    request,
    template,
)
from tests.fakes.simgpu import SimulatedGpus

SMALL, LARGE = mig_device("gpu-0-mig-19-4-1"), mig_device("gpu-0-mig-9-0-4", "3g.40gb")
GPU_PRESENT = {"nvidia.com/gpu.present": "true"}


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    async with dev_cluster(tmp_path) as running:
        yield running


def dra_node(cluster: DevCluster, devices: Sequence[Object], name: str = "gpu-1", **settings: Any) -> SimulatedKubelet:
    """A node whose driver needs no pod."""
    return cluster.add_kubelet(name, devices, **{"uses_dra": True, "dra_resync_s": 0.02, **settings})


def simulated_node(cluster: DevCluster, gpus: SimulatedGpus) -> SimulatedKubelet:
    return dra_node(cluster, [], devices_file=None, simgpu_dir=gpus.paths.simgpu.parent, simgpu_state=gpus.state)


def install_class(cluster: DevCluster) -> None:
    cluster.create(kinds.DEVICE_CLASSES, device_class())


def offers(*names: str) -> Any:
    def holds(slice_: Object) -> bool:
        return [device["name"] for device in dig(slice_, "spec.devices") or []] == list(names)

    return holds


async def dynamic_resources(kubelet: SimulatedKubelet) -> dict[str, list[messages.DynamicResource]]:
    """What PodResources says: pod name to the claims of its containers."""
    channel = Channel(path=str(kubelet.socket))
    try:
        call = UnaryUnaryMethod(
            channel, "/v1.PodResourcesLister/List", messages.ListPodResourcesRequest, messages.ListPodResourcesResponse
        )
        answer = await call(messages.ListPodResourcesRequest())
    finally:
        channel.close()
    return {pod.name: [d for c in pod.containers for d in c.dynamic_resources] for pod in answer.pod_resources}


async def test_a_node_publishes_the_devices_that_its_driver_found(cluster: DevCluster) -> None:
    dra_node(cluster, [SMALL, LARGE])
    slice_ = await cluster.wait_for_any(kinds.RESOURCE_SLICES, offers(SMALL["name"], LARGE["name"]))
    assert name_of(slice_).startswith(f"gpu-1-{DRIVER}-")
    assert dig(slice_, "spec.pool") == {"name": "gpu-1", "generation": 1, "resourceSliceCount": 1}
    assert dig(slice_, "spec.nodeName") == "gpu-1"
    [owner] = slice_["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"]) == ("Node", uid_of(cluster.get(kinds.NODES, "gpu-1")))


async def test_pod_resources_tells_claim_pool_and_device(cluster: DevCluster) -> None:
    install_class(cluster)
    kubelet = dra_node(cluster, [SMALL, LARGE])
    cluster.create(kinds.CLAIM_TEMPLATES, template("large", request(selectors=of_profile("3g.40gb"))))
    cluster.create(kinds.PODS, claiming_pod("p", template="large"))
    pod = await cluster.wait_for(kinds.PODS, "p", is_running)
    [shown] = (await dynamic_resources(kubelet))["p"]
    assert shown.claim_name == pod["status"]["resourceClaimStatuses"][0]["resourceClaimName"]
    assert shown.claim_namespace == "default"
    [device] = shown.claim_resources
    assert (device.driver_name, device.pool_name, device.device_name) == (DRIVER, "gpu-1", LARGE["name"])
    assert [each.name for each in device.cdi_devices] == [f"k8s.{DRIVER}/device={LARGE['name']}"]


async def test_a_container_shows_only_the_request_that_it_names(cluster: DevCluster) -> None:
    install_class(cluster)
    kubelet = dra_node(cluster, [SMALL, LARGE])
    cluster.create(kinds.RESOURCE_CLAIMS, claim("both", request("one"), request("two")))
    pod = claiming_pod("p", claims=["both"])
    pod["spec"]["containers"][0]["resources"]["claims"] = [{"name": "both", "request": "two"}]
    cluster.create(kinds.PODS, pod)
    await cluster.wait_for(kinds.PODS, "p", is_running)
    [shown] = (await dynamic_resources(kubelet))["p"]
    assert [device.device_name for device in shown.claim_resources] == [LARGE["name"]]


async def test_a_pod_waits_until_its_driver_has_prepared_its_claim(cluster: DevCluster) -> None:
    """The slices outlive the driver for a while, so the pod is sent to a node that cannot serve it."""
    nvidia_dra_driver.install(cluster.api)
    kubelet = dra_node(cluster, [SMALL], plugin_needs_pod=True, labels=GPU_PRESENT)
    await cluster.wait_for_any(kinds.RESOURCE_SLICES, offers(SMALL["name"]))
    cluster.label_node("gpu-1", {"nvidia.com/gpu.present": None})
    await until_driver_has_gone(cluster)
    cluster.create(kinds.RESOURCE_CLAIMS, claim("c"))
    cluster.create(kinds.PODS, claiming_pod("p", claims=["c"]))
    event = await cluster.wait_for_any(kinds.EVENTS, lambda e: e["reason"] == "FailedPrepareDynamicResources")
    assert event["message"] == (
        f"Failed to prepare dynamic resources: prepare dynamic resources: DRA driver {DRIVER} is not registered"
    )
    [status] = cluster.get(kinds.PODS, "p")["status"]["containerStatuses"]
    assert dig(status, "state.waiting.reason") == "ContainerCreating"
    assert (await dynamic_resources(kubelet))["p"] == []
    cluster.label_node("gpu-1", GPU_PRESENT)
    await cluster.wait_for(kinds.PODS, "p", is_running)


def driver_pod(cluster: DevCluster) -> str:
    label = dict([DRIVER_POD_LABEL])
    [pod] = [name_of(p) for p in cluster.api.all(kinds.PODS) if label.items() <= labels_of(p).items()]
    return pod


async def until_driver_has_gone(cluster: DevCluster) -> None:
    await cluster.wait_until_gone(kinds.PODS, driver_pod(cluster), nvidia_dra_driver.NAMESPACE)


async def test_a_pod_does_not_start_on_a_claim_that_is_not_reserved_for_it(cluster: DevCluster) -> None:
    """It was bound past the scheduler, to a claim that nobody allocated."""
    install_class(cluster)
    dra_node(cluster, [SMALL])
    cluster.create(kinds.RESOURCE_CLAIMS, claim("c"))
    cluster.create(kinds.PODS, claiming_pod("p", claims=["c"], node="gpu-1"))
    event = await cluster.wait_for_any(kinds.EVENTS, lambda e: e["reason"] == "FailedPrepareDynamicResources")
    assert event["message"].endswith("ResourceClaim c is not allocated")
    assert not is_running(cluster.get(kinds.PODS, "p"))


async def test_a_pod_cannot_end_while_the_driver_that_prepared_its_claim_is_away(cluster: DevCluster) -> None:
    nvidia_dra_driver.install(cluster.api)
    dra_node(cluster, [SMALL], plugin_needs_pod=True, labels=GPU_PRESENT)
    cluster.create(kinds.RESOURCE_CLAIMS, claim("c"))
    cluster.create(kinds.PODS, claiming_pod("p", claims=["c"]))
    await cluster.wait_for(kinds.PODS, "p", is_running)
    cluster.label_node("gpu-1", {"nvidia.com/gpu.present": None})
    await until_driver_has_gone(cluster)
    cluster.delete(kinds.PODS, "p")
    await cluster.wait_for(kinds.PODS, "p", is_deleting)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await cluster.wait_until_gone(kinds.PODS, "p")
    assert dig(cluster.get(kinds.RESOURCE_CLAIMS, "c"), "status.reservedFor")
    cluster.label_node("gpu-1", GPU_PRESENT)
    await cluster.wait_until_gone(kinds.PODS, "p")


async def test_slices_of_a_driver_that_stays_away_are_deleted(cluster: DevCluster) -> None:
    nvidia_dra_driver.install(cluster.api)
    dra_node(cluster, [SMALL], plugin_needs_pod=True, labels=GPU_PRESENT, dra_wipe_s=0.05)
    slice_ = await cluster.wait_for_any(kinds.RESOURCE_SLICES, offers(SMALL["name"]))
    cluster.label_node("gpu-1", {"nvidia.com/gpu.present": None})
    await cluster.wait_until_gone(kinds.RESOURCE_SLICES, name_of(slice_))


async def test_new_slices_are_published_when_the_driver_starts_again(cluster: DevCluster) -> None:
    """One slice of a pool is changed in place: the same name, and the same generation."""
    nvidia_dra_driver.install(cluster.api)
    kubelet = dra_node(cluster, [SMALL], plugin_needs_pod=True, labels=GPU_PRESENT)
    before = await cluster.wait_for_any(kinds.RESOURCE_SLICES, offers(SMALL["name"]))
    kubelet.set_devices([LARGE])
    cluster.delete(kinds.PODS, driver_pod(cluster), nvidia_dra_driver.NAMESPACE)
    after = await cluster.wait_for(kinds.RESOURCE_SLICES, name_of(before), offers(LARGE["name"]))
    assert dig(after, "spec.pool") == dig(before, "spec.pool")


async def test_a_pool_of_several_slices_changes_by_a_new_generation(cluster: DevCluster) -> None:
    nvidia_dra_driver.install(cluster.api)
    settings: dict[str, Any] = {"plugin_needs_pod": True, "labels": GPU_PRESENT, "dra_devices_per_slice": 1}
    kubelet = dra_node(cluster, [SMALL, LARGE], **settings)
    await cluster.wait_for_any(kinds.RESOURCE_SLICES, offers(LARGE["name"]))
    kubelet.set_devices([mig_device("a"), mig_device("b"), mig_device("c")])
    cluster.delete(kinds.PODS, driver_pod(cluster), nvidia_dra_driver.NAMESPACE)
    last = await cluster.wait_for_any(kinds.RESOURCE_SLICES, offers("c"))
    assert dig(last, "spec.pool") == {"name": "gpu-1", "generation": 2, "resourceSliceCount": 3}


def test_the_generation_goes_up_where_a_reader_could_see_half_of_a_change() -> None:
    frame: Object = {
        "metadata": {"generateName": "a-"},
        "spec": {"driver": DRIVER, "nodeName": "a", "pool": {"name": "a"}},
    }

    def stored(name: str, devices: list[Object], generation: int, count: int) -> Object:
        pool = {"name": "a", "generation": generation, "resourceSliceCount": count}
        return {"metadata": {"name": name}, "spec": {**frame["spec"], "devices": devices, "pool": pool}}

    one, two, three = (mig_device(name) for name in ("one", "two", "three"))
    both = [stored("a-1", [one], 4, 2), stored("a-2", [two], 4, 2)]
    unchanged = publication(both, [one, two], frame, 1)
    assert (unchanged.delete, unchanged.update, unchanged.create) == ([], [], [])
    [changed] = publication(both, [one, three], frame, 1).update
    assert (name_of(changed), dig(changed, "spec.pool.generation")) == ("a-2", 4)
    grown = publication(both, [one, two, three], frame, 1)
    assert [dig(each, "spec.pool.generation") for each in [*grown.update, *grown.create]] == [5, 5, 5]
    assert [dig(each, "spec.pool.resourceSliceCount") for each in [*grown.update, *grown.create]] == [3, 3, 3]
    stale = publication([stored("a-0", [one], 3, 1), stored("a-1", [one], 4, 1)], [one], frame, 128)
    assert [name_of(each) for each in stale.delete] == ["a-0"]


async def test_a_kubelet_restart_keeps_what_is_prepared_and_publishes_anew(cluster: DevCluster) -> None:
    install_class(cluster)
    kubelet = dra_node(cluster, [SMALL])
    cluster.create(kinds.RESOURCE_CLAIMS, claim("c"))
    cluster.create(kinds.PODS, claiming_pod("p", claims=["c"]))
    await cluster.wait_for(kinds.PODS, "p", is_running)
    [before] = cluster.api.all(kinds.RESOURCE_SLICES)
    await kubelet.restart()
    await cluster.wait_for_any(kinds.RESOURCE_SLICES, lambda slice_: uid_of(slice_) != uid_of(before))
    [shown] = (await dynamic_resources(kubelet))["p"]
    assert shown.claim_name == "c"


async def test_a_claim_on_a_device_that_is_gone_cannot_be_prepared(cluster: DevCluster) -> None:
    """Its allocation stands, since a pod uses it; a second pod that shares the claim comes too late."""
    install_class(cluster)
    kubelet = dra_node(cluster, [SMALL])
    cluster.create(kinds.RESOURCE_CLAIMS, claim("c"))
    cluster.create(kinds.PODS, claiming_pod("p", claims=["c"]))
    await cluster.wait_for(kinds.PODS, "p", is_running)
    kubelet.set_devices([LARGE])
    await kubelet.restart()
    await cluster.wait_for_any(kinds.RESOURCE_SLICES, offers(LARGE["name"]))
    cluster.create(kinds.PODS, claiming_pod("late", claims=["c"]))
    event = await cluster.wait_for_any(kinds.EVENTS, lambda e: e["reason"] == "FailedPrepareDynamicResources")
    assert event["involvedObject"]["name"] == "late"
    assert event["message"].endswith(f"requested device is not allocatable: {SMALL['name']}")
    assert is_running(cluster.get(kinds.PODS, "p"))


async def test_after_a_reboot_a_pod_waits_for_the_slice_that_it_was_given(cluster: DevCluster, tmp_path: Path) -> None:
    """MIG devices do not outlive a reboot; unlike under the device plugin, the pod does not fail."""
    gpus = SimulatedGpus.create(tmp_path, "H100-80GB-SXM", mig=True)
    assert gpus.nvidia_smi("mig", "-cgi", "9", "-C").returncode == 0
    nvidia_dra_driver.install(cluster.api)
    kubelet = simulated_node(cluster, gpus)
    cluster.create(kinds.RESOURCE_CLAIMS, claim("c"))
    cluster.create(kinds.PODS, claiming_pod("p", claims=["c"]))
    await cluster.wait_for(kinds.PODS, "p", is_running)
    await kubelet.stop()
    gpus.run("reboot")
    await kubelet.restart()
    await cluster.wait_for_any(kinds.EVENTS, lambda e: "requested device is not allocatable" in str(e.get("message")))
    [status] = cluster.get(kinds.PODS, "p")["status"]["containerStatuses"]
    assert dig(status, "state.waiting.reason") == "ContainerCreating"
    assert status["ready"] is False
    assert dig(cluster.get(kinds.RESOURCE_CLAIMS, "c"), "status.reservedFor")


async def test_pods_that_share_a_claim_are_shown_with_it_until_the_last_has_ended(cluster: DevCluster) -> None:
    install_class(cluster)
    kubelet = dra_node(cluster, [SMALL])
    cluster.create(kinds.RESOURCE_CLAIMS, claim("c"))
    for name in ("p", "q"):
        cluster.create(kinds.PODS, claiming_pod(name, claims=["c"]))
    for name in ("p", "q"):
        await cluster.wait_for(kinds.PODS, name, is_running)
    cluster.delete(kinds.PODS, "p")
    await cluster.wait_until_gone(kinds.PODS, "p")
    assert [shown.claim_name for shown in (await dynamic_resources(kubelet))["q"]] == ["c"]
    cluster.delete(kinds.PODS, "q")
    await cluster.wait_for(kinds.RESOURCE_CLAIMS, "c", lambda c: dig(c, "status.allocation") is None)


async def test_the_slices_of_a_simulated_gpu_are_offered_and_held(cluster: DevCluster, tmp_path: Path) -> None:
    gpus = SimulatedGpus.create(tmp_path, "H100-80GB-SXM", mig=True)
    assert gpus.nvidia_smi("mig", "-cgi", "9,19", "-C").returncode == 0
    nvidia_dra_driver.install(cluster.api)
    simulated_node(cluster, gpus)
    slice_ = await cluster.wait_for_any(kinds.RESOURCE_SLICES, lambda s: bool(dig(s, "spec.devices")))
    by_profile = {dig(d, "attributes.profile.string"): d for d in dig(slice_, "spec.devices")}
    large = by_profile["3g.40gb"]
    [instance] = [i for i in gpus.show()["gpus"][0]["instances"] if i["profile"] == "3g.40gb"]
    start = instance["start"]
    assert large["name"] == f"gpu-0-mig-9-{start}-4"
    assert dig(large, "attributes.type.string") == "mig"
    assert dig(large, "attributes.parentUUID.string") == gpus.show()["gpus"][0]["uuid"]
    assert [name for name in large["capacity"] if name.startswith("memorySlice")] == [
        f"memorySlice{number}" for number in range(start, start + 4)
    ]
    cluster.create(kinds.RESOURCE_CLAIMS, claim("c", request(selectors=of_profile("3g.40gb"))))
    cluster.create(kinds.PODS, claiming_pod("p", claims=["c"]))
    await cluster.wait_for(kinds.PODS, "p", is_running)
    assert len(gpus.show()["processes"]) == 1
    gi = str(instance["gi_id"])
    assert gpus.nvidia_smi("mig", "-dci", "-gi", gi, "-i", "0").returncode != 0
    cluster.delete(kinds.PODS, "p")
    await cluster.wait_until_gone(kinds.PODS, "p")
    assert gpus.nvidia_smi("mig", "-dci", "-gi", gi, "-i", "0").returncode == 0


async def test_a_whole_gpu_is_offered_where_mig_is_off(cluster: DevCluster, tmp_path: Path) -> None:
    gpus = SimulatedGpus.create(tmp_path, "H100-80GB-SXM")
    nvidia_dra_driver.install(cluster.api)
    simulated_node(cluster, gpus)
    slice_ = await cluster.wait_for_any(kinds.RESOURCE_SLICES, offers("gpu-0"))
    [device] = dig(slice_, "spec.devices")
    assert dig(device, "attributes.type.string") == "gpu"
    assert dig(device, "attributes.driverVersion.version").count(".") == 2
    claimed = {"deviceClassName": nvidia_dra_driver.GPU_CLASS}
    assert nvidia_dra_driver.MIG_CLASS == MIG_CLASS
    cluster.create(kinds.RESOURCE_CLAIMS, claim("c", {"name": "gpu", "exactly": claimed}))
    cluster.create(kinds.PODS, claiming_pod("p", claims=["c"]))
    await cluster.wait_for(kinds.PODS, "p", is_running)
    cluster.delete(kinds.PODS, "p")
    await cluster.wait_until_gone(kinds.PODS, "p")
