"""MIG modes that no reset brings: one reboot brings them all, by command or by a human, or the old layout stays whole.

See Note [What only a reboot brings] in agent/model/reboot.py.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import pytest

from agent.model import labels
from agent.model.errors import ConflictError, HardwareError, RefusedError
from agent.model.mig import Gpu, GpuProcess
from agent.model.operation import Operation
from agent.model.steps import AnnounceReboot, Begin, Evict, Reboot, Turn
from agent.plan.way import Policy
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import Kill, Killed, NodeWorld, Steps, agent_on, cut, h100, settle

A100 = "A100-SXM4-40GB"
HALVES = ["3g.20gb@0:4", "3g.20gb@4:4"]
COMMANDED = Policy(reboots=True, reboot_seconds=600.0)


def off(index: int = 0) -> Gpu:
    """An A100 outside MIG."""
    return replace(cut(A100, "", index), mig_enabled=False, mig_pending=False)


def guest(*gpus: Gpu, wish: str | None = "2x3g.20gb") -> NodeWorld:
    """A virtual machine to which its GPUs are passed through."""
    world = NodeWorld(*(gpus or (off(),)))
    world.gpus.guest = True
    world.label(value=wish)
    return world


def status_of(world: NodeWorld) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.node["metadata"]["annotations"].get(labels.STATUS, "{}"))
    return found


def verdict(world: NodeWorld) -> tuple[str, str]:
    assert world.node["metadata"]["labels"].get(labels.STATE) == status_of(world)["state"]
    return status_of(world)["state"], status_of(world)["reason"]


def layout(world: NodeWorld, gpu: int = 0) -> list[str]:
    found = list(world.gpus.gpus.values())[gpu]
    return [str(slot) for slot in found.layout] if found.mig_enabled else ["off"]


def pending(world: NodeWorld) -> list[bool | None]:
    return [gpu.mig_pending for gpu in world.gpus.gpus.values()]


def record(world: NodeWorld) -> Operation:
    return Operation.from_json(world.node["metadata"]["annotations"][labels.OPERATION])


def given_back(world: NodeWorld) -> bool:
    metadata = world.node["metadata"]
    paused = labels.PAUSED in metadata["labels"].values()
    guarded = set(metadata["annotations"]) & {labels.OPERATION, *labels.AUTOSCALER_GUARDS}
    return not (paused or guarded or world.node["spec"].get("unschedulable"))


def count(hands: Steps, kind: type) -> int:
    return sum(isinstance(step, kind) for step in hands.taken)


async def turns(world: NodeWorld, partition: PartitionPass, number: int, seconds: float = 5.0) -> None:
    for _ in range(number):
        await partition()
        world.tick(seconds)


async def until_rebooting(world: NodeWorld, partition: PartitionPass) -> None:
    """The machine does not go, and the agent waits for that."""
    for _ in range(40):
        await partition()
        if verdict(world)[0] == "rebooting" and record(world).reboot is not None:
            return
        world.tick()
    raise AssertionError(status_of(world))


# -- without a command -------------------------------------------------------------------------------------------------


async def test_without_a_command_a_human_is_told_to_reboot_and_the_node_is_given_back() -> None:
    world = guest()
    await settle(world, agent_on(world)[0])
    assert verdict(world) == ("failed", "reboot-required")
    message = status_of(world)["message"]
    assert message.startswith(
        "GPU 0: MIG on is pending and comes into force at the next reboot of this machine: reboot it"
    )
    assert (layout(world), pending(world)) == (["off"], [True])
    assert (status_of(world)["attempts"], status_of(world)["next_try"]) == (0, None)
    assert given_back(world)


async def test_what_else_was_said_meanwhile_makes_nobody_forget_it() -> None:
    world = guest()
    partition, hands = agent_on(world)
    await settle(world, partition)
    hands.taken.clear()
    world.label(labels.DRIVER_UPGRADE_STATE, "pod-restart-required")
    await turns(world, partition, 3)
    assert verdict(world) == ("pending", "driver-upgrade")
    world.label(labels.DRIVER_UPGRADE_STATE, "upgrade-done")
    await turns(world, partition, 3)
    assert verdict(world) == ("failed", "reboot-required")
    assert hands.taken == []
    world.label(value=None)
    await settle(world, partition)
    assert pending(world) == [False]


async def test_nobody_is_drained_again_in_that_boot() -> None:
    """Before, every try evicted the GPU's pods anew, for ever."""
    world = guest()
    world.add_pod("whole", next(iter(world.gpus.gpus)))
    partition, hands = agent_on(world)
    await settle(world, partition)
    assert count(hands, Evict) == 1
    writes, events = len(world.node_writes), len(world.events)
    hands.taken.clear()
    for _ in range(3):
        world.add_pod("again", next(iter(world.gpus.gpus)))
        await turns(world, partition, 5, 3600.0)
        partition, hands = agent_on(world)
    assert (hands.taken, len(world.node_writes), len(world.events)) == ([], writes, events)
    assert "Drift" not in {event["reason"] for event in world.events}


