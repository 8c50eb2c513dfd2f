"""Shared slices and GPUs: the agent as a process, the device plugin by the ConfigMap that ``warmslice layouts`` prints."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.model import labels
from hack.devcluster import gpu_operator, kinds
from hack.devcluster.objects import Object, name_of
from tests.contract.test_kubelet import held
from tests.e2e.agent_node import NODE, AgentNode, agent_node

SMALL, MIDDLE, WHOLE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-2g.20gb", "nvidia.com/gpu"
SLICED = "warmslice-time-slicing_1g.10gb-4"
ONE_EACH = "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 7}"
LAYOUTS = f"""\
version: v1
mig-configs:
  sevenths: [{ONE_EACH}}}]
  shared-sevenths: [{ONE_EACH}, sharing: {{strategy: time-slicing, replicas: {{1g.10gb: 4}}}}}}]
  half-shared:
  - devices: all
    mig-enabled: true
    mig-devices: {{2g.20gb: 1, 1g.10gb: 5}}
    sharing: {{strategy: time-slicing, replicas: {{1g.10gb: 4}}}}
  shared-gpus: [{{devices: all, mig-enabled: false, sharing: {{strategy: mps, replicas: {{gpu: 8}}}}}}]
  one-cut-one-shared:
  - {{devices: [0], mig-enabled: true, mig-devices: {{1g.10gb: 7}}}}
  - {{devices: [1], mig-enabled: false, sharing: {{strategy: mps, replicas: {{gpu: 8}}}}}}
"""
IMPOSSIBLE = f"""\
  mps-sevenths: [{ONE_EACH}, sharing: {{strategy: mps, replicas: {{1g.10gb: 4}}}}}}]
