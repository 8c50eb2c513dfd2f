"""The configurations of NVIDIA's device plugin: which one counts on a node, and what the node has then."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest_asyncio

from hack.devcluster import kinds
from hack.devcluster.gpu_operator import DEPLOY_DEVICE_PLUGIN, NAMESPACE
from hack.devcluster.kubelet.config_manager import NODE_LABEL
from hack.devcluster.objects import Object, dig, labels_of, phase_of, random_suffix
from tests.contract.test_kubelet import allows, held
from tests.fakes.devcluster import DEADLINE_S, DevCluster, SimulatedKubelet, dev_cluster, is_running, simple_pod
from tests.fakes.simgpu import SimulatedGpus

SMALL, LARGE, WHOLE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb", "nvidia.com/gpu"
SLICES = {SMALL: ["MIG-a", "MIG-b"], LARGE: ["MIG-c"]}
GPUS = {WHOLE: ["GPU-a", "GPU-b"]}
CONFIG = "plugin-config"
APP = "nvidia-device-plugin-daemonset"


def sharing(resource: str, replicas: int, means: str = "timeSlicing", more: str = "") -> str:
    section = f"{{{more} resources: [{{name: {resource}, replicas: {replicas}}}]}}"
    return f"version: v1\nsharing:\n  {means}: {section}\n"


ENTRIES = {
    "plain": "version: v1\n",
    "sliced": sharing(SMALL, 4),
    "one-each": sharing(SMALL, 4, more="failRequestsGreaterThanOne: true,"),
    "renamed": sharing(SMALL, 3, more="renameByDefault: true,"),
    "by-mps": sharing(WHOLE, 8, "mps"),
}


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    async with dev_cluster(tmp_path) as running:
        yield running


def node_with(
    cluster: DevCluster,
    devices: dict[str, list[str]],
    *,
    label: str = "",
    default: str = "",
    entries: dict[str, str] = ENTRIES,
    **settings: Any,
) -> SimulatedKubelet:
    """The node ``n``, whose plugin's pod is made as GPU Operator makes it."""
    cluster.install_device_plugin(CONFIG, default)
    configure(cluster, entries)
    labels = {DEPLOY_DEVICE_PLUGIN: "true"} | ({NODE_LABEL: label} if label else {})
    chosen = {"crash_first_s": 0.1, "config_sync_s": 0.05} | settings
    return cluster.add_kubelet("n", devices, plugin_needs_pod=True, labels=labels, **chosen)


def configure(cluster: DevCluster, entries: dict[str, str]) -> None:
    """The ConfigMap, whole."""
    if cluster.find(kinds.CONFIGMAPS, CONFIG, NAMESPACE) is not None:
        cluster.delete(kinds.CONFIGMAPS, CONFIG, NAMESPACE)
    cluster.create(kinds.CONFIGMAPS, {"metadata": {"name": CONFIG}, "data": entries}, NAMESPACE)


def choose(cluster: DevCluster, entry: str | None) -> None:
    cluster.label_node("n", {NODE_LABEL: entry})


async def shows(cluster: DevCluster, resource: str, amount: int) -> Object:
    return await cluster.wait_for(kinds.NODES, "n", allows(resource, amount))


async def run(cluster: DevCluster, name: str, resource: str) -> None:
    cluster.create(kinds.PODS, simple_pod(name, resources={resource: 1}))
    await cluster.wait_for(kinds.PODS, name, is_running)


def of_the_plugin(holds: Callable[[Object], bool]) -> Callable[[Object], bool]:
    return lambda pod: labels_of(pod).get("app") == APP and holds(pod)


def waits_because(reason: str) -> Callable[[Object], bool]:
    def holds(pod: Object) -> bool:
        statuses = [*dig(pod, "status.initContainerStatuses", []), *dig(pod, "status.containerStatuses", [])]
        return any(dig(status, "state.waiting.reason") == reason for status in statuses)

    return of_the_plugin(holds)


async def stays(cluster: DevCluster, resource: str, amount: int) -> None:
    """Pods that come and go take longer than the plugin would need to register anew."""
    for _ in range(5):
        name = f"passing-{random_suffix()}"
        cluster.create(kinds.PODS, simple_pod(name, node="n"))
        await cluster.wait_for(kinds.PODS, name, is_running)
        assert allows(resource, amount)(cluster.get(kinds.NODES, "n"))


