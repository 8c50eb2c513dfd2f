"""Nodes whose GPUs NVIDIA's DRA driver offers: pods have their slices by claims, and ResourceSlices show the layout."""

from __future__ import annotations

import pytest

from agent.model.node import DeviceOwner
from agent.model.steps import Begin, Evict, RestartClient
from tests.fakes.world import NodeWorld, h100
from tests.scenario.story import SEVEN, Story, drained, mode_on


def _evicted(story: Story) -> list[str]:
    return [step.pod.name for step in story.hands.taken if isinstance(step, Evict)]


@pytest.mark.parametrize("old", [False, True], ids=["listed by the kubelet", "known by their claims alone"])
async def test_only_who_has_a_doomed_slice_by_a_claim_is_moved_and_the_new_layout_is_offered(old: bool) -> None:
    """The pods run no process on their slices: nothing but the claim says that they have one."""
    world = drained(dra=True)
    world.idle |= set(world.pods)
    world.old = old
    drivers = world.uids("nvidia-dra-driver-gpu-kubelet-plugin")
    stays = world.uids("stays")
    story = Story(world)
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert "word alone" not in story.status["message"]
    assert (_evicted(story), world.uids("stays")) == (["goes"], stays)
    assert world.advertises_what_is_there()
    assert world.uids("nvidia-dra-driver-gpu-kubelet-plugin") != drivers, "its driver reads the GPUs at its start alone"


async def test_whoever_has_a_whole_gpu_by_a_claim_makes_room_for_mig() -> None:
    world = mode_on(dra=True)
    world.idle |= set(world.pods)
    story = Story(world)
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert _evicted(story) == ["whole"]


async def test_a_layout_that_is_there_and_not_offered_has_the_driver_started_anew() -> None:
    """Somebody cut the GPU behind the driver's back."""
    world = NodeWorld(h100(), dra=True)
    world.gpus.gpus = {gpu.uuid: gpu for gpu in [h100(SEVEN)]}
    world.label(value="7x1g.10gb")
    story = Story(world)
    await story.turns(3)
    assert story.verdict == ("pending", "not-advertised")
    assert "ResourceSlices offer 0 of 7 devices of the layout" in story.status["message"]
    await story.turns(400)
    assert story.verdict == ("success", "applied")
    assert world.advertises_what_is_there()


async def test_a_driver_whose_pod_is_being_replaced_just_now_belongs_here_all_the_same() -> None:
    """Between the old pod and the new one nothing offers and nothing runs: the hardware's word is not enough then."""
    world = NodeWorld(h100(), dra=True)
    world.label(value="7x1g.10gb")
    story = Story(world)
    while not any(isinstance(step, RestartClient) for step in story.hands.taken):
        await story.turns(1)
    world.restart_driver()
    await story.partition()
    assert story.verdict[0] == "pending"
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert "word alone" not in story.status["message"]
    assert world.advertises_what_is_there()


async def test_a_device_that_no_slice_names_may_be_any_so_nothing_is_begun() -> None:
    """The kubelet removes the ResourceSlices of a driver that is away for long."""
    world = drained(dra=True)
    world.wiped = True
    story = Story(world)
    await story.turns(5)
    assert story.verdict == ("pending", "pod-starting")
    await story.turns(40)
    assert story.verdict == ("pending", "blocked")
    message = story.status["message"]
    assert "default/goes (no ResourceSlice of this node has its gpu-1/gpu-0-mig-5-1-0-1)" in message
    assert not any(isinstance(step, Begin) for step in story.hands.taken)
    world.wiped = False
    await story.settled()
    assert story.verdict == ("success", "applied")


async def test_a_pod_that_only_the_kubelet_knows_holds_every_slice_while_its_device_has_no_name() -> None:
    world = NodeWorld(h100(SEVEN), dra=True)
    world.wiped = True
    ghost = DeviceOwner("default", "ghost", "main", "gpu.nvidia.com", claim="c", claimed=("gpu-1/gpu-0-mig-gone",))
    listed = world.owners

    async def owners() -> tuple[DeviceOwner, ...]:
        return (*await listed(), ghost)

    world.owners = owners  # type: ignore[method-assign]
    world.label(value="2x3g.40gb")
    story = Story(world)
    await story.turns(3)
    assert story.verdict == ("pending", "blocked")
    assert "default/ghost (it has gpu-1/gpu-0-mig-gone by a claim" in story.status["message"]


async def test_a_claim_on_another_drivers_device_holds_no_slice() -> None:
    world = NodeWorld(h100(SEVEN), dra=True)
    world.idle.add(uid := world.add_pod("nic", world.device(0, 6)))
    world.old = True
    del world.devices[uid]

    async def claim(namespace: str, name: str) -> dict[str, object]:
        results = [{"request": "nic", "driver": "nic.example.com", "pool": "gpu-1", "device": "eth1"}]
        return {"status": {"allocation": {"devices": {"results": results}}, "reservedFor": [{"uid": uid}]}}

    world.claim = claim  # type: ignore[method-assign]
    world.label(value="2x3g.40gb")
    story = Story(world)
    await story.settled()
    assert (story.verdict, _evicted(story)) == (("success", "applied"), [])


async def test_after_a_reboot_pods_get_the_slices_back_that_they_wait_for() -> None:
    """The driver finds none to offer then, and a pod keeps its claim: nobody has what its claim names."""
    world = drained(dra=True)
    story = Story(world)
    await story.settled()
    stays = world.uids("stays")
    claimed = dict(world.claimed)
    world.reboot()
    for uid in stays:
        world.pods[uid]["status"] = {"phase": "Pending"}
    world.restart_driver()
    world.tick()
    world.claimed = claimed
    world.old = True
    assert world.advertises_what_is_there()
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert world.uids("stays") == stays
    assert claimed[stays[0]] in world._offered
