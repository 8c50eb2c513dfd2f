"""Who is on a slice: by the kubelet's list and by what runs there."""

from __future__ import annotations

from agent.model import labels
from agent.model.mig import GpuProcess
from tests.fakes.world import NodeWorld, h100
from tests.scenario.story import Story

HALVES = "3g.40gb@0:4 3g.40gb@4:4"
SEVEN = "7x1g.10gb"


def _run(world: NodeWorld, pid: int, start: int) -> None:
    """Somebody runs a program by hand on that slice."""
    uuid, gpu = next(iter(world.gpus.gpus.items()))
    instance = next(i for i in gpu.instances if i.placement.start == start)
    world.strangers[uuid] = (*world.strangers.get(uuid, ()), GpuProcess(pid, instance.id, 0, 1, "python"))
    world.tick(0.0)


async def test_a_pod_that_the_kubelet_gave_nothing_is_moved_by_what_it_runs() -> None:
    """DRA, NVIDIA_VISIBLE_DEVICES=all, privileged: PodResources knows nothing of it."""
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    there = world.add_pod("past-the-kubelet", world.device(0, 0), gpus=0)
    world.unlisted.add(there)
    world.label(value=SEVEN)
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert world.effects.names.count("evict") == 1
    assert there not in world.pods


async def test_a_daemon_that_the_kubelet_gave_nothing_blocks_by_its_name() -> None:
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    world.unlisted.add(world.add_pod("watcher", world.device(0, 0), "DaemonSet", gpus=0))
    world.label(value=SEVEN)
    await story.until_said("pending", "blocked")
    assert "default/watcher (DaemonSet" in story.status["message"]
    assert "evict" not in world.effects.names


async def test_two_pods_on_one_slice_are_both_its_holders() -> None:
    """One has it by the kubelet, the other runs there."""
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    listed = world.add_pod("listed", world.device(0, 0))
    other = world.add_pod("other", world.device(0, 0), gpus=0)
    world.unlisted.add(other)
    world.label(value=SEVEN)
    await story.settled()
    assert world.effects.names.count("evict") == 2
    assert not {listed, other} & world.pods.keys()


async def test_a_slice_of_a_pod_with_somebody_else_s_process_stays_and_nobody_is_moved() -> None:
    """Moving the pod would free nothing."""
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    uid = world.add_pod("listed", world.device(0, 0))
    _run(world, 4711, 0)
    world.label(value=SEVEN)
    await story.until_said("pending", "blocked")
    assert "process 4711 (python) outside any pod on GPU 0" in story.status["message"]
    assert uid in world.pods
    world.strangers.clear()
    await story.settled()
    assert story.verdict == ("success", "applied")


async def test_a_process_of_a_pod_that_has_finished_holds_nothing_up_before_it_is_gone() -> None:
    """The change begins, and waits for the process itself."""
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    uid = world.add_pod("batch", world.device(0, 0), "Job")
    world.pods[uid]["status"]["phase"] = "Succeeded"
    world.label(value=SEVEN)
    await story.until_said("pending", "device-busy")
    assert "process 1000 of default/batch, which has finished" in story.status["message"]
    world.idle.add(uid)
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert "evict" not in world.effects.names
    assert uid in world.pods


async def test_an_agent_that_cannot_ask_the_kernel_says_so() -> None:
    """Without hostPID. What the kubelet lists is a holder all the same."""
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    world.blind = True
    listed = world.add_pod("listed", world.device(0, 4))
    _run(world, 4711, 0)
    world.label(value=SEVEN)
    await story.until_said("pending", "blocked")
    assert "process 4711 (python), which cannot be seen from here: without hostPID" in story.status["message"]
    world.strangers.clear()
    await story.settled()
    assert story.verdict == ("success", "applied")
    assert listed not in world.pods


async def test_a_client_that_the_change_pauses_is_nobody_s_holder() -> None:
    """DCGM on a slice ends by its deploy label; without the label it blocks by its name."""
    story = Story(NodeWorld(h100(HALVES)))
    world = story.world
    exporter = {"app": "nvidia-dcgm-exporter"}
    uid = world.add_pod("dcgm", world.device(0, 0), "DaemonSet", pod_labels=exporter, namespace="gpu-operator", gpus=0)
    world.unlisted.add(uid)
    world.label("nvidia.com/gpu.deploy.dcgm-exporter", None)
    world.label(value=SEVEN)
    await story.until_said("pending", "blocked")
    assert "gpu-operator/dcgm (DaemonSet" in story.status["message"]
    world.label("nvidia.com/gpu.deploy.dcgm-exporter", "true")

    def follow() -> None:
        if world.node["metadata"]["labels"].get("nvidia.com/gpu.deploy.dcgm-exporter") == labels.PAUSED:
            world.ends_in(uid, 0.0) if uid in world.pods else None

    world.effects.then["patch"] = follow
    await story.settled()
    assert story.verdict == ("success", "applied")