"""
"""Nothing is printed of a file that has this."""


@asynccontextmanager
async def shared_node(
    folder: Path, *boards: str, mig: bool = True, without: str = "", **settings: Any
) -> AsyncIterator[AgentNode]:
    """Its device plugin has the ConfigMap that belongs to the layouts, but for the entry ``without``."""
    layouts = folder / "shared-layouts.yaml"
    layouts.write_text(LAYOUTS, "utf-8")
    config_map = await printed_config_map(layouts)
    config_map["data"].pop(without, None)
    async with agent_node(folder, *boards, mig=mig, config_map=config_map, **settings) as node:
        node.layouts.write_text(LAYOUTS + IMPOSSIBLE, "utf-8")
        yield node


async def printed_config_map(layouts: Path) -> Object:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "agent", "layouts", "--device-plugin-config", str(layouts), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    assert process.returncode == 0
    found: Object = yaml.safe_load(output)
    return found


def allocatable(node: AgentNode) -> dict[str, str]:
    """GPU resources of which there are any."""
    shown: dict[str, str] = node.node()["status"]["allocatable"]
    return {name: count for name, count in shown.items() if name.startswith("nvidia.com/") and count != "0"}


def chosen(node: AgentNode) -> str | None:
    """The entry that the device plugin shall take."""
    entry: str | None = node.node()["metadata"]["labels"].get(labels.PLUGIN_CONFIG)
    return entry


async def devices(node: AgentNode, app: str) -> list[str]:
    """What its pods hold, by PodResources."""
    shown = await held(node.kubelet)
    return [device for name, ids in shown.items() if name.startswith(f"{app}-") for _, device in ids]


async def test_seven_slices_that_four_pods_share_each(tmp_path: Path) -> None:
    """Nine pods are spread over the seven; a restart of the kubelet changes nothing for them."""
    async with shared_node(tmp_path) as node:
        await node.start()
        node.wish("shared-sevenths")
        await node.until("success", "shared-sevenths")
        assert (allocatable(node), chosen(node)) == ({SMALL: "28"}, SLICED)
        await node.run_deployment("serve", SMALL, replicas=9)
        found = await devices(node, "serve")
        assert sorted(device.partition("::")[0] for device in found if device.endswith("::0")) == sorted(
            node.gpus.mig_uuids()
        )
        assert sum(device.endswith("::1") for device in found) == 2
        pods = set(node.pods("serve"))
        await node.kubelet.restart()
        await node.kubelet.wait_for_devices()
        await node.cluster_until(lambda: allocatable(node) == {SMALL: "28"}, "the replicas are back")
        assert sorted(await devices(node, "serve")) == sorted(found)
        assert set(node.pods("serve")) == pods
        assert node.evictions() == []


async def test_whole_gpus_that_eight_pods_share_each_by_mps(tmp_path: Path) -> None:
    async with shared_node(tmp_path, "H100-80GB-SXM:2", mig=False) as node:
        await node.start()
        node.wish("shared-gpus")
        await node.until("success", "shared-gpus")
        assert (allocatable(node), chosen(node)) == ({WHOLE: "16"}, "warmslice-mps_gpu-8")
        assert node.gpus.log() == []
        await node.run_deployment("serve", WHOLE, replicas=3)
        found = {device.partition("::")[0] for device in await devices(node, "serve")}
        assert found == set(node.gpus.gpu_uuids())


@pytest.mark.parametrize("wish", ["mps-sevenths", "one-cut-one-shared"])
async def test_mps_beside_slices_is_refused_and_nothing_is_touched(tmp_path: Path, wish: str) -> None:
    async with shared_node(tmp_path, "H100-80GB-SXM:2", mig=False) as node:
        await node.start()
        node.wish(wish)
        status = await node.until("failed", wish)
        assert status["reason"] == "sharing-unsupported"
        assert "NVIDIA's device plugin refuses MPS" in status["message"]
        assert (node.gpus.log(), chosen(node), allocatable(node)) == ([], None, {WHOLE: "2"})
        assert not node.node()["spec"].get("unschedulable")


async def test_of_pods_that_share_only_those_on_doomed_slices_move(tmp_path: Path) -> None:
    """One on each slice: two make room for the larger one. Without sharing then nobody moves, and the replicas are gone."""
    async with shared_node(tmp_path) as node:
        await node.start()
        node.wish("shared-sevenths")
        await node.until("success", "shared-sevenths")
        await node.run_deployment("serve", SMALL, replicas=7)
        before = node.pods("serve")
        node.wish("half-shared")
        await node.until("success", "half-shared")
        assert (allocatable(node), chosen(node)) == ({SMALL: "20", MIDDLE: "1"}, SLICED)
        await node.cluster_until(lambda: len(node.pods("serve")) == 7, "those that moved run again")
        moved = [name_of(pod) for uid, pod in before.items() if uid not in node.pods("serve")]
        assert len(moved) == 2
        assert sorted(node.evictions()) == sorted(moved)
        after = set(node.pods("serve"))
        node.wish("sevenths")
        await node.until("success", "sevenths")
        assert (allocatable(node), chosen(node)) == ({SMALL: "7"}, None)
        assert set(node.pods("serve")) == after
        assert len(node.evictions()) == 2


@pytest.mark.parametrize("first", ["sevenths", "1x7g.80gb"], ids=["the slices stay", "other slices"])
async def test_without_its_entry_in_the_config_map_a_layout_is_taken_back(tmp_path: Path, first: str) -> None:
    """A plugin that runs keeps what it has; the pod of one that starts does not get beyond its init container."""
    async with shared_node(tmp_path, without=SLICED, crash_first_s=0.1) as node:
        await node.start(advertise_seconds=6)
        node.wish(first)
        await node.until("success", first)
        shown, slices = allocatable(node), node.slices()
        node.wish("shared-sevenths")
        status = await node.until("failed", "shared-sevenths")
        assert status["reason"] == "rolled-back"
        assert f"does the device plugin's ConfigMap have the entry {SLICED}?" in status["message"]
        await node.cluster_until(lambda: allocatable(node) == shown, "what was there is advertised")
        assert (node.slices(), chosen(node)) == (slices, None)
        assert not node.node()["spec"].get("unschedulable")


@pytest.mark.parametrize("served", [True, False], ids=["with a client", "after the last client"])
async def test_a_gpu_that_was_shared_by_mps_is_cut_although_its_server_holds_it(tmp_path: Path, served: bool) -> None:
    """No pod is known to be the server; it ends with the device plugin."""
    async with shared_node(tmp_path, mig=False) as node:
        await node.start()
        node.wish("shared-gpus")
        await node.until("success", "shared-gpus")
        await node.run_deployment("serve", WHOLE)
        await node.cluster_until(lambda: len(node.gpus.show()["processes"]) == 2, "the server is there")
        if not served:
            node.cluster.delete(kinds.DEPLOYMENTS, "serve")
            await node.cluster_until(lambda: len(node.gpus.show()["processes"]) == 1, "the server alone is there")
        node.wish("sevenths")
        await node.until("success", "sevenths")
        assert (allocatable(node), chosen(node)) == ({SMALL: "7"}, None)
        assert len(node.evictions()) == served


async def test_somebody_elses_configuration_is_left_alone_and_told_by_gpu_feature_discoverys_label(
    tmp_path: Path,
) -> None:
    """The label is written here as GPU feature discovery would."""
    async with shared_node(tmp_path) as node:
        config = {"resources": [{"name": SMALL, "replicas": 3}]}
        theirs = {"theirs": yaml.safe_dump({"version": "v1", "sharing": {"timeSlicing": config}})}
        node.cluster.merge(kinds.CONFIGMAPS, "warmslice-device-plugin", {"data": theirs}, gpu_operator.NAMESPACE)
        node.cluster.label_node(NODE, {labels.PLUGIN_CONFIG: "theirs", f"{SMALL}.replicas": "3"})
        await node.start()
        node.wish("sevenths")
        await node.until("success", "sevenths")
        assert (allocatable(node), chosen(node)) == ({SMALL: "21"}, "theirs")
        node.wish("shared-sevenths")
        assert (await node.until("failed", "shared-sevenths"))["reason"] == "sharing-config-taken"
        assert (allocatable(node), chosen(node)) == ({SMALL: "21"}, "theirs")