async def test_after_a_humans_reboot_it_goes_on_by_itself_and_at_once() -> None:
    world = guest()
    await settle(world, agent_on(world)[0])
    world.tick(10.0)
    world.reboot()
    begun = world.time
    await settle(world, agent_on(world)[0])
    assert verdict(world) == ("success", "applied")
    assert layout(world) == HALVES
    assert status_of(world).get("reboot") is None
    assert world.time - begun < 30


async def test_one_reboot_brings_the_modes_of_all_gpus() -> None:
    world = guest(off(), off(1), off(2))
    await settle(world, agent_on(world)[0])
    assert pending(world) == [True, True, True]
    assert "GPU 0, 1, 2: MIG on is pending" in status_of(world)["message"]
    world.reboot()
    await settle(world, agent_on(world)[0])
    assert verdict(world)[0] == "success"
    assert [layout(world, number) for number in range(3)] == [HALVES] * 3


async def test_nothing_is_made_that_the_reboot_would_take() -> None:
    world = guest(cut(A100, ""), off(1))
    await settle(world, agent_on(world)[0])
    assert world.gpus.log == []


async def test_slices_that_had_to_go_come_back_where_they_were() -> None:
    world = guest(cut(A100, "1g.5gb@2:1 3g.20gb@4:4"), wish="disabled")
    await settle(world, agent_on(world)[0])
    assert verdict(world) == ("failed", "reboot-required")
    assert "GPU 0: MIG off is pending" in status_of(world)["message"]
    assert (layout(world), pending(world)) == (["1g.5gb@2:1", "3g.20gb@4:4"], [False])
    world.reboot()
    await settle(world, agent_on(world)[0])
    assert (verdict(world)[0], layout(world)) == ("success", ["off"])


@pytest.mark.parametrize(
    ("wish", "state", "reason"), [(None, "failed", "withdrawn"), ("disabled", "success", "applied")]
)
async def test_a_mode_left_pending_goes_with_its_wish(wish: str | None, state: str, reason: str) -> None:
    """Else a reboot weeks later would take the GPU from its pods."""
    world = guest()
    partition, hands = agent_on(world)
    await settle(world, partition)
    holder = world.add_pod("holder", next(iter(world.gpus.gpus)))
    world.label(value=wish)
    await settle(world, partition)
    assert pending(world) == [False]
    assert verdict(world) == (state, reason)
    assert status_of(world).get("reboot") is None
    assert given_back(world)
    assert holder in world.pods
    hands.taken.clear()
    await turns(world, partition, 5, 400.0)
    assert hands.taken == []


async def test_a_pending_mode_of_somebody_else_is_left_alone_where_nothing_is_asked() -> None:
    world = guest(replace(off(), mig_pending=True), wish=None)
    partition, hands = agent_on(world)
    await turns(world, partition, 3)
    assert (hands.taken, pending(world)) == ([], [True])


async def test_another_wish_is_tried_though_the_first_waits_for_a_reboot() -> None:
    world = guest()
    partition, hands = agent_on(world)
    await settle(world, partition)
    hands.taken.clear()
    world.label(value="1x7g.40gb")
    await settle(world, partition)
    assert count(hands, Begin) == 1
    assert (verdict(world), status_of(world)["layout"]) == (("failed", "reboot-required"), "1x7g.40gb")


