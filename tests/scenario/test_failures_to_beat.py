"""What other MIG managers are known to do wrong, each as a story: one event, and the end that the node has here."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Coroutine
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from agent.model import labels
from agent.model.errors import HardwareError, RetryError
from agent.model.mig import GpuProcess
from agent.model.node import PodRef
from agent.model.steps import Begin, Create, Destroy, Pause, SetMode
from tests.fakes.simgpu import SimulatedGpus
from tests.fakes.world import Kill, Killed, NodeWorld, h100
from tests.scenario.story import Story

T = TypeVar("T")
SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
MIXED = [*SEVEN.split()[:4], "3g.40gb@4:4"]
HALVES = ["3g.40gb@0:4", "3g.40gb@4:4"]
SMALL, LARGE, WHOLE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb", "nvidia.com/gpu"


def _serving(**options: Any) -> NodeWorld:
    """Seven small slices; on the way to four and a large one a pod must go, another stays."""
    world = NodeWorld(h100(SEVEN), **options)
    world.add_pod("stays", world.device(0, 1))
    world.add_pod("goes", world.device(0, 5))
    return world


def _whole(index: int = 0) -> Any:
    return replace(h100(index=index), mig_enabled=False, mig_pending=False)


async def _refused(story: Story, layout: str) -> dict[str, Any]:
    """The status after a wish that cannot be: nothing but the agent's own words was written, and nobody was asked to go."""
    before = story.found()
    story.world.label(value=layout)
    await story.settled()
    assert story.found() == before
    assert (story.world.effects.names, story.hands.taken) == (["patch"], [])
    assert story.verdict[0] == "failed"
    return story.status


async def test_a_layout_that_does_not_fit_is_refused_with_the_gpu_as_it_was(tmp_path: Path) -> None:
    """Each of its profiles exists; no placement holds them together."""
    wish = "{too-much: [{devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2, 2g.20gb: 1}}]}"
    status = await _refused(Story(_serving(), tmp_path / "layouts.yaml", wish), "too-much")
    assert status["reason"] == "no-placement"
    assert "2x3g.40gb, 1x2g.20gb do not fit together on NVIDIA H100 80GB HBM3 (GPU 0)" in status["message"]


async def test_a_profile_of_another_board_is_refused_and_is_no_success(tmp_path: Path) -> None:
    """Also where another entry of the layout could be made."""
    entries = (
        "{devices: [0], mig-enabled: true, mig-devices: {3g.40gb: 2}}, {devices: [1], mig-enabled: true, mig-devices: "
    )
    wish = f"{{other-board: [{entries} {{3g.71gb: 2}}}}]}}"
    world = NodeWorld(h100(SEVEN), h100(SEVEN, index=1))
    status = await _refused(Story(world, tmp_path / "layouts.yaml", wish), "other-board")
    assert status["reason"] == "unknown-profile"
    assert "(GPU 1) has no profile 3g.71gb; it has 1g.10gb" in status["message"]


async def test_beside_a_slice_in_use_the_idle_ones_stay_until_there_is_a_way_around_it() -> None:
    """Its holder is outside every pod: nobody can ask it to go."""
    story = Story(NodeWorld(h100(SEVEN)))
    uuid, gpu = next(iter(story.world.gpus.gpus.items()))
    story.world.strangers[uuid] = (GpuProcess(4711, gpu.instances[3].id, 0, 1, "python"),)
    story.world.label(value="2x3g.40gb")
    story.world.tick()
    before = story.found()
    await story.turns(60, 30.0)
    assert story.found() == before
    assert story.hands.taken == []
    assert story.verdict == ("pending", "blocked")
    assert "process 4711 (python) outside any pod on GPU 0" in story.status["message"]
    story.world.label(value="1x3g.40gb_4x1g.10gb")
    await story.settled()
    assert (story.layout, story.verdict) == ([MIXED], ("success", "applied"))
    assert story.found().slices[0, "1g.10gb@3:1"] == before.slices[0, "1g.10gb@3:1"]