async def brought_to_the_volume(cluster: DevCluster) -> None:
    """Until the kubelet has read the ConfigMap, and has had the time to begin once more."""
    path = f"/api/v1/namespaces/{NAMESPACE}/configmaps/{CONFIG}"

    def reads() -> int:
        return sum(1 for request in cluster.requests(user_agent="kubelet") if request.path == path)

    before = reads()
    async with asyncio.timeout(DEADLINE_S):
        while reads() < before + 2:
            await asyncio.sleep(0.01)


async def test_the_label_chooses_the_entry_and_each_change_makes_the_plugin_register_anew(cluster: DevCluster) -> None:
    kubelet = node_with(cluster, SLICES)
    await shows(cluster, SMALL, 2)
    choose(cluster, "sliced")
    await shows(cluster, SMALL, 8)
    await shows(cluster, LARGE, 1)
    kubelet.set_devices({SMALL: ["MIG-d"]})
    choose(cluster, "one-each")
    await shows(cluster, SMALL, 4)
    await shows(cluster, LARGE, 0)
    choose(cluster, None)
    await shows(cluster, SMALL, 1)


async def test_a_node_without_label_has_the_default_entry(cluster: DevCluster) -> None:
    node_with(cluster, SLICES, default="sliced")
    await shows(cluster, SMALL, 8)
    choose(cluster, "plain")
    await shows(cluster, SMALL, 2)


async def test_replicas_spread_over_the_devices_and_have_ids_of_their_own(cluster: DevCluster) -> None:
    kubelet = node_with(cluster, SLICES, label="sliced")
    await shows(cluster, SMALL, 8)
    for name in ("one", "two", "three", "four"):
        await run(cluster, name, SMALL)
    shown = await held(kubelet)
    ids = {device for name in ("one", "two", "three", "four") for _, device in shown[name]}
    assert ids == {"MIG-a::0", "MIG-a::1", "MIG-b::0", "MIG-b::1"}


async def test_shared_resources_may_have_a_name_of_their_own(cluster: DevCluster) -> None:
    node_with(cluster, SLICES, label="renamed")
    node = await shows(cluster, f"{SMALL}.shared", 6)
    assert SMALL not in node["status"]["allocatable"]


async def test_whole_gpus_are_shared_by_mps(cluster: DevCluster) -> None:
    kubelet = node_with(cluster, GPUS, label="by-mps")
    await shows(cluster, WHOLE, 16)
    await run(cluster, "p", WHOLE)
    assert (await held(kubelet))["p"] == [(WHOLE, "GPU-a::0")]


async def test_with_mps_the_plugin_does_not_start_where_there_are_slices(cluster: DevCluster) -> None:
    """Shared or not. What is held stays held, and another configuration brings the plugin back."""
    kubelet = node_with(cluster, SLICES)
    await shows(cluster, LARGE, 1)
    await run(cluster, "p", LARGE)
    choose(cluster, "by-mps")
    await shows(cluster, LARGE, 0)
    await stays(cluster, LARGE, 0)
    assert is_running(cluster.get(kinds.PODS, "p"))
    assert "p" in await held(kubelet)
    choose(cluster, None)
    await shows(cluster, LARGE, 1)


async def test_two_replicas_are_more_than_a_container_gets(cluster: DevCluster) -> None:
    node_with(cluster, SLICES, label="one-each")
    await shows(cluster, SMALL, 8)
    cluster.create(kinds.PODS, simple_pod("two", resources={SMALL: 2}))
    failed = await cluster.wait_for(kinds.PODS, "two", lambda pod: phase_of(pod) == "Failed")
    assert failed["status"]["reason"] == "UnexpectedAdmissionError"
    assert "maximum request size for shared resources is 1; found 2" in failed["status"]["message"]


async def test_where_the_configuration_lets_it_a_container_gets_replicas_of_several_devices(
    cluster: DevCluster,
) -> None:
    kubelet = node_with(cluster, SLICES, label="sliced")
    await shows(cluster, SMALL, 8)
    cluster.create(kinds.PODS, simple_pod("two", resources={SMALL: 2}))
    await cluster.wait_for(kinds.PODS, "two", is_running)
    assert {device for _, device in (await held(kubelet))["two"]} == {"MIG-a::0", "MIG-b::0"}