async def test_a_mode_that_somebody_called_off_is_asked_again() -> None:
    """The next reboot would not bring it any more."""
    world = guest()
    partition, hands = agent_on(world)
    await settle(world, partition)
    uuid = next(iter(world.gpus.gpus))
    world.gpus.gpus[uuid] = replace(world.gpus.gpus[uuid], mig_pending=False)
    hands.taken.clear()
    await settle(world, partition)
    assert count(hands, Begin) == 1
    assert pending(world) == [True]


async def test_withdrawn_on_the_way_back_the_pending_mode_is_called_off() -> None:
    world = guest()
    partition, hands = agent_on(world)
    while not any(isinstance(step, Turn) and step.operation.failure for step in hands.taken):
        await partition()
        world.tick()
    world.label(value=None)
    await settle(world, partition)
    assert (verdict(world), pending(world)) == (("failed", "withdrawn"), [False])


async def test_a_mode_left_pending_is_not_how_the_next_change_found_the_gpu() -> None:
    """Else the way back from a second wish would leave it pending, for nobody."""
    world = guest()
    partition, hands = agent_on(world)
    await settle(world, partition)
    world.label(value="1x7g.40gb")
    hands.taken.clear()
    while not count(hands, Begin):
        await partition()
    world.label(value=None)
    await settle(world, partition)
    assert (verdict(world), pending(world)) == (("failed", "withdrawn"), [False])


async def test_a_reboot_while_it_goes_back_is_as_good_as_one_after() -> None:
    world = guest()
    partition, hands = agent_on(world)
    while not any(isinstance(step, Turn) and step.operation.failure for step in hands.taken):
        await partition()
        world.tick()
    world.reboot()
    partition, hands = agent_on(world)
    await settle(world, partition)
    assert (verdict(world)[0], layout(world)) == ("success", HALVES)
    assert count(hands, Begin) == 0
    assert given_back(world)


# -- with a command ----------------------------------------------------------------------------------------------------


async def test_the_command_brings_the_mode_and_the_cordon_stays_over_the_reboot() -> None:
    world = guest(off(), off(1))
    partition, _ = agent_on(world, COMMANDED)
    cordons: list[bool] = []
    world.effects.then["reboot_command"] = lambda: cordons.append(bool(world.node["spec"].get("unschedulable")))
    await settle(world, partition)
    assert world.effects.names.count("reboot_command") == 1
    assert (verdict(world), world.boot.id) == (("success", "applied"), "boot-2")
    assert [layout(world, number) for number in range(2)] == [HALVES] * 2
    assert cordons == [True]
    assert given_back(world)
    uncordoned = [write for write in world.node_writes if write.get("spec") == {"unschedulable": None}]
    assert uncordoned == [world.node_writes[-1]]
    said = [event["reason"] for event in world.events]
    assert "Rebooting" in said


async def test_the_intent_is_on_the_node_before_the_command_runs() -> None:
    world = guest()
    seen: list[tuple[str, str]] = []

    def look() -> None:
        reboot = record(world).reboot
        assert reboot is not None
        seen.append((reboot.asked_in, verdict(world)[0]))

    world.on_reboot_command = look
    await until_rebooting(world, agent_on(world, COMMANDED)[0])
    assert seen == [("boot-1", "rebooting")]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_node_that_the_kubelet_writes_meanwhile_has_the_command_run_once(fails: bool) -> None:
    """A command that drains the node takes minutes, and what came of it is then decided on an old version of the node."""
    world = guest()

    def slow() -> None:
        world._bump()
        if fails:
            raise RefusedError("reboot_command drain: exit code 1")

    world.on_reboot_command = slow
    partition, _ = agent_on(world, COMMANDED)
    for _ in range(20):
        with contextlib.suppress(ConflictError):
            await partition()
        world.tick(0.5)
    assert world.effects.names.count("reboot_command") == 1
    assert verdict(world) == (("failed", "reboot-failed") if fails else ("rebooting", "rebooting"))


async def test_while_the_machine_has_not_gone_the_command_is_not_run_again() -> None:
    world = guest()
    world.on_reboot_command = lambda: None
    partition, _ = agent_on(world, COMMANDED)
    await until_rebooting(world, partition)
    await turns(world, partition, 10, 20.0)
    await turns(world, agent_on(world, COMMANDED)[0], 10, 20.0)
    assert world.effects.names.count("reboot_command") == 1
    assert verdict(world) == ("rebooting", "rebooting")
    world.kubelet_down = True  # as it is when the machine shuts down
    await turns(world, partition, 5, 5.0)
    assert verdict(world) == ("rebooting", "rebooting")


