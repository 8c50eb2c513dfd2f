"""Device plugins that crash, fall silent or hang, and what a node says and does meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hack.devcluster import kinds
from hack.devcluster.kubelet.plugin_fault import CRASH, SILENT, STUCK
from hack.devcluster.objects import Object, dig, is_ready, phase_of
from tests.contract.test_kubelet import allows, held, is_pending_unschedulable
from tests.fakes.devcluster import DevCluster, SimulatedKubelet, dev_cluster, is_running, simple_pod

LARGE = "nvidia.com/mig-3g.40gb"
SLICES = {LARGE: ["MIG-a", "MIG-b"]}


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[DevCluster]:
    async with dev_cluster(tmp_path) as running:
        yield running


@pytest_asyncio.fixture
async def kubelet(cluster: DevCluster) -> SimulatedKubelet:
    """A node with two slices, one of them held by the pod ``old``."""
    kubelet = cluster.add_kubelet("n", SLICES)
    await cluster.wait_for(kinds.NODES, "n", allows(LARGE, 2))
    cluster.create(kinds.PODS, simple_pod("old", resources={LARGE: 1}))
    await cluster.wait_for(kinds.PODS, "old", is_running)
    return kubelet


def set_fault(kubelet: SimulatedKubelet, word: str) -> None:
    """As a user does it; the empty word ends it."""
    (kubelet.settings.run_dir / "plugin-fault").write_text(word)


def bound(name: str, *, gpu: bool) -> Object:
    return simple_pod(name, resources={LARGE: 1} if gpu else None, node="n")


async def test_while_the_plugin_is_down_nothing_can_be_had_and_what_is_held_stays(
    cluster: DevCluster, kubelet: SimulatedKubelet
) -> None:
    set_fault(kubelet, CRASH)
    node = await cluster.wait_for(kinds.NODES, "n", allows(LARGE, 0))
    assert node["status"]["capacity"][LARGE] == "2"
    cluster.create(kinds.PODS, simple_pod("new", resources={LARGE: 1}))
    await cluster.wait_for(kinds.PODS, "new", is_pending_unschedulable)
    assert is_running(cluster.get(kinds.PODS, "old"))
    assert set(await held(kubelet)) == {"old"}
    set_fault(kubelet, "")
    await cluster.wait_for(kinds.NODES, "n", allows(LARGE, 2))
    await cluster.wait_for(kinds.PODS, "new", is_running)


async def test_a_plugin_that_names_no_devices_has_none(cluster: DevCluster, kubelet: SimulatedKubelet) -> None:
    """It has registered, but what it had before its end is forgotten."""
    set_fault(kubelet, CRASH)
    await cluster.wait_for(kinds.NODES, "n", allows(LARGE, 0))
    set_fault(kubelet, SILENT)
    cluster.create(kinds.PODS, bound("forced", gpu=True))
    failed = await cluster.wait_for(kinds.PODS, "forced", lambda pod: phase_of(pod) == "Failed")
    assert failed["status"]["reason"] == "UnexpectedAdmissionError"
    for later in range(5):
        # Long enough for a plugin that does name them.
        cluster.create(kinds.PODS, bound(f"later-{later}", gpu=False))
        await cluster.wait_for(kinds.PODS, f"later-{later}", is_running)
    assert allows(LARGE, 0)(cluster.get(kinds.NODES, "n"))
    set_fault(kubelet, "")
    await cluster.wait_for(kinds.NODES, "n", allows(LARGE, 2))


async def test_a_plugin_that_falls_silent_later_stays_believed(cluster: DevCluster, kubelet: SimulatedKubelet) -> None:
    set_fault(kubelet, SILENT)
    cluster.create(kinds.PODS, simple_pod("new", resources={LARGE: 1}))
    await cluster.wait_for(kinds.PODS, "new", is_running)
    assert allows(LARGE, 2)(cluster.get(kinds.NODES, "n"))


async def test_a_plugin_that_hangs_in_allocate_holds_up_every_pod_of_a_node_that_looks_well(
    cluster: DevCluster, kubelet: SimulatedKubelet
) -> None:
    set_fault(kubelet, STUCK)
    cluster.create(kinds.PODS, bound("stuck", gpu=True))
    cluster.create(kinds.PODS, bound("plain", gpu=False))
    cluster.delete(kinds.PODS, "old")
    before = cluster.get(kinds.NODES, "n")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.4):
            await cluster.wait_until_gone(kinds.PODS, "old")
    assert [phase_of(cluster.get(kinds.PODS, name)) for name in ("stuck", "plain")] == ["Pending", "Pending"]
    node = cluster.get(kinds.NODES, "n")
    assert is_ready(node)
    assert dig(node, "status.allocatable") == dig(before, "status.allocatable")
    assert set(await held(kubelet)) == {"old"}
    set_fault(kubelet, "")
    for name in ("stuck", "plain"):
        await cluster.wait_for(kinds.PODS, name, is_running)
    await cluster.wait_until_gone(kinds.PODS, "old")


async def test_the_end_of_a_plugin_that_hangs_fails_the_pod_that_waits_for_it(
    cluster: DevCluster, kubelet: SimulatedKubelet
) -> None:
    set_fault(kubelet, STUCK)
    cluster.create(kinds.PODS, bound("stuck", gpu=True))
    cluster.create(kinds.PODS, bound("plain", gpu=False))
    await asyncio.sleep(0.1)
    assert phase_of(cluster.get(kinds.PODS, "stuck")) == "Pending"
    set_fault(kubelet, CRASH)
    failed = await cluster.wait_for(kinds.PODS, "stuck", lambda pod: phase_of(pod) == "Failed")
    assert failed["status"]["reason"] == "UnexpectedAdmissionError"
    await cluster.wait_for(kinds.PODS, "plain", is_running)


async def test_after_a_restart_of_the_kubelet_devices_are_back_when_the_plugin_registers_again(
    cluster: DevCluster, kubelet: SimulatedKubelet
) -> None:
    await kubelet.restart(plugin_start_s=2.0)
    node = await cluster.wait_for(kinds.NODES, "n", allows(LARGE, 0))
    assert is_ready(node)
    cluster.create(kinds.PODS, simple_pod("new", resources={LARGE: 1}))
    await cluster.wait_for(kinds.PODS, "new", is_pending_unschedulable)
    await cluster.wait_for(kinds.NODES, "n", allows(LARGE, 2))
    await cluster.wait_for(kinds.PODS, "new", is_running)
    assert is_running(cluster.get(kinds.PODS, "old"))
    assert set(await held(kubelet)) == {"old", "new"}
