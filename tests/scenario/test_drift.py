"""Hardware that somebody else has changed: it is said, put right with the ordinary guards, and nobody fights."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from agent.model import labels
from agent.model.drift import CALM_SECONDS, LONGEST_PAUSE_SECONDS
from agent.model.steps import Begin
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import NodeWorld, Steps, agent_on, cut, h100, settle

HALVES = ["3g.40gb@0:4", "3g.40gb@4:4"]


def _status(world: NodeWorld) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.node["metadata"]["annotations"][labels.STATUS])
    return found


def _layout(world: NodeWorld, gpu: int = 0) -> list[str]:
    return [str(slot) for slot in list(world.gpus.gpus.values())[gpu].layout]


def _said(world: NodeWorld) -> list[str]:
    return [event["message"] for event in world.events if event["reason"] == "Drift"]


def _by_hand(world: NodeWorld, layout: str, number: int = 0) -> None:
    """What `nvidia-smi mig` does; the device plugin is not told."""
    uuid, gpu = list(world.gpus.gpus.items())[number]
    kept = [i for i in gpu.instances if f"{i.profile}@{i.placement}" in layout.split()]
    held = {i.placement for i in kept}
    fresh = [i for i in h100(layout).instances if i.placement not in held]
    world.gpus.gpus[uuid] = replace(gpu, instances=tuple(sorted((*kept, *fresh), key=lambda i: i.placement)))


async def _applied(layout: str = "2x3g.40gb", *gpus: Any) -> tuple[NodeWorld, PartitionPass, Steps]:
    world = NodeWorld(*(gpus or (h100(),)))
    world.label(value=layout)
    partition, hands = agent_on(world)
    await settle(world, partition)
    hands.taken.clear()
    return world, partition, hands


async def _until_success(world: NodeWorld, partition: PartitionPass) -> float:
    """Seconds until it is said again."""
    begun = world.time
    for _ in range(2000):
        wait = await partition()
        if _status(world)["state"] == "success":
            return world.time - begun
        world.tick(min(max(wait, 0.5), 60.0))
    raise AssertionError(_status(world))


async def test_a_slice_that_somebody_removed_comes_back_where_it_was_and_that_is_said() -> None:
    world, partition, _ = await _applied()
    _by_hand(world, "3g.40gb@4:4")
    await partition()
    assert (_status(world)["state"], _status(world)["reason"]) == ("pending", "drift")
    assert "GPU 0: 3g.40gb@0:4 is gone" in _status(world)["message"]
    await settle(world, partition)
    assert _layout(world) == HALVES
    assert len(_said(world)) == 1
    drift = _status(world)["drift"]
    assert (drift["times"], drift["corrected"] is not None) == (1, True)


async def test_it_comes_back_where_it_was_also_where_another_place_would_be_as_good() -> None:
    world, partition, _ = await _applied("1x1g.10gb")
    (before,) = _layout(world)
    _by_hand(world, "")
    await settle(world, partition)
    assert _layout(world) == [before]
    elsewhere = next(slot for slot in ("1g.10gb@0:1", "1g.10gb@3:1") if slot != before)
    uuid = next(iter(world.gpus.gpus))
    placements = {uuid: [elsewhere]}
    status = {**_status(world), "placements": placements}
    world.node["metadata"]["annotations"][labels.STATUS] = json.dumps(status)
    _by_hand(world, "")
    await settle(world, agent_on(world)[0])
    assert _layout(world) == [elsewhere]


async def test_placements_that_this_gpu_cannot_have_are_no_order() -> None:
    """The annotation is a hint that anyone may have written."""
    for hint in (["3g.40gb@1:4", "3g.40gb@4:4"], ["3g.40gb@0:4", "3g.40gb@0:4"], ["4g.40gb@0:4"], ["no slot"]):
        world, partition, _ = await _applied()
        uuid = next(iter(world.gpus.gpus))
        status = {**_status(world), "placements": {uuid: hint}}
        world.node["metadata"]["annotations"][labels.STATUS] = json.dumps(status)
        _by_hand(world, "")
        await settle(world, partition)
        assert _layout(world) == HALVES


async def test_a_held_slice_is_not_taken_back_from_who_cannot_be_moved() -> None:
    world, partition, hands = await _applied()
    _by_hand(world, "1g.10gb@0:1 3g.40gb@4:4")
    world.add_pod("by-hand", world.device(0, 0), owner="")
    for _ in range(5):
        await partition()
        world.tick()
    assert hands.taken == []
    assert _status(world)["reason"] == "blocked"
    assert "default/by-hand" in _status(world)["message"]
    assert len(_said(world)) == 1


async def test_who_comes_back_again_and_again_is_answered_later_each_time() -> None:
    world, partition, _ = await _applied()
    waits = []
    for _ in range(10):
        _by_hand(world, "7g.80gb@0:8")
        waits.append(await _until_success(world, partition))
    assert waits[0] < 20
    assert all(30 * 2**n <= wait < 30 * 2**n + 80 for n, wait in enumerate(waits[1:8]))
    assert LONGEST_PAUSE_SECONDS <= waits[-1] < LONGEST_PAUSE_SECONDS + 80
    assert "found so 10 times since 1970-01-12" in _said(world)[-1]
    assert len(_said(world)) == 10


async def test_while_it_waits_nothing_is_written_and_a_restart_forgets_nothing() -> None:
    world, partition, _ = await _applied()
    for _ in range(6):
        _by_hand(world, "7g.80gb@0:8")
        await _until_success(world, partition)
    _by_hand(world, "7g.80gb@0:8")
    await partition()
    writes = len(world.node_writes)
    partition, hands = agent_on(world)
    for _ in range(5):
        await partition()
        world.tick(30.0)
    assert (len(world.node_writes), hands.taken) == (writes, [])
    assert _status(world)["drift"]["times"] == 7


async def test_after_a_calm_hour_it_is_another_story() -> None:
    world, partition, _ = await _applied()
    for _ in range(4):
        _by_hand(world, "7g.80gb@0:8")
        await _until_success(world, partition)
    world.tick(CALM_SECONDS + 1)
    _by_hand(world, "7g.80gb@0:8")
    assert await _until_success(world, partition) < 20
    assert _status(world)["drift"]["times"] == 1


async def test_another_wish_and_a_reboot_are_no_drift() -> None:
    world, partition, _ = await _applied()
    world.label(value="7x1g.10gb")
    await settle(world, partition)
    world.reboot()
    await settle(world, agent_on(world)[0])
    assert _layout(world) == [f"1g.10gb@{start}:1" for start in range(7)]
    assert _said(world) == []


async def test_a_boot_id_that_the_kubelet_has_not_written_yet_makes_no_drift_of_a_reboot() -> None:
    world, _, _ = await _applied()
    world.reboot()
    assert world.node["status"]["nodeInfo"]["bootID"] == "boot-1"
    await agent_on(world)[0]()
    assert _said(world) == []


async def test_an_edit_by_hand_that_has_what_is_wished_is_fine() -> None:
    world, partition, hands = await _applied("1x3g.40gb")
    other = next(slot for slot in HALVES if slot != _layout(world)[0])
    _by_hand(world, other)
    await settle(world, partition)
    assert hands.taken == []
    assert _status(world)["placements"] == {next(iter(world.gpus.gpus)): [other]}


async def test_a_gpu_that_no_wish_names_may_be_cut_by_hand() -> None:
    world = NodeWorld(h100(), h100(index=1))
    first = next(iter(world.gpus.gpus.values()))
    world.label(f"{labels.GPU_LAYOUT_PREFIX}{first.short}{labels.GPU_LAYOUT_SUFFIX}", "2x3g.40gb")
    partition, hands = agent_on(world)
    await settle(world, partition)
    hands.taken.clear()
    _by_hand(world, "1g.10gb@0:1", 1)
    world.add_pod("restarted-plugin")
    await partition()
    assert hands.taken == []
    assert _said(world) == []


async def test_drift_is_counted() -> None:
    world = NodeWorld(h100())
    world.label(value="2x3g.40gb")
    partition, _ = agent_on(world)
    await settle(world, partition)
    for _ in range(2):
        _by_hand(world, "7g.80gb@0:8")
        await _until_success(world, partition)
    assert world.counts.seen.count(("drifted",)) == 2


async def test_an_instance_without_compute_is_drift_too() -> None:
    world, partition, _ = await _applied()
    uuid, gpu = next(iter(world.gpus.gpus.items()))
    orphan = replace(gpu.instances[1], compute=())
    world.gpus.gpus[uuid] = replace(gpu, instances=(gpu.instances[0], orphan))
    await settle(world, partition)
    assert _layout(world) == HALVES
    assert "3g.40gb@4:4 has no compute instance" in _said(world)[0]


async def test_what_a_reset_took_in_the_same_boot_comes_back_with_its_mode() -> None:
    world, partition, hands = await _applied("1x2g.10gb_1x1g.5gb", cut("A100-SXM4-40GB", ""))
    before = _layout(world)
    uuid, gpu = next(iter(world.gpus.gpus.items()))
    world.gpus.gpus[uuid] = replace(gpu, instances=(), mig_enabled=False, mig_pending=False)
    await partition()
    assert "GPU 0 has MIG off" in _said(world)[0]
    await settle(world, partition)
    assert _layout(world) == before
    assert len([step for step in hands.taken if isinstance(step, Begin)]) == 1