async def test_killed_before_it_wrote_that_the_command_ran_the_next_start_runs_it() -> None:
    """Whether it ran is not known then, and a boot ends only once."""
    world = guest()
    world.on_reboot_command = lambda: None
    number = _number_of("reboot_command")
    world.effects.kill = Kill(number, "before")
    with pytest.raises(Killed):
        await until_rebooting(world, agent_on(world, COMMANDED)[0])
    world.effects.kill = None
    await turns(world, agent_on(world, COMMANDED)[0], 3)
    assert world.effects.names.count("reboot_command") == 2


def _number_of(effect: str) -> int:
    """Which effect of the plain story that is."""
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    world = guest()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lambda: asyncio.run(settle(world, agent_on(world, COMMANDED)[0]))).result()
    return world.effects.names.index(effect)


async def test_a_machine_that_does_not_go_ends_failed_and_nobody_is_drained_again_in_that_boot() -> None:
    """The command worked: the machine may go at any moment, or in tonight's window."""
    world = guest()
    world.on_reboot_command = lambda: None
    partition, hands = agent_on(world, COMMANDED)
    await until_rebooting(world, partition)
    asked = world.time
    while verdict(world)[0] != "failed":
        await partition()
        world.tick(5.0)
    assert verdict(world) == ("failed", "reboot-failed")
    assert 600 <= world.time - asked < 700
    assert "has not gone 600 s after reboot_command" in status_of(world)["message"]
    assert pending(world) == [True]
    assert given_back(world)
    said = status_of(world)["message"]
    for _ in range(20):
        await partition()
        world.tick(600.0)
    assert (verdict(world), count(hands, Begin)) == (("failed", "reboot-failed"), 1)
    assert status_of(world)["message"] == said
    world.reboot()
    await settle(world, agent_on(world, COMMANDED)[0])
    assert (verdict(world)[0], layout(world)) == ("success", HALVES)


async def test_a_wish_set_anew_asks_for_the_reboot_anew() -> None:
    world = guest()
    world.on_reboot_command = lambda: None
    partition, _ = agent_on(world, Policy(reboots=True, reboot_seconds=30.0))
    await turns(world, partition, 30)
    assert verdict(world) == ("failed", "reboot-failed")
    world.on_reboot_command = world._go_soon
    world.label(value=None)
    await turns(world, partition, 10)
    assert pending(world) == [False]
    world.label(value="2x3g.20gb")
    await settle(world, partition)
    assert (verdict(world)[0], layout(world)) == ("success", HALVES)


async def test_a_machine_that_goes_late_is_met_by_an_agent_that_goes_on() -> None:
    world = guest()
    world.on_reboot_command = lambda: None
    partition, _ = agent_on(world, Policy(reboots=True, reboot_seconds=30.0))
    await turns(world, partition, 200)
    assert verdict(world) == ("failed", "reboot-failed")
    world.reboot()
    gone = world.time
    await settle(world, agent_on(world, COMMANDED)[0])
    assert (verdict(world)[0], layout(world)) == ("success", HALVES)
    assert world.time - gone < 30
    assert world.effects.names.count("reboot_command") == 1


async def test_a_command_that_fails_is_named_and_the_node_given_back() -> None:
    world = guest()

    def fails() -> None:
        raise RefusedError("reboot_command systemctl reboot: exit code 1: Access denied")

    world.on_reboot_command = fails
    partition, _ = agent_on(world, COMMANDED)
    for _ in range(30):
        await partition()
        world.tick(0.5)
    assert verdict(world) == ("failed", "reboot-failed")
    assert "exit code 1: Access denied" in status_of(world)["message"]
    assert (status_of(world)["attempts"], pending(world)) == (1, [True])
    assert given_back(world)


