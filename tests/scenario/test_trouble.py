"""Faults of the driver, of the host and of the cluster in the middle of a change: nothing is said that is not so, nothing is
left behind, and the agent gets out.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from agent.model import labels
from agent.model.errors import AgentError, InUseError, RefusedError, RetryError
from agent.model.mig import GpuProcess
from agent.model.steps import Begin, Evict, SetMode, Step
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import Kill, Killed, NodeWorld, Steps, agent_on, h100, settle

SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))


def _idle(**options: Any) -> NodeWorld:
    world = NodeWorld(h100(SEVEN), **options)
    world.label(value="2x3g.40gb")
    return world


def _status(world: NodeWorld) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.node["metadata"]["annotations"].get(labels.STATUS, "{}"))
    return found


def _layout(world: NodeWorld) -> list[str]:
    return [str(slot) for gpu in world.gpus.gpus.values() for slot in gpu.layout]


def _given_back(world: NodeWorld) -> bool:
    deploy = [value for key, value in world.node["metadata"]["labels"].items() if key.startswith(labels.DEPLOY_PREFIX)]
    recorded = labels.OPERATION in world.node["metadata"]["annotations"]
    return not recorded and not world.node["spec"].get("unschedulable") and labels.PAUSED not in deploy


async def _turns(world: NodeWorld, partition: PartitionPass, count: int, seconds: float = 1.0) -> None:
    """Passes with time between them; one that fails is followed by the next."""
    for _ in range(count):
        with contextlib.suppress(AgentError):
            await partition()
        world.tick(seconds)


async def _until_taken(world: NodeWorld, partition: PartitionPass, hands: Steps, kind: type[Step]) -> None:
    for _ in range(60):
        await partition()
        if any(isinstance(step, kind) for step in hands.taken):
            return
        world.tick()
    raise AssertionError(f"no {kind.__name__} among {hands.taken}")


def _lose(world: NodeWorld, number: int = 0) -> Callable[[], None]:
    """A GPU stops answering; call what is returned and it answers again."""
    uuid, gpu = list(world.gpus.gpus.items())[number]
    world.gpus.gpus[uuid] = replace(gpu, unknown="a call has not come back", profiles=(), instances=())
    return lambda: world.gpus.gpus.update({uuid: gpu})


async def test_a_gpu_that_stops_answering_midway_is_waited_for() -> None:
    world = _idle()
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Begin)
    answers_again = _lose(world)
    await _turns(world, partition, 10, 5.0)
    assert labels.OPERATION in world.node["metadata"]["annotations"]
    assert _status(world)["reason"] == "gpu-unknown"
    answers_again()
    await settle(world, partition)
    assert _status(world)["state"] == "success"


async def test_with_one_gpu_silent_the_others_are_changed_and_that_is_no_success() -> None:
    world = NodeWorld(h100(SEVEN), h100(SEVEN, index=1))
    world.label(value="2x3g.40gb")
    answers_again = _lose(world)
    partition, _ = agent_on(world)
    await _turns(world, partition, 40)
    assert [str(slot) for slot in list(world.gpus.gpus.values())[1].layout] == ["3g.40gb@0:4", "3g.40gb@4:4"]
    assert _given_back(world)
    assert (_status(world)["state"], _status(world)["reason"]) == ("failed", "gpu-unknown")
    assert not any(event["reason"] == "Applied" for event in world.events)
    answers_again()
    await _turns(world, partition, 40)
    assert _status(world)["state"] == "success"


async def test_a_silent_gpu_is_not_one_without_mig() -> None:
    world = _idle()
    _lose(world)
    await _turns(world, agent_on(world)[0], 3)
    assert (_status(world)["state"], _status(world)["reason"]) == ("pending", "gpu-unknown")


def _count_refreshes(world: NodeWorld, fails: Callable[[int], bool]) -> list[bool]:
    """Whether each run of the configured commands worked."""
    worked: list[bool] = []

    async def refresh() -> None:
        worked.append(not fails(len(worked)))
        if not worked[-1]:
            raise RetryError("nvidia-ctk cdi generate: exit code 1")

    world.refresh = refresh  # type: ignore[method-assign]
    return worked


async def test_no_success_before_the_host_followed_the_slices() -> None:
    """Without its capability nodes a slice is of no use to anybody."""
    world = _idle()
    worked = _count_refreshes(world, lambda number: number == 0)
    await _turns(world, agent_on(world)[0], 40)
    assert worked == [False, True]
    assert _status(world)["state"] == "success"


@pytest.mark.parametrize("deploy_labels", [True, False])
async def test_killed_before_the_host_followed_it_is_made_to(deploy_labels: bool) -> None:
    world = _idle(deploy_labels=deploy_labels)
    await settle(world, agent_on(world)[0])
    number = world.effects.names.index("refresh")
    world = _idle(deploy_labels=deploy_labels)
    world.effects.kill = Kill(number, "before")
    with pytest.raises(Killed):
        await settle(world, agent_on(world)[0])
    world.effects.kill = None
    await settle(world, agent_on(world)[0])
    assert world.effects.names[number + 1 :].count("refresh") == 1


async def test_commands_that_never_work_are_named_on_the_node() -> None:
    world = _idle()
    _count_refreshes(world, lambda number: True)
    await _turns(world, agent_on(world)[0], 40)
    assert _status(world)["reason"] == "refresh-failing"
    assert "nvidia-ctk" in _status(world)["message"]


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (RetryError("nvidia-smi cannot be started"), "driver-failing"),
        (InUseError("MIG mode: In use by another client"), "gpu-in-use"),
        (RefusedError("MIG mode: Insufficient Permissions"), ""),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
async def test_what_the_driver_never_does_ends_failed_with_the_node_given_back(error: AgentError, waits: str) -> None:
    world = NodeWorld(replace(h100(), mig_enabled=False, mig_pending=False))
    world.label(value="2x3g.40gb")

    async def set_mode(gpu: str, enabled: bool, others: Any) -> None:
        raise error

    world.gpus.set_mode = set_mode  # type: ignore[method-assign]
    partition, _ = agent_on(world)
    if waits:
        await _turns(world, partition, 20, 2.0)
        assert (_status(world)["reason"], _status(world)["message"]) == (waits, str(error))
    while _status(world).get("state") != "failed" and world.time < 1_001_000:
        await _turns(world, partition, 1, 2.0)
    assert str(error) in _status(world)["message"]
    assert _given_back(world)


async def test_a_process_that_comes_midway_and_stays_does_not_keep_the_node() -> None:
    world = _idle()
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Begin)
    uuid, gpu = next(iter(world.gpus.gpus.items()))
    world.strangers[uuid] = (GpuProcess(4711, gpu.instances[0].id, 0, 1, "python"),)
    world.tick()
    await _turns(world, partition, 100, 5.0)
    assert _given_back(world)
    assert _layout(world) == SEVEN.split()
    assert "process 4711 (python)" in _status(world)["message"]


async def test_a_client_that_does_not_stop_is_waited_for_once() -> None:
    """It may be what holds the GPU; then trying again does not begin with another wait for it."""
    world = _idle()
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Begin)
    world.add_pod("exporter", owner="DaemonSet", pod_labels={"app": "nvidia-dcgm-exporter"})

    async def destroy(*_: object) -> None:
        raise InUseError("in use")

    world.gpus.destroy = destroy  # type: ignore[assignment, method-assign]
    await _turns(world, partition, 30, 5.0)
    waited = [report.waits_for for report in world.reports]
    assert waited.index("gpu-in-use") > waited.index("clients-stopping")
    assert "clients-stopping" not in waited[waited.index("gpu-in-use") :]


async def test_an_eviction_that_the_api_server_fails_is_not_called_draining() -> None:
    world = NodeWorld(h100("7g.80gb@0:8"))
    world.add_pod("serve", world.device(0, 0))
    world.label(value="7x1g.10gb")

    async def evict(_: object) -> None:
        raise RetryError("HTTP 500 failed calling webhook")

    partition, hands = agent_on(world)
    hands._cluster.evict = evict  # type: ignore[assignment, method-assign]
    await _turns(world, partition, 30, 2.0)
    assert (_status(world)["reason"], _status(world)["message"]) == (
        "eviction-failing",
        "HTTP 500 failed calling webhook",
    )


def _mig_off() -> tuple[NodeWorld, str]:
    world = NodeWorld(replace(h100(), mig_enabled=False, mig_pending=False))
    world.label(value="2x3g.40gb")
    return world, next(iter(world.gpus.gpus))


async def test_a_process_outside_every_pod_on_the_whole_gpu_blocks_a_change_of_mode() -> None:
    world, uuid = _mig_off()
    world.strangers[uuid] = (GpuProcess(4711, None, None, 1, "python"),)
    world.tick()
    partition, hands = agent_on(world)
    await _turns(world, partition, 5)
    assert hands.taken == []
    assert _status(world)["reason"] == "blocked"
    assert "process 4711 (python) outside any pod" in _status(world)["message"]
    world.strangers.clear()
    world.tick()
    await settle(world, partition)
    assert _status(world)["state"] == "success"


_MPS_SERVER = GpuProcess(4712, None, None, 1, "/usr/bin/nvidia-cuda-mps-server")


@pytest.mark.parametrize("serving", [True, False])
async def test_the_server_of_mps_is_not_in_the_way_where_it_ends_with_the_device_plugin(serving: bool) -> None:
    world, uuid = _mig_off()
    world.strangers[uuid] = (_MPS_SERVER,)
    if serving:
        world.add_pod("serve", f"{uuid}::3")
    world.tick()
    await settle(world, agent_on(world)[0])
    assert _status(world)["state"] == "success"


async def test_where_it_does_not_end_so_it_is_named_before_any_pod_is_moved() -> None:
    world = NodeWorld(replace(h100(), mig_enabled=False, mig_pending=False), deploy_labels=False)
    uuid = next(iter(world.gpus.gpus))
    world.strangers[uuid] = (_MPS_SERVER,)
    world.add_pod("serve", f"{uuid}::3")
    world.label(value="2x3g.40gb")
    world.tick()
    partition, hands = agent_on(world)
    await _turns(world, partition, 5)
    assert hands.taken == []
    assert _status(world)["reason"] == "blocked"
    assert "process 4712 (/usr/bin/nvidia-cuda-mps-server) outside any pod" in _status(world)["message"]


async def test_what_an_evicted_pod_leaves_on_the_whole_gpu_is_waited_for() -> None:
    world, uuid = _mig_off()
    world.add_pod("whole", uuid)
    partition, hands = agent_on(world)
    await _until_taken(world, partition, hands, Evict)
    world.strangers[uuid] = (GpuProcess(4711, None, None, 1, "python"),)
    await _turns(world, partition, 4)
    assert world.reports[-1].waits_for == "device-busy"
    assert not any(isinstance(step, SetMode) for step in hands.taken)
    world.strangers.clear()
    world.tick()
    await settle(world, partition)
    assert _status(world)["state"] == "success"


@pytest.mark.parametrize(("wish", "state"), [(None, "failed"), ("disabled", "success")])
async def test_a_mode_still_pending_when_the_wish_goes_is_called_off(wish: str | None, state: str) -> None:
    """Else the next reboot would bring a mode that nobody wants any more, and take the GPU from its pods."""
    world, uuid = _mig_off()

    async def set_mode(gpu: str, enabled: bool, others: Any) -> None:
        now = world.gpus.gpus[gpu]
        world.gpus.gpus[gpu] = replace(now, mig_pending=enabled)
        if now.mig_enabled != enabled:
            raise InUseError("nvidia-smi --gpu-reset: In use by another client")

    world.gpus.set_mode = set_mode  # type: ignore[method-assign]
    partition, _ = agent_on(world)
    await _turns(world, partition, 20, 2.0)
    assert world.gpus.gpus[uuid].mig_pending
    world.label(value=wish)
    await settle(world, partition)
    assert world.gpus.gpus[uuid].mig_pending is False
    assert _status(world)["state"] == state
    assert _given_back(world)


async def test_nobody_moves_for_a_pending_mode_that_is_called_off() -> None:
    world = NodeWorld(replace(h100(SEVEN), mig_pending=False))
    holder = world.add_pod("holder", world.device(0, 3))
    world.label(value="7x1g.10gb")

    async def set_mode(gpu: str, enabled: bool, others: Any) -> None:
        world.gpus.gpus[gpu] = replace(world.gpus.gpus[gpu], mig_pending=enabled)

    world.gpus.set_mode = set_mode  # type: ignore[method-assign]
    await settle(world, agent_on(world)[0])
    assert world.gpus.log == []
    assert holder in world.pods
    assert world.gpus.gpus[next(iter(world.gpus.gpus))].mig_pending


@pytest.mark.parametrize("begun", [True, False])
async def test_a_driver_that_is_gone_is_named_on_a_node_that_waits(begun: bool) -> None:
    world = _idle()
    partition, hands = agent_on(world)
    if begun:
        await _until_taken(world, partition, hands, Begin)
    read = world.gpus.read

    async def fail() -> Any:
        raise RetryError("opening NVML: Driver Not Loaded")

    world.gpus.read = fail  # type: ignore[method-assign]
    writes = len(world.node_writes)
    await _turns(world, partition, 5, 5.0)
    assert len(world.node_writes) == writes
    await _turns(world, partition, 30, 5.0)
    assert len(world.node_writes) == writes + 1
    assert (_status(world)["reason"], _status(world)["message"]) == ("fault", "opening NVML: Driver Not Loaded")
    world.gpus.read = read  # type: ignore[method-assign]
    await settle(world, partition)
    assert _status(world)["state"] == "success"


async def test_a_driver_that_is_gone_is_nothing_to_a_node_without_a_wish() -> None:
    world = NodeWorld(h100(SEVEN))

    async def fail() -> Any:
        raise RetryError("opening NVML: Driver Not Loaded")

    world.gpus.read = fail  # type: ignore[method-assign]
    await _turns(world, agent_on(world)[0], 30, 5.0)
    assert world.node_writes == []


async def test_a_conflict_is_not_worth_a_write() -> None:
    """The kubelet writes the node too; the next look has the newer one."""
    world = _idle()
    stale = copy.deepcopy(world.node)
    world.cordon()
    looks: list[None] = []

    def sees() -> dict[str, Any]:
        looks.append(None)
        return stale if len(looks) == 1 else world.node

    partition, _ = agent_on(world, sees=sees)
    await partition()
    assert world.node_writes == []


async def test_a_client_is_restarted_once_while_its_end_is_not_seen_yet() -> None:
    world = _idle(deploy_labels=False)
    partition, _ = agent_on(world)
    for _ in range(30):
        world.time += max(await partition(), 0.02)
        for pod in world.pods.values():
            pod["metadata"].pop("deletionTimestamp", None)
        if world.effects.names.count("delete") and world.reports[-1].waits_for == "clients-restarting":
            break
    assert world.effects.names.count("delete") == 1
    assert world.reports[-1].waits_for == "clients-restarting"