async def test_a_change_of_mode_on_one_gpu_touches_no_slice_of_another() -> None:
    """Every holder of that GPU has to go, and every client stops, since any of them may keep the mode from changing."""
    world = NodeWorld(h100("3g.40gb@0:4 2g.20gb@4:2"), _whole(1))
    world.label("nvidia.com/gpu.deploy.gpu-feature-discovery", "true")
    other = world.add_pod("other", world.device(0, 0))
    changed = list(world.gpus.gpus)[1]
    world.add_pod("whole", changed)
    world.label(value="1x3g.40gb_1x2g.20gb")
    story = Story(world)
    before = story.found()
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert [step.gpu for step in story.hands.taken if isinstance(step, SetMode)] == [changed]
    assert {uuid for _, uuid, _, _ in world.gpus.log} == {changed}
    assert before.slices.items() <= story.found().slices.items()
    assert (world.uids("whole"), world.uids("other")) == ([], [other])
    paused = next(p for p in world.node_writes if labels.PAUSED in p["metadata"]["labels"].values())
    assert paused["metadata"]["labels"]["nvidia.com/gpu.deploy.gpu-feature-discovery"] == labels.PAUSED
    assert (story.found().labels, story.found().cordoned) == (before.labels, False)


class _Stumbling(NodeWorld):
    """Its API server answers one request with HTTP 500: it has done what was asked, or has not."""

    def __init__(self, number: int, done: bool, deploy_labels: bool) -> None:
        super().__init__(h100(SEVEN), deploy_labels=deploy_labels)
        self.asked = 0
        self._number, self._done = number, done

    async def patch_node(self, name: str, patch: dict[str, Any]) -> dict[str, Any]:
        return await self._answer(super().patch_node(name, patch))

    async def evict(self, pod: PodRef) -> None:
        await self._answer(super().evict(pod))

    async def delete_pod(self, pod: PodRef) -> None:
        await self._answer(super().delete_pod(pod))

    async def budgets(self) -> list[dict[str, Any]]:
        return await self._answer(super().budgets())

    async def _answer(self, request: Coroutine[None, None, T]) -> T:
        self.asked += 1
        if self.asked != self._number:
            return await request
        if self._done:
            await request
        request.close()
        raise RetryError("HTTP 500")


@pytest.mark.parametrize("deploy_labels", [True, False])
@pytest.mark.parametrize("done", [True, False])
async def test_one_http_500_anywhere_in_a_change_leaves_no_client_paused(done: bool, deploy_labels: bool) -> None:
    """Each request of the change fails once, those while pods and clients are waited for among them."""
    for number in itertools.count(1):
        world = _Stumbling(number, done, deploy_labels)
        world.add_pod("goes", world.device(0, 5))
        story = Story(world)
        before = story.found()
        world.label(value="4x1g.10gb_1x3g.40gb")
        await story.turns(60)
        assert (story.layout, story.verdict) == ([MIXED], ("success", "applied"))
        after = story.found()
        assert (after.labels, after.annotations, after.cordoned) == (before.labels, before.annotations, False)
        assert after.advertised == {SMALL: 4, LARGE: 1}
        if world.asked < number:
            break
    assert number > 5


async def test_a_failure_after_an_earlier_success_of_the_same_process_gives_the_clients_back() -> None:
    story = Story(NodeWorld(h100()))
    story.world.label(value="7x1g.10gb")
    await story.settled()
    assert story.verdict == ("success", "applied")
    before = story.found()
    for place in ("0:4", "4:4"):
        story.world.gpus.failures["3g.40gb", place] = HardwareError("Insufficient Resources")
    story.world.label(value="2x3g.40gb")
    await story.turns(20)
    assert any(isinstance(step, Destroy) for step in story.hands.taken)
    assert story.verdict == ("failed", "rolled-back")
    after = story.found()
    assert story.layout == [SEVEN.split()]
    assert replace(after, slices={}) == replace(before, slices={})