@pytest.mark.parametrize("stubborn", [True, False], ids=["still pending", "forgotten"])
async def test_a_reboot_that_does_not_help_is_not_asked_for_again(stubborn: bool) -> None:
    world = guest(cut(A100, "3g.20gb@4:4"), off(1), wish=None)
    world.gpus.stubborn, world.gpus.forgetful = stubborn, not stubborn
    world.label(value="2x3g.20gb")
    for _ in range(3):
        partition, _ = agent_on(world, COMMANDED)
        await settle(world, partition)
        assert verdict(world) == ("failed", "reboot-did-not-help")
        assert "GPU 1: MIG on is not in force after a reboot" in status_of(world)["message"]
        assert layout(world) == ["3g.20gb@4:4"]
        assert pending(world) == [True, False]
        assert given_back(world)
        assert world.effects.names.count("reboot_command") == 1
        world.tick(4000.0)
    world.label(value="1x7g.40gb")
    await settle(world, partition)
    assert world.effects.names.count("reboot_command") == 2


async def test_a_mode_that_comes_after_all_is_made_use_of() -> None:
    world = guest()
    world.gpus.forgetful = True
    partition, _ = agent_on(world, COMMANDED)
    await settle(world, partition)
    assert verdict(world)[1] == "reboot-did-not-help"
    uuid = next(iter(world.gpus.gpus))
    world.gpus.gpus[uuid] = replace(world.gpus.gpus[uuid], mig_enabled=True, mig_pending=True)
    await settle(world, partition)
    assert (verdict(world)[0], layout(world)) == ("success", HALVES)


async def test_reboots_that_come_late_and_do_not_help_end_too() -> None:
    """Each of them would else look like the first."""
    world = guest()
    world.gpus.forgetful = True
    world.on_reboot_command = lambda: None
    for _ in range(6):
        partition, _ = agent_on(world, Policy(reboots=True, reboot_seconds=30.0))
        for _ in range(20):
            await partition()
            world.tick(5.0)
        world.reboot()
    await settle(world, agent_on(world, COMMANDED)[0])
    assert world.effects.names.count("reboot_command") <= 2
    assert verdict(world) == ("failed", "reboot-did-not-help")


async def test_withdrawn_while_the_machine_goes_the_mode_is_called_off() -> None:
    world = guest()
    world.on_reboot_command = lambda: None
    partition, _ = agent_on(world, COMMANDED)
    await until_rebooting(world, partition)
    world.label(value=None)
    await settle(world, partition)
    assert (verdict(world), pending(world)) == (("failed", "withdrawn"), [False])
    assert given_back(world)


async def test_withdrawn_after_the_reboot_the_old_mode_comes_with_the_next_one() -> None:
    """Nothing else brings it back, and a node is not kept cordoned for that."""
    world = guest()
    partition, hands = agent_on(world, COMMANDED)
    while world.boot.id == "boot-1":
        await partition()
        world.tick()
    world.label(value=None)
    await settle(world, agent_on(world, COMMANDED)[0])
    assert verdict(world) == ("failed", "withdrawn")
    assert (layout(world), pending(world)) == ([], [False])
    assert given_back(world)
    assert world.effects.names.count("reboot_command") == 1
    assert count(hands, Reboot) == count(hands, AnnounceReboot) == 1


async def test_a_command_that_is_set_later_is_used() -> None:
    world = guest()
    await settle(world, agent_on(world)[0])
    await settle(world, agent_on(world, COMMANDED)[0])
    assert (verdict(world)[0], layout(world)) == ("success", HALVES)


@pytest.mark.parametrize("still_guest", [True, False])
async def test_a_failure_after_the_reboot_is_tried_again_later_not_at_once(still_guest: bool) -> None:
    """The mode of before comes back only with another reboot, or at once where the machine can reset its GPUs by now."""
    world = guest()

    def go() -> None:
        world._go_soon()
        world.gpus.guest = still_guest

    world.on_reboot_command = go
    for place in ("0:4", "4:4"):
        world.gpus.failures["3g.20gb", place] = HardwareError("creating: Insufficient Resources")
    partition, hands = agent_on(world, COMMANDED)
    for _ in range(60):
        await partition()
        world.tick(0.5)
    assert verdict(world) == ("failed", "rolled-back")
    assert ("but for GPU 0: MIG off is pending" in status_of(world)["message"]) is still_guest
    assert count(hands, Begin) == 1
    world.gpus.failures.clear()
    world.tick(60.0)
    await settle(world, partition)
    assert (verdict(world)[0], layout(world)) == ("success", HALVES)


