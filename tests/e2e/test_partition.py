"""The agent as a process, from a label to slices, over real protocols."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest

from agent.model import labels
from hack.devcluster import kinds
from tests.e2e.agent_node import LAYOUTS, NODE, AgentNode, agent_node

SMALL = "nvidia.com/mig-1g.10gb"


async def test_only_the_holder_of_a_doomed_slice_moves(tmp_path: Path) -> None:
    """Five of seven small slices are held; the large one needs the place of three, so one pod goes and four stay."""
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("small")
        await node.until("success", "small")
        await node.run_deployment("serve", SMALL, replicas=5)
        before, done = node.pods("serve"), len(node.gpus.log())
        held = {f"{i['profile']}@{i['start']}" for i in _held(node)}
        node.wish("mixed")
        await node.until("success", "mixed")
        assert sorted(s.partition("@")[0] for s in node.slices()) == ["1g.10gb"] * 4 + ["3g.40gb"]
        moved = [pod["metadata"]["name"] for uid, pod in before.items() if uid not in node.pods("serve")]
        assert node.evictions() == moved
        assert len(moved) == 1
        changes = [m for m in node.gpus.log()[done:] if m["function"] == "nvmlGpuInstanceDestroy"]
        destroyed = {f"{m['profile']}@{m['start']}" for m in changes}
        assert len(destroyed) == 3
        assert len(destroyed & held) == 1
        found = node.node()
        assert not found["spec"].get("unschedulable")
        assert found["metadata"]["labels"][labels.DEVICE_PLUGIN] == "true"
        assert labels.OPERATION not in found["metadata"]["annotations"]
        assert not set(labels.AUTOSCALER_GUARDS) & set(found["metadata"]["annotations"])
        assert await node.stop() == 0


async def test_wishes_that_cannot_be_are_refused_in_one_sentence_and_nothing_is_touched(tmp_path: Path) -> None:
    """The same sentence in annotation, Event and log; the hardware hears of none of them."""
    wishes = {
        "2x3g.40gb_1x2g.20gb": ("no-placement", "do not fit together"),
        "1x3g.71gb": ("unknown-profile", "has no profile 3g.71gb"),
        "half-and-half": ("unknown-layout", "neither in the layouts file"),
        "4x1g10gb": ("unparsable-layout", "is not a MIG profile"),
    }
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("small")
        await node.until("success", "small")
        done = len(node.gpus.log())
        for wish, (reason, part) in wishes.items():
            node.wish(wish)
            status = await node.until("failed", wish)
            assert status["reason"] == reason
            assert part in status["message"]
            await node.cluster_until(partial(_told, node, status["message"]), "the Event")
            assert status["message"] in [line.get("detail") for line in node.log() if line["level"] == "error"]
        assert len(node.gpus.log()) == done
        assert not node.node()["spec"].get("unschedulable")


@pytest.mark.parametrize("cordoned", [True, False], ids=["cordoned before", "schedulable before"])
async def test_the_node_is_given_back_as_it_was_found(tmp_path: Path, cordoned: bool) -> None:
    async with agent_node(tmp_path, mig=False) as node:
        if cordoned:
            node.cluster.merge(kinds.NODES, NODE, {"spec": {"unschedulable": True}})
        before = node.node()["metadata"]["labels"]
        await node.start()
        node.wish("2x3g.40gb")
        await node.until("success", "2x3g.40gb")
        found = node.node()
        assert bool(found["spec"].get("unschedulable")) is cordoned
        assert found["metadata"]["labels"] == {**before, labels.CONFIG: "2x3g.40gb", labels.STATE: "success"}


async def test_under_a_driver_that_lists_profiles_with_mig_alone_the_mode_comes_first(tmp_path: Path) -> None:
    async with agent_node(tmp_path, mig=False, driver=535) as node:
        await node.start()
        node.wish("4x1g.10gb_1x3g.40gb")
        await node.until("success", "4x1g.10gb_1x3g.40gb")
        assert sorted(s.partition("@")[0] for s in node.slices()) == ["1g.10gb"] * 4 + ["3g.40gb"]
        assert node.gpus.log()[0]["function"] == "nvmlDeviceSetMigMode"


async def test_there_what_cannot_be_is_tried_once_and_given_back(tmp_path: Path) -> None:
    """That the GPU has no such profile shows only when MIG is on; then it is known."""
    async with agent_node(tmp_path, mig=False, driver=535) as node:
        await node.start()
        node.wish("1x3g.71gb")
        status = await node.until("failed", "1x3g.71gb")
        assert (status["reason"], "has no profile 3g.71gb" in status["message"]) == ("unknown-profile", True)
        node.wish("1x4g.71gb")
        assert (await node.until("failed", "1x4g.71gb"))["reason"] == "unknown-profile"
        assert [(entry["function"], entry["mode"]) for entry in node.gpus.log()] == [
            ("nvmlDeviceSetMigMode", 1),
            ("nvmlDeviceSetMigMode", 0),
        ]
        assert not node.node()["spec"].get("unschedulable")


async def test_without_deploy_labels_the_plugins_pod_is_started_anew(tmp_path: Path) -> None:
    async with agent_node(tmp_path, deploy_labels=False) as node:
        node.cluster.label_node(NODE, {labels.DEVICE_PLUGIN: None})
        plugin = set(node.pods("nvidia-device-plugin-daemonset"))
        await node.start()
        node.wish("small")
        await node.until("success", "small")
        assert not plugin & set(node.pods("nvidia-device-plugin-daemonset"))
        assert node.node()["status"]["allocatable"][SMALL] == "7"
        assert not any(key.startswith(labels.DEPLOY_PREFIX) for key in node.node()["metadata"]["labels"])


async def test_a_budget_that_allows_none_is_named_and_waited_for(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("1x7g.80gb")
        await node.until("success", "1x7g.80gb")
        await node.run_deployment("serve", "nvidia.com/mig-7g.80gb")
        budget = {
            "metadata": {"name": "keep-serving"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "serve"}}},
        }
        node.cluster.create(kinds.BUDGETS, budget)
        done, pods = len(node.gpus.log()), set(node.pods("serve"))
        node.wish("small")
        await node.cluster_until(lambda: node.status().get("reason") == "budget", "the budget is reported")
        assert "keep-serving" in node.status()["message"]
        assert len(node.gpus.log()) == done
        assert set(node.pods("serve")) == pods
        node.cluster.delete(kinds.BUDGETS, "keep-serving")
        await node.until("success", "small")


async def test_a_daemonset_pod_in_the_way_is_named_and_nothing_is_evicted(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("1x7g.80gb")
        await node.until("success", "1x7g.80gb")
        container = {"name": "main", "image": "x:1", "resources": {"limits": {"nvidia.com/mig-7g.80gb": "1"}}}
        template = {"metadata": {"labels": {"app": "agentd"}}, "spec": {"containers": [container]}}
        spec = {"selector": {"matchLabels": {"app": "agentd"}}, "template": template}
        node.cluster.create(kinds.DAEMONSETS, {"metadata": {"name": "agentd"}, "spec": spec})
        await node.cluster_until(lambda: len(node.pods("agentd")) == 1, "the DaemonSet's pod runs")
        node.wish("small")
        await node.cluster_until(lambda: node.status().get("reason") == "blocked", "blocked")
        assert "DaemonSet agentd" in node.status()["message"]
        assert node.evictions() == []
        assert not node.node()["spec"].get("unschedulable")


async def test_an_edit_of_the_file_under_the_same_name_takes_effect(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("mixed")
        first = await node.until("success", "mixed")
        node.layouts.write_text(LAYOUTS.replace("{3g.40gb: 1, 1g.10gb: 4}", "{3g.40gb: 2}"), "utf-8")
        await node.cluster_until(lambda: node.slices() == ["3g.40gb@0", "3g.40gb@4"], "the new layout")
        second = await node.until("success", "mixed")
        assert first["revision"] != second["revision"]


async def test_a_slices_series_vanish_with_the_slice(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("small")
        await node.until("success", "small")
        await _page_has(node, 'profile="1g.10gb"', True)
        node.wish("1x7g.80gb")
        await node.until("success", "1x7g.80gb")
        await _page_has(node, 'profile="7g.80gb"', True)
        await _page_has(node, 'profile="1g.10gb"', False)
        page = await node.page("/metrics")
        assert 'warmslice_layout_state{state="success"} 1.0' in page
        assert (await node.page("/readyz"), await node.page("/healthz")) == ("ok\n", "ok\n")


async def _page_has(node: AgentNode, text: str, wanted: bool) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        page = [line for line in (await node.page("/metrics")).splitlines() if line.startswith("warmslice_slice_")]
        if any(text in line for line in page) is wanted:
            return
    raise AssertionError(f"{text} {'never came' if wanted else 'stayed'}")


def _told(node: AgentNode, message: str) -> bool:
    return message in [event["message"] for event in node.events()]


def _held(node: AgentNode) -> list[dict[str, object]]:
    shown = node.gpus.show()
    held = {process["mig_uuid"] for process in shown["processes"]}
    return [i for i in shown["gpus"][0]["instances"] if any(ci["mig_uuid"] in held for ci in i["cis"])]