async def test_an_instance_that_a_crash_left_without_compute_is_no_success_and_leaks_nothing() -> None:
    """Whoever left it there, and though every slice that is asked for exists: no MIG device shows it, but its memory is gone."""
    gpu = h100("3g.40gb@0:4 1g.10gb@5:1")
    orphan = replace(gpu.instances[1], compute=())
    world = NodeWorld(replace(gpu, instances=(gpu.instances[0], orphan)))
    serving = world.add_pod("serving", world.device(0, 0))
    story = Story(world)
    before = story.found()
    world.label(value="1x3g.40gb")
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert story.found().slices == {(0, "3g.40gb@0:4"): before.slices[0, "3g.40gb@0:4"]}
    assert world.uids("serving") == [serving]
    world.label(value="2x3g.40gb")
    await story.settled()
    assert (story.layout, world.uids("serving")) == ([HALVES], [serving])


async def _rests(story: Story) -> None:
    """An agent that starts anew finds everything done: it writes nothing, and no client is stopped."""
    before, effects, plugin = story.found(), len(story.world.effects.names), story.world.uids("nvidia-device-plugin")
    for _ in range(3):
        story.restart()
        await story.turns(5, 60.0)
        assert story.hands.taken == []
    assert story.found() == before
    assert len(story.world.effects.names) == effects
    assert story.world.uids("nvidia-device-plugin") == plugin


async def test_a_gpu_that_no_entry_names_is_left_alone_and_the_agent_rests_at_each_start(tmp_path: Path) -> None:
    world = NodeWorld(h100(SEVEN), h100("2g.20gb@2:2", index=1))
    story = Story(
        world, tmp_path / "layouts.yaml", "{first: [{devices: [0], mig-enabled: true, mig-devices: {3g.40gb: 2}}]}"
    )
    world.label(value="first")
    await story.settled()
    assert (story.layout, story.verdict) == ([HALVES, ["2g.20gb@2:2"]], ("success", "applied"))
    await _rests(story)


async def test_an_entry_with_a_count_of_zero_asks_for_nothing_and_is_applied_once(tmp_path: Path) -> None:
    entry = "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 0, 3g.40gb: 2}}"
    story = Story(NodeWorld(h100(SEVEN)), tmp_path / "layouts.yaml", f"{{halves: [{entry}]}}")
    story.world.label(value="halves")
    await story.settled()
    assert (story.layout, story.verdict) == ([HALVES], ("success", "applied"))
    await _rests(story)


async def test_a_label_deleted_in_mid_change_asks_for_nothing_more_and_brings_the_old_layout_back() -> None:
    story = Story(_serving())
    before = story.found()
    story.world.label(value="4x1g.10gb_1x3g.40gb")
    await story.until_taken(Create)
    story.world.label(value=None)
    await story.settled()
    assert (story.layout, story.verdict) == ([SEVEN.split()], ("failed", "withdrawn"))
    after = story.found()
    assert (after.labels, after.annotations, after.cordoned) == (before.labels, before.annotations, False)
    assert after.advertised == before.advertised
    await _rests(story)


async def test_a_change_that_failed_is_made_once_the_driver_can_and_nobody_touches_the_label() -> None:
    world = NodeWorld(h100(SEVEN))
    for place in ("0:4", "4:4"):
        world.gpus.failures["3g.40gb", place] = HardwareError("Insufficient Resources")
    world.label(value="2x3g.40gb")
    story = Story(world)
    await story.until_said("failed", "rolled-back")
    assert story.layout == [SEVEN.split()]
    world.gpus.failures.clear()
    failed = world.time
    story.restart()
    await story.until_said("success", "applied")
    assert 25 < world.time - failed < 60
    assert (story.layout, len([step for step in story.hands.taken if isinstance(step, Begin)])) == ([HALVES], 1)


