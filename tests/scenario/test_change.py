"""What a change does and does not do to the node, told as stories on a node in memory."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from agent.model import labels
from agent.model.errors import HardwareError
from agent.model.mig import GpuProcess
from agent.model.steps import Begin, Create, Destroy, End, Evict, Pause, RestartClient, Resume
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import NodeWorld, Steps, agent_on, h100, settle

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))


def _drained(**options: Any) -> NodeWorld:
    """The large slice needs the place of three small ones, one of which a pod holds."""
    world = NodeWorld(h100(SEVEN), **options)
    world.add_pod("stays", world.device(0, 1))
    world.add_pod("goes", world.device(0, 5))
    world.label(value="4x1g.10gb_1x3g.40gb")
    return world


def _idle() -> NodeWorld:
    world = NodeWorld(h100(SEVEN))
    world.label(value="2x3g.40gb")
    return world


def _layout(world: NodeWorld) -> list[str]:
    return [str(slot) for gpu in world.gpus.gpus.values() for slot in gpu.layout]


def _status(world: NodeWorld) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.node["metadata"]["annotations"].get(labels.STATUS, "{}"))
    return found


async def _turns(world: NodeWorld, partition: PartitionPass, count: int, seconds: float = 1.0) -> None:
    for _ in range(count):
        await partition()
        world.tick(seconds)


async def _until_taken(world: NodeWorld, partition: PartitionPass, hands: Steps, kind: type) -> None:
    for _ in range(60):
        await partition()
        if any(isinstance(step, kind) for step in hands.taken):
            return
        world.tick()
    raise AssertionError(f"no {kind.__name__} among {hands.taken}")


async def test_a_change_writes_the_node_four_times_and_three_times_where_nobody_moves() -> None:
    for world, writes in ((_drained(), 4), (_idle(), 3)):
        await settle(world, agent_on(world)[0])
        assert len(world.node_writes) == writes


async def test_pods_go_before_clients_stop_and_clients_stop_before_the_first_slice_goes() -> None:
    world = _drained()
    partition, hands = agent_on(world)
    await settle(world, partition)
    kinds = [type(step) for step in hands.taken]
    order = [Begin, Evict, Pause, Destroy, Create, Resume, End]
    assert [kinds.index(kind) for kind in order] == sorted(kinds.index(kind) for kind in order)


async def test_no_slice_goes_while_a_paused_client_still_runs() -> None:
    """Else its DaemonSet might never notice the pause, and the plugin would go on showing the old slices."""
    world = _idle()
    partition, hands = agent_on(world)
    for _ in range(3):
        await partition()
    assert not any(isinstance(step, Destroy) for step in hands.taken)
    assert world.reports[-1].waits_for == "clients-stopping"
    await settle(world, partition)
    assert _status(world)["state"] == "success"


async def test_success_is_not_said_before_the_node_shows_the_layout() -> None:
    world = _idle()
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Resume)
    for _ in range(3):
        await partition()
    assert world.node["metadata"]["labels"][labels.STATE] == "pending"
    assert world.reports[-1].waits_for == "not-advertised"
    await settle(world, partition)
    assert world.node["metadata"]["labels"][labels.STATE] == "success"


async def test_what_only_the_kubelet_still_lists_is_waited_for_and_not_a_reason_to_go_back() -> None:
    """An evicted pod is gone from the API server a moment before the kubelet lets its slice go."""
    world = _drained()
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Evict)
    gone = world.uids("goes")[0]
    lingering = world.pods.pop(gone)
    world.ghosts.append((lingering, world.devices.pop(gone)))
    await _turns(world, partition, 4)
    assert not any(isinstance(step, Destroy) for step in hands.taken)
    assert world.reports[-1].waits_for == "device-busy"
    assert await partition() < 0.5, "nobody tells when it is free, and that is in a moment"
    await _turns(world, partition, 4, 2.0)
    assert await partition() >= 2.0
    world.ghosts.clear()
    await settle(world, partition)
    assert _status(world)["state"] == "success"


@pytest.mark.parametrize(
    ("pod", "why"),
    [
        ({"owner": "DaemonSet"}, "it would come straight back"),
        ({"annotations": {labels.EVICT: "false"}}, "warmslice.dev/evict=false"),
        ({"annotations": {labels.EVICT: "wait"}}, "warmslice.dev/evict=wait"),
        ({"annotations": {"kubernetes.io/config.mirror": "x"}}, "static pod"),
        ({"owner": ""}, "no controller would start it again"),
        ({"namespace": "kube-system"}, "namespace kube-system"),
    ],
)
async def test_a_pod_that_must_not_be_moved_blocks_by_name_and_nothing_is_touched(
    pod: dict[str, Any], why: str
) -> None:
    world = NodeWorld(h100("7g.80gb@0:8"))
    world.add_pod("holder", world.device(0, 0), **pod)
    world.label(value="7x1g.10gb")
    partition, _ = agent_on(world)
    await _turns(world, partition, 5)
    assert _status(world)["reason"] == "blocked"
    assert "/holder (" in _status(world)["message"]
    assert why in _status(world)["message"]
    assert world.effects.names == ["patch"]
    assert not world.node["spec"].get("unschedulable")


async def test_another_way_around_an_immovable_pod_is_taken_where_there_is_one() -> None:
    world = NodeWorld(h100("1g.10gb@0:1 1g.10gb@5:1"))
    world.add_pod("fixed", world.device(0, 5), owner="DaemonSet")
    world.add_pod("movable", world.device(0, 0))
    world.label(value="1x1g.10gb_1x3g.40gb")
    await settle(world, agent_on(world)[0])
    assert _layout(world) == ["3g.40gb@0:4", "1g.10gb@5:1"]
    assert len(world.uids("fixed")) == 1


async def test_a_process_outside_every_pod_blocks_by_pid_and_command() -> None:
    world = NodeWorld(h100("7g.80gb@0:8"))
    uuid = next(iter(world.gpus.gpus))
    world.strangers[uuid] = (GpuProcess(4711, world.gpus.gpus[uuid].instances[0].id, 0, 1, "python"),)
    world.tick()
    world.label(value="7x1g.10gb")
    await _turns(world, agent_on(world)[0], 3)
    assert _status(world)["reason"] == "blocked"
    assert "process 4711 (python) outside any pod" in _status(world)["message"]


async def test_a_pod_about_to_take_a_slice_is_waited_for() -> None:
    world = _drained()
    starting = world.add_pod("starting", gpus=1)
    partition, hands = agent_on(world)
    await _turns(world, partition, 3)
    assert hands.taken == []
    assert _status(world)["reason"] == "pod-starting"
    world.devices[starting] = world.device(0, 2)
    await settle(world, partition)
    assert world.uids("starting") == [starting]


async def test_a_pod_bound_just_before_the_cordon_is_waited_for_too() -> None:
    world = _drained()
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Begin)
    late = world.add_pod("late", gpus=1)
    await _turns(world, partition, 4)
    assert not any(isinstance(step, Destroy) for step in hands.taken)
    assert world.reports[-1].waits_for == "pod-starting"
    world.devices[late] = world.device(0, 2)
    await settle(world, partition)
    assert world.uids("late") == [late]


async def test_nobody_is_free_while_the_kubelet_does_not_answer() -> None:
    world = _drained()
    world.kubelet_down = True
    partition, hands = agent_on(world)
    await _turns(world, partition, 3)
    assert hands.taken == []
    assert _status(world)["reason"] == "kubelet-unreachable"
    world.kubelet_down = False
    await settle(world, partition)


async def test_a_node_uncordoned_midway_is_cordoned_again_once() -> None:
    world = _drained()
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Evict)
    world.cordon(False)
    await _turns(world, partition, 1, 0.0)
    assert world.node["spec"]["unschedulable"]
    world.cordon(False)
    await _turns(world, partition, 1, 0.0)
    assert not world.node["spec"].get("unschedulable")
    await settle(world, partition)
    assert _status(world)["state"] == "success"


async def test_a_decision_made_on_a_stale_node_writes_nothing() -> None:
    """An administrator cordons between our look and our write: the cordon is theirs, and stays."""
    world = _drained()
    stale = copy.deepcopy(world.node)
    world.cordon()
    partition, _ = agent_on(world, sees=lambda: stale)
    await partition()
    assert world.node_writes == []
    partition, _ = agent_on(world)
    await settle(world, partition)
    assert world.node["spec"]["unschedulable"]


async def test_a_wish_withdrawn_before_the_first_slice_went_ends_without_a_trace() -> None:
    world = _drained()
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Evict)
    world.label(value=None)
    await settle(world, partition)
    assert world.gpus.log == []
    assert _layout(world) == SEVEN.split()
    assert not any(isinstance(step, RestartClient | Pause) for step in hands.taken)
    assert not world.node["spec"].get("unschedulable")


async def test_a_newer_wish_midway_is_gone_to_directly() -> None:
    world = _drained()
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Create)
    world.label(value="1x3g.40gb_1x4g.40gb")
    await settle(world, partition)
    assert _layout(world) == ["4g.40gb@0:4", "3g.40gb@4:4"]
    assert _status(world)["layout"] == "1x3g.40gb_1x4g.40gb"
    assert len([step for step in hands.taken if isinstance(step, Begin)]) == 1


@pytest.mark.parametrize("deploy_labels", [True, False])
async def test_a_client_that_came_back_before_a_newer_wish_is_started_anew(deploy_labels: bool) -> None:
    """It has seen a layout, but not the last one."""
    world = NodeWorld(h100(), deploy_labels=deploy_labels)
    world.label(value="1x1g.10gb")
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Resume if deploy_labels else RestartClient)
    world.tick()
    world.tick()
    assert world.uids("nvidia-device-plugin")
    world.label(value="enabled")
    started = world.time
    await settle(world, partition)
    assert _status(world)["state"] == "success"
    assert world.time - started < 60


async def test_a_newer_wish_leads_out_of_a_way_back_that_is_barred() -> None:
    """The driver makes neither the new slices nor the old ones again; a wish that it can make ends that."""
    world = _idle()
    for place in ("0:4", "4:4"):
        world.gpus.failures["3g.40gb", place] = HardwareError("Insufficient Resources")
    world.gpus.failures["1g.10gb", "6:1"] = HardwareError("Insufficient Resources")
    partition, _ = agent_on(world)
    await _turns(world, partition, 40)
    assert world.reports[-1].waits_for == "rollback-failed"
    world.label(value="2x2g.20gb")
    await settle(world, partition)
    assert _status(world)["state"] == "success"
    assert not world.node["spec"].get("unschedulable")


async def test_a_layouts_file_that_is_away_for_a_moment_undoes_nothing(tmp_path: Path) -> None:
    layouts = tmp_path / "layouts.yaml"
    text = "version: v1\nmig-configs:\n  halves: [{devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2}}]\n"
    layouts.write_text(text, "utf-8")
    world = NodeWorld(h100(SEVEN))
    world.layouts_file = str(layouts)
    world.label(value="halves")
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Create)
    layouts.unlink()
    await _turns(world, partition, 5)
    assert _layout(world) == ["3g.40gb@0:4", "3g.40gb@4:4"]
    layouts.write_text(text, "utf-8")
    await settle(world, partition)
    assert _status(world)["state"] == "success"


async def test_a_failed_change_is_tried_again_later_each_time() -> None:
    world = _idle()
    for place in ("0:4", "4:4"):
        world.gpus.failures["3g.40gb", place] = HardwareError("Insufficient Resources")
    partition, hands = agent_on(world)
    begun: list[float] = []
    while len(begun) < 3 and world.time < 1_002_000:
        wait = await partition()
        count = len([step for step in hands.taken if isinstance(step, Begin)])
        begun += [world.time] * (count - len(begun))
        world.tick(min(max(wait, 0.5), 5.0))
    first, second, third = begun
    assert 30 <= second - first < 60
    assert 60 <= third - second < 120
    assert _layout(world) == SEVEN.split()


async def test_a_label_that_opts_out_or_is_absent_is_left_alone() -> None:
    world = NodeWorld(h100(SEVEN))
    world.label("nvidia.com/gpu.deploy.dcgm-exporter", "false")
    world.label(value="2x3g.40gb")
    written: set[str] = set()
    await settle(world, agent_on(world)[0])
    for patch in world.node_writes:
        written |= set(patch["metadata"]["labels"])
    assert written == {labels.STATE, labels.DEVICE_PLUGIN}


async def test_a_deploy_label_that_somebody_changes_midway_is_theirs() -> None:
    world = _idle()
    partition, _ = agent_on(world)
    await partition()
    world.label("nvidia.com/gpu.deploy.dcgm-exporter", "false")
    await settle(world, partition)
    assert world.node["metadata"]["labels"]["nvidia.com/gpu.deploy.dcgm-exporter"] == "false"


@pytest.mark.parametrize(
    "pod_labels",
    [
        {"app": "nvidia-device-plugin-daemonset"},
        {"app.kubernetes.io/name": "nvidia-device-plugin"},
        {"name": "nvidia-device-plugin-ds"},
    ],
    ids=["operator", "chart", "manifest"],
)
async def test_the_plugin_is_known_by_the_labels_of_each_way_to_install_it(pod_labels: dict[str, str]) -> None:
    world = NodeWorld(h100(SEVEN), deploy_labels=False, plugin=False)
    plugin = world.add_pod("plugin", owner="DaemonSet", pod_labels=pod_labels, namespace="nvidia")
    world.label(value="2x3g.40gb")
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, RestartClient)
    assert [step.pod.uid for step in hands.taken if isinstance(step, RestartClient)] == [plugin]


async def test_the_node_stays_cordoned_where_that_is_asked_for() -> None:
    world = _idle()
    world.node["metadata"]["annotations"][labels.KEEP_CORDONED] = "true"
    await settle(world, agent_on(world)[0])
    assert world.node["spec"]["unschedulable"]
    assert _status(world)["state"] == "success"


async def test_no_change_begins_while_a_driver_is_replaced() -> None:
    world = _idle()
    world.label(labels.DRIVER_UPGRADE_STATE, "pod-restart-required")
    partition, hands = agent_on(world)
    await _turns(world, partition, 3)
    assert hands.taken == []
    assert _status(world)["reason"] == "driver-upgrade"
    world.label(labels.DRIVER_UPGRADE_STATE, "upgrade-done")
    await settle(world, partition)
    assert _status(world)["state"] == "success"


async def test_a_plugin_whose_next_pod_has_not_come_yet_is_no_plugin_that_does_not_run_here() -> None:
    """On a node that never had a slice, and that nobody labels for the plugin, its pod is all that tells of it."""
    world = NodeWorld(h100(), deploy_labels=False)
    world.tick()
    world.label(value="2x3g.40gb")
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, RestartClient)
    world.slow_daemonset = True
    await _turns(world, partition, 5)
    assert not world.uids("nvidia-device-plugin")
    assert world.reports[-1].waits_for == "not-advertised"
    world.slow_daemonset = False
    await settle(world, partition)
    assert _status(world)["state"] == "success"
    assert "neither" not in _status(world)["message"]


async def test_without_a_device_plugin_the_hardwares_word_counts_and_that_is_said() -> None:
    world = NodeWorld(h100(SEVEN), deploy_labels=False, plugin=False)
    world.label(value="2x3g.40gb")
    await settle(world, agent_on(world)[0])
    assert _status(world)["state"] == "success"
    assert "neither a device plugin nor a DRA driver runs here" in _status(world)["message"]


async def test_a_record_that_cannot_be_read_stops_everything_and_calls_a_human() -> None:
    world = _drained()
    world.node["metadata"]["annotations"][labels.OPERATION] = '{"id": 3}'
    partition, hands = agent_on(world)
    await _turns(world, partition, 20)
    assert hands.taken == []
    assert _status(world)["reason"] == "operation-unreadable"
    assert world.node["metadata"]["annotations"][labels.OPERATION] == '{"id": 3}'


async def test_a_slice_that_a_stranger_held_from_the_beginning_is_not_waited_for_midway() -> None:
    """What an evicted pod leaves behind goes by itself; a process that was there before has its slice left alone to the end."""
    world = NodeWorld(h100(SEVEN))
    uuid = next(iter(world.gpus.gpus))
    held = world.gpus.gpus[uuid].instances[5]
    world.strangers[uuid] = (GpuProcess(4711, held.id, 0, 1, "python"),)
    world.add_pod("goes", world.device(0, 0))
    world.add_pod("goes-too", world.device(0, 2))
    world.label(value="1x2g.20gb_5x1g.10gb")
    world.tick()
    await settle(world, agent_on(world)[0])
    assert _status(world)["state"] == "success"
    assert held in world.gpus.gpus[uuid].instances
    assert _status(world)["since"] - world.time < 60


async def test_a_dry_run_answers_in_the_annotation_and_touches_nothing() -> None:
    world = _drained()
    world.node["metadata"]["annotations"][labels.DRY_RUN] = "true"
    partition, hands = agent_on(world)
    await _turns(world, partition, 3)
    assert hands.taken == []
    answer = json.loads(world.node["metadata"]["annotations"][labels.PLAN])
    assert answer["pods"] == ["default/goes"]
    assert answer["gpus"][0]["create"] == ["3g.40gb@4:4"]
    del world.node["metadata"]["annotations"][labels.DRY_RUN]
    await settle(world, partition)
    assert labels.PLAN not in world.node["metadata"]["annotations"]


async def test_at_rest_nothing_is_written() -> None:
    world = _idle()
    partition, _ = agent_on(world)
    await settle(world, partition)
    writes, events = len(world.node_writes), len(world.events)
    await _turns(world, partition, 10, 60.0)
    assert (len(world.node_writes), len(world.events)) == (writes, events)


async def test_the_steps_on_the_hardware_are_shown_as_they_go_by() -> None:
    world = _drained()
    partition, _ = agent_on(world)
    await settle(world, partition)
    shown = [(len(report.steps), report.taken) for report in world.reports if report.steps]
    count = max(total for total, _ in shown)
    assert [taken for total, taken in shown if total == count] == [frozenset(range(number)) for number in range(count)]
    assert all(report.operation is not None and report.change is not None for report in world.reports if report.taken)
    assert (world.reports[-1].steps, world.reports[-1].operation) == ((), None)


async def test_a_change_that_waits_is_shown_with_the_whole_way_and_the_sentence() -> None:
    world = NodeWorld(h100(SEVEN))
    world.add_pod("goes", world.device(0, 5), pod_labels={"app": "web"})
    world.label(value="4x1g.10gb_1x3g.40gb")
    world.budgets_list = [
        {
            "metadata": {"name": "tight", "namespace": "default"},
            "spec": {"selector": {"matchLabels": {"app": "web"}}},
            "status": {"disruptionsAllowed": 0},
        }
    ]
    partition, _ = agent_on(world)
    await _turns(world, partition, 8)
    report = world.reports[-1]
    assert report.waits_for == "budget"
    assert "tight" in report.waits_message
    assert report.change is not None
    assert [ref.name for ref in report.change.moves] == ["goes"]


async def test_a_holder_is_shown_with_the_workload_that_people_know() -> None:
    world = NodeWorld(h100(SEVEN))
    uid = world.add_pod("web-7d9-x", world.device(0, 0), pod_labels={"pod-template-hash": "7d9"})
    world.pods[uid]["metadata"]["ownerReferences"][0]["name"] = "web-7d9"
    world.add_pod("alone", world.device(0, 1), owner="")
    world.add_pod("train-0", world.device(0, 2), owner="StatefulSet")
    world.add_pod("without-a-slice")
    partition, _ = agent_on(world)
    await partition()
    assert [(one.pod, one.kind, one.workload) for one in world.reports[-1].workloads] == [
        ("alone", "Pod", "alone"),
        ("train-0", "StatefulSet", "train-0-owner"),
        ("web-7d9-x", "Deployment", "web"),
    ]


async def test_while_the_kubelet_is_silent_the_report_keeps_who_held_what() -> None:
    """Else every slice would look free to whoever counts."""
    world = NodeWorld(h100(SEVEN))
    world.add_pod("stays", world.device(0, 1))
    partition, _ = agent_on(world)
    await partition()
    before = world.reports[-1]
    assert (before.owners_known, [owner.name for owner in before.owners]) == (True, ["stays"])
    world.kubelet_down = True
    await partition()
    after = world.reports[-1]
    assert (after.owners_known, after.owners, after.workloads) == (False, before.owners, before.workloads)