# -- peers -------------------------------------------------------------------------------------------------------------


def board(*gpus: Gpu) -> NodeWorld:
    """GPUs that NVSwitches join, without Fabric Manager: a reset takes all of them."""
    world = NodeWorld(*gpus)
    world.gpus.board = tuple(world.gpus.gpus)
    return world


def only(world: NodeWorld, number: int, wish: str) -> None:
    gpu = list(world.gpus.gpus.values())[number]
    world.label(f"{labels.GPU_LAYOUT_PREFIX}{gpu.short}{labels.GPU_LAYOUT_SUFFIX}", wish)


async def test_idle_peers_are_reset_too_and_get_their_slices_back() -> None:
    world = board(off(), cut(A100, "3g.20gb@4:4", 1))
    only(world, 0, "2x3g.20gb")
    only(world, 1, "1x3g.20gb")
    await settle(world, agent_on(world)[0])
    assert verdict(world)[0] == "success"
    assert layout(world) == HALVES
    assert len(layout(world, 1)) == 1


async def test_all_modes_change_before_anything_is_made() -> None:
    """Each reset would take what was made on the GPUs before."""
    world = board(off(), off(1), off(2))
    world.label(value="2x3g.20gb")
    await settle(world, agent_on(world)[0])
    acts = [act for act, *_ in world.gpus.log]
    assert acts == sorted(acts, reverse=True)
    assert acts.count("create") == 6


async def test_a_peer_with_a_holder_is_never_reset() -> None:
    world = board(off(), cut(A100, "3g.20gb@4:4", 1))
    holder = world.add_pod("holder", world.device(1, 4))
    only(world, 0, "2x3g.20gb")
    partition, _ = agent_on(world)
    for _ in range(20):
        await partition()
        world.tick(0.5)
    assert verdict(world) == ("failed", "rolled-back")
    assert "GPU 1 has default/holder" in status_of(world)["message"]
    assert (layout(world), layout(world, 1)) == (["off"], ["3g.20gb@4:4"])
    assert holder in world.pods
    assert given_back(world)


async def test_a_peer_whose_slices_no_wish_would_bring_back_is_not_reset() -> None:
    world = board(off(), cut(A100, "3g.20gb@4:4", 1))
    only(world, 0, "2x3g.20gb")
    partition, _ = agent_on(world)
    for _ in range(20):
        await partition()
        world.tick(0.5)
    assert "GPU 1 has slices that no wish would bring back" in status_of(world)["message"]
    assert layout(world, 1) == ["3g.20gb@4:4"]


@pytest.mark.parametrize("trouble", ["stranger", "unknown"])
async def test_a_peer_that_is_not_known_to_be_free_is_not_reset(trouble: str) -> None:
    world = board(off(), cut(A100, "", 1))
    uuid, peer = list(world.gpus.gpus.items())[1]
    if trouble == "unknown":
        world.gpus.gpus[uuid] = replace(peer, unknown="the driver did not answer within 20 s")
    else:
        world.strangers[uuid] = (GpuProcess(77, None, None, 1, "by-hand"),)
        world.tick()
    only(world, 0, "2x3g.20gb")
    partition, _ = agent_on(world)
    for _ in range(20):
        await partition()
        world.tick(0.5)
    words = {"unknown": "GPU 1 cannot be read", "stranger": "GPU 1 has process 77"}
    assert words[trouble] in status_of(world)["message"]
    assert verdict(world) == ("failed", "rolled-back")


async def test_where_a_gpu_is_reset_alone_no_peer_is_asked() -> None:
    world = NodeWorld(off(), cut(A100, "3g.20gb@4:4", 1))
    holder = world.add_pod("holder", world.device(1, 4))
    only(world, 0, "2x3g.20gb")
    await settle(world, agent_on(world)[0])
    assert (verdict(world)[0], layout(world)) == ("success", HALVES)
    assert holder in world.pods


async def test_on_later_generations_a_guest_needs_no_reboot() -> None:
    world = guest(replace(h100(), mig_enabled=False, mig_pending=False), wish="2x3g.40gb")
    await settle(world, agent_on(world)[0])
    assert verdict(world)[0] == "success"