async def test_an_edit_under_the_same_name_takes_effect_and_moves_only_who_is_in_its_way(tmp_path: Path) -> None:
    entry = "{day: [{devices: all, mig-enabled: true, mig-devices: %s}]}"
    story = Story(_serving(), tmp_path / "layouts.yaml", entry % "{1g.10gb: 7}")
    stays = story.world.uids("stays")
    story.world.label(value="day")
    await story.settled()
    assert (story.verdict, story.hands.taken) == (("success", "applied"), [])
    story.edit(entry % "{1g.10gb: 4, 3g.40gb: 1}")
    await story.settled()
    assert (story.layout, story.verdict) == ([MIXED], ("success", "applied"))
    assert (story.world.uids("stays"), story.world.uids("goes")) == (stays, [])
    story.edit("{night: []}")
    await story.settled()
    assert (story.layout, story.verdict[0]) == ([MIXED], "failed")


async def test_a_crash_in_mid_change_is_ended_by_the_next_start_though_the_wish_has_gone_meanwhile() -> None:
    """What was paused, cordoned and taken apart stands in the record on the node; so does how it was before."""
    story = Story(_serving())
    before, world = story.found(), story.world
    world.label(value="4x1g.10gb_1x3g.40gb")
    await story.until_taken(Pause)
    world.effects.kill = Kill(len(world.effects.names) + 2, "before")
    with pytest.raises(Killed):
        await story.turns(20)
    dead = story.found()
    assert dead.cordoned
    assert labels.PAUSED in dead.labels.values()
    assert len(dead.slices) == 5
    world.effects.kill = None
    world.label(value=None)
    world.tick(3600.0)
    story.restart()
    await story.settled()
    after = story.found()
    assert (story.layout, story.verdict) == ([SEVEN.split()], ("failed", "withdrawn"))
    assert (after.labels, after.annotations, after.cordoned) == (before.labels, before.annotations, False)
    assert after.advertised == before.advertised
    assert after.slices[0, "1g.10gb@1:1"] == before.slices[0, "1g.10gb@1:1"]


_RECORDING = """
import json, runpy, sys
REACHES = {"subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn", "os.system", "socket.connect", "ctypes.dlopen"}
record = open(sys.argv[1], "w", buffering=1)
tell = lambda event, about: print(json.dumps([event, about], default=repr), file=record)
sys.addaudithook(lambda event, about: event in REACHES and tell(event, about[1] if len(about) > 1 else about[0]))
sys.argv[:] = sys.argv[2:]
runpy.run_module("agent", run_name="__main__", alter_sys=True)
"""
"""Runs the agent, and writes down which programs it starts, which sockets it calls and which libraries it loads."""


def test_on_a_host_without_systemd_and_dbus_a_mode_is_changed_as_on_any_other(tmp_path: Path) -> None:
    """Where others stop host services, here a reset is all that is started, and NVML all that is called: another client, which
    keeps the reset from happening, is waited for.
    """
    gpus = SimulatedGpus.create(tmp_path, "A100-SXM4-40GB")
    record = tmp_path / "record"
    os.mkfifo(record)
    command = [sys.executable, "-c", _RECORDING, str(record), "warmslice", "apply", "2x3g.20gb", "--timeout-seconds=30"]
    command += [f"--state-directory={tmp_path}/state", f"--pod-resources-socket={tmp_path}/none/kubelet.sock"]
    environment = {"PATH": str(gpus.paths.nvidia_smi.parent), **gpus.env()}
    reached: list[list[Any]] = []
    with ExitStack() as busy:
        busy.enter_context(gpus.other_client())
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as agent,
            record.open() as lines,
        ):
            while not reached or reached[-1][0] != "subprocess.Popen":
                reached.append(json.loads(next(lines)))
            busy.close()
            reached += map(json.loads, lines)
            said, _ = agent.communicate(timeout=60)
    assert (agent.returncode, said.splitlines()[-1][:5]) == (0, "done:")
    assert {library for event, library in reached if event == "ctypes.dlopen"} == {None, "libnvidia-ml.so.1"}
    deeds = [about for event, about in reached if event != "ctypes.dlopen"]
    assert deeds == [["nvidia-smi", "--gpu-reset", "-i", gpus.gpu_uuids()[0]]] * len(deeds)