async def test_a_pod_that_had_a_slice_alone_keeps_it_and_shares_it_then(cluster: DevCluster) -> None:
    """The scheduler counts it as one of the four; the kubelet would have a fourth replica."""
    kubelet = node_with(cluster, {SMALL: ["MIG-a"]})
    await shows(cluster, SMALL, 1)
    await run(cluster, "old", SMALL)
    choose(cluster, "sliced")
    await shows(cluster, SMALL, 4)
    for name in ("one", "two", "three"):
        await run(cluster, name, SMALL)
    shown = await held(kubelet)
    assert shown["old"] == [(SMALL, "MIG-a")]
    assert {device for name in ("one", "two", "three") for _, device in shown[name]} == {
        f"MIG-a::{n}" for n in range(3)
    }


async def test_the_plugins_pod_waits_for_its_config_map(cluster: DevCluster) -> None:
    node_with(cluster, SLICES, label="sliced")
    cluster.delete(kinds.CONFIGMAPS, CONFIG, NAMESPACE)
    await cluster.wait_for_any(kinds.PODS, waits_because("ContainerCreating"))
    configure(cluster, ENTRIES)
    await shows(cluster, SMALL, 8)


async def test_the_plugins_pod_does_not_start_without_the_entry_of_the_label(cluster: DevCluster) -> None:
    node_with(cluster, SLICES, label="absent")
    pod = await cluster.wait_for_any(kinds.PODS, waits_because("CrashLoopBackOff"))
    assert phase_of(pod) == "Pending"
    assert SMALL not in cluster.get(kinds.NODES, "n")["status"]["allocatable"]
    configure(cluster, ENTRIES | {"absent": sharing(SMALL, 2)})
    await shows(cluster, SMALL, 4)
    await cluster.wait_for_any(kinds.PODS, of_the_plugin(is_running))


async def test_a_plugin_that_runs_keeps_what_it_has_where_the_entry_is_missing(cluster: DevCluster) -> None:
    kubelet = node_with(cluster, SLICES, label="sliced")
    await shows(cluster, SMALL, 8)
    choose(cluster, "absent")
    await stays(cluster, SMALL, 8)
    await kubelet.restart()
    await kubelet.wait_for_devices()
    await shows(cluster, SMALL, 8)
    configure(cluster, ENTRIES | {"absent": sharing(SMALL, 2)})
    await shows(cluster, SMALL, 4)


async def test_an_entry_that_changes_is_read_with_the_next_start(cluster: DevCluster) -> None:
    node_with(cluster, SLICES, label="sliced")
    await shows(cluster, SMALL, 8)
    configure(cluster, ENTRIES | {"sliced": sharing(SMALL, 2)})
    await brought_to_the_volume(cluster)
    await stays(cluster, SMALL, 8)
    cluster.label_node("n", {DEPLOY_DEVICE_PLUGIN: "paused"})
    await shows(cluster, SMALL, 0)
    cluster.label_node("n", {DEPLOY_DEVICE_PLUGIN: "true"})
    await shows(cluster, SMALL, 4)


async def test_after_an_entry_in_use_was_taken_away_no_label_helps_until_the_pod_is_made_anew(
    cluster: DevCluster,
) -> None:
    node_with(cluster, SLICES, label="sliced")
    await shows(cluster, SMALL, 8)
    configure(cluster, {name: text for name, text in ENTRIES.items() if name != "sliced"})
    await brought_to_the_volume(cluster)
    choose(cluster, "plain")
    await stays(cluster, SMALL, 8)
    cluster.label_node("n", {DEPLOY_DEVICE_PLUGIN: "paused"})
    await shows(cluster, SMALL, 0)
    cluster.label_node("n", {DEPLOY_DEVICE_PLUGIN: "true"})
    await shows(cluster, SMALL, 2)


async def test_the_configurations_mig_strategy_counts_where_the_plugin_is_given_none(
    cluster: DevCluster, tmp_path: Path
) -> None:
    gpus = SimulatedGpus.create(tmp_path, "H100-80GB-SXM", mig=True)
    assert gpus.nvidia_smi("mig", "-cgi", "19,19", "-C").returncode == 0
    entries = {strategy: f"flags: {{migStrategy: {strategy}}}\n" for strategy in ("single", "mixed")} | {"none": ""}
    simulated: dict[str, Any] = {
        "devices_file": None,
        "simgpu_dir": gpus.paths.simgpu.parent,
        "simgpu_state": gpus.state,
    }
    node_with(cluster, {}, label="single", entries=entries, mig_strategy="", **simulated)
    await shows(cluster, WHOLE, 2)
    choose(cluster, "mixed")
    await shows(cluster, SMALL, 2)
    choose(cluster, "none")
    await shows(cluster, WHOLE, 1)