@pytest.mark.parametrize("deploy_labels", [True, False])
async def test_while_the_node_shows_the_old_resources_a_layout_is_no_success(deploy_labels: bool) -> None:
    """The plugin runs and tells the kubelet nothing new; the GPUs have had the layout for long."""
    story = Story(_serving(deploy_labels=deploy_labels))
    before, world = story.found(), story.world
    world.freeze_plugin = True
    world.label(value="4x1g.10gb_1x3g.40gb")
    await story.turns(40, 5.0)
    assert (story.layout, story.verdict) == ([MIXED], ("pending", "not-advertised"))
    shown = "no GPU resource" if deploy_labels else "7 nvidia.com/mig-1g.10gb"
    assert shown in story.status["message"]
    await story.turns(60, 5.0)
    after = story.found()
    assert story.verdict == ("failed", "not-advertised")
    assert (after.labels, after.annotations, after.cordoned) == (before.labels, before.annotations, False)
    world.freeze_plugin = False
    story.restart()
    await story.settled()
    assert (story.layout, story.verdict) == ([MIXED], ("success", "applied"))
    assert story.found().advertised == {SMALL: 4, LARGE: 1}
    assert not any(isinstance(step, Destroy | Create) for step in story.hands.taken)


def _new_node(**pod: Any) -> Story:
    """A node that has just come up with its label: the first pod took the whole GPU before the agent saw it."""
    world = NodeWorld(_whole(), deploy_labels=False)
    world.add_pod("early", next(iter(world.gpus.gpus)), pod_labels={"app": "early"}, **pod)
    world.label(value="1x3g.40gb_4x1g.10gb")
    return Story(world)


async def test_a_pod_that_landed_on_the_whole_gpu_is_moved_by_its_budget_and_then_the_layout_is_made() -> None:
    story = _new_node()
    budget = {
        "metadata": {"name": "serving", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "early"}}},
        "status": {"disruptionsAllowed": 0},
    }
    story.world.budgets_list = [budget]
    await story.turns(20)
    assert story.verdict == ("pending", "budget")
    assert (story.found().modes, len(story.world.uids("early"))) == ((False,), 1)
    budget["status"] = {"disruptionsAllowed": 1}
    await story.settled()
    assert (story.layout, story.verdict) == ([MIXED], ("success", "applied"))
    assert (story.world.uids("early"), story.found().advertised) == ([], {SMALL: 4, LARGE: 1})


async def test_one_that_cannot_be_moved_keeps_the_whole_gpu_until_it_ends_and_is_named() -> None:
    story = _new_node(owner="")
    before = story.found()
    await story.turns(10, 60.0)
    assert (story.found(), story.hands.taken) == (before, [])
    assert story.verdict == ("pending", "blocked")
    assert "default/early (no controller would start it again" in story.status["message"]
    del story.world.pods[story.world.uids("early")[0]]
    story.world.devices.clear()
    await story.settled()
    assert (story.layout, story.verdict) == ([MIXED], ("success", "applied"))


async def test_with_single_a_layout_that_leaves_a_gpu_without_slices_is_refused(tmp_path: Path) -> None:
    """The device plugin would not start on it; with ``mixed`` the same layout is made."""
    entry = "{devices: [%d], mig-enabled: true, mig-devices: {%s}}"
    wish = f"{{gap: [{entry % (0, '1g.10gb: 7')}, {entry % (1, '')}]}}"
    world = NodeWorld(h100(SEVEN), h100(SEVEN, index=1), strategy="single")
    story = Story(world, tmp_path / "layouts.yaml", wish)
    status = await _refused(story, "gap")
    assert status["reason"] == "single-strategy"
    assert "GPU 1 would be in MIG mode without a slice" in status["message"]
    assert (story.found().advertised, world.plugin_crashes) == ({WHOLE: 14}, [])
    world.label(labels.STRATEGY, "mixed")
    await story.settled()
    assert (story.layout, story.verdict) == ([SEVEN.split(), []], ("success", "applied"))
    assert (story.found().advertised, world.plugin_crashes) == ({SMALL: 7}, [])
