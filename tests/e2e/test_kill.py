"""A real SIGKILL of the agent's process, once per kind of step: a new process reaches the wish and gives the node back.

The driver's calls kill their caller by themselves (before or after their effect). A write to the API server is held back, or
its effect is seen first; then the process is killed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import pytest

from agent.model import labels, steps
from hack.devcluster import kinds
from hack.devcluster.faults import Fault
from tests.e2e.agent_node import NODE, AgentNode, agent_node

Murder = Callable[[AgentNode], Awaitable[None]]
"""Arranged before the wish; ends when the agent is dead."""

DESTROY = "nvmlGpuInstanceDestroy"
CREATE = "nvmlDeviceCreateGpuInstanceWithPlacement"


@dataclass(frozen=True)
class Case:
    """``prepare`` arranges the faults, ``strike`` waits for the moment and kills. ``guest``: an A100 that is passed through to
    a virtual machine, with a command that reboots it."""

    step: type
    prepare: Callable[[AgentNode], None]
    strike: Murder
    mig: bool = True
    deploy_labels: bool = True
    guest: bool = False
    state: str = "success"
    slices: tuple[str, ...] = ("1g.10gb@0", "1g.10gb@1", "1g.10gb@2", "1g.10gb@3", "3g.40gb@4")


def _annotated(*parts: str) -> Murder:
    """Kill once the operation record says all of that."""

    async def strike(node: AgentNode) -> None:
        def there() -> bool:
            record = node.node()["metadata"].get("annotations", {}).get(labels.OPERATION, "")
            return all(part in record for part in parts)

        await node.cluster_until(there, f"an operation record with {parts}")
        await node.kill()

    return strike


async def _dies(node: AgentNode) -> None:
    """The driver, or a command, kills it."""
    assert await node.ended() == -9


async def _evicted(node: AgentNode) -> None:
    await node.cluster_until(lambda: bool(node.evictions()), "an eviction")
    await node.kill()


async def _client_deleted(node: AgentNode) -> None:
    def deleted() -> bool:
        sent = node.cluster.requests(user_agent="warmslice")
        return any(r.method == "DELETE" and "device-plugin" in r.path for r in sent)

    await node.cluster_until(deleted, "the plugin's pod is deleted")
    await node.kill()


async def _last_write_held_back(node: AgentNode) -> None:
    """Begin, pause, resume are the first three writes of a change; the fourth never arrives."""
    await node.cluster_until(lambda: _LAST_WRITE.hits == 1, "the last write is on its way")
    await node.kill()
    node.cluster.control_plane.server.faults.clear()


async def _ended(node: AgentNode) -> None:
    await node.until("success", "mixed")
    await node.kill()


def _fault(function: str, *words: str) -> Callable[[AgentNode], None]:
    return lambda node: node.gpus.fault(function, *words)


_LAST_WRITE = Fault(method="PATCH", path=f"/nodes/{NODE}$", skip=3, count=1, stall=True)


def _hold_last_write(node: AgentNode) -> None:
    node.cluster.inject(_LAST_WRITE)


def _nothing(node: AgentNode) -> None:
    return


def _create_fails(node: AgentNode) -> None:
    node.gpus.fault(CREATE, "--code", "INSUFFICIENT_RESOURCES", "--count", "1")


def _hook_kills(node: AgentNode) -> None:
    script = node.folder / "hook"
    script.write_text(f'#!/bin/sh\ntest -e {node.folder}/done && exit 0\ntouch {node.folder}/done\nkill -9 "$PPID"\n')
    script.chmod(0o755)


def _reboots(*after: str, before: tuple[str, ...] = ()) -> Callable[[AgentNode], None]:
    """The command that reboots the machine; it also does what is said, the first time that it runs."""

    def prepare(node: AgentNode) -> None:
        simgpu = f"{node.gpus.paths.simgpu} --state {node.gpus.state}"
        once = f"test -e {node.folder}/done || {{ touch {node.folder}/done; %s; }}"
        words = [
            "#!/bin/sh",
            *(once % word for word in before),
            f"{simgpu} reboot",
            f"{simgpu} boot-id > {node.folder}/boot_id",
            *(once % word for word in after),
        ]
        script = node.folder / "reboot"
        script.write_text("\n".join(words) + "\n")
        script.chmod(0o755)

    return prepare


def _uncordon(node: AgentNode) -> None:
    """Somebody undoes our cordon as soon as it is there: evictions are slow enough for that."""
    node.cluster.inject(Fault(method="POST", path="/eviction$", code=429, retry_after=1, count=1))


async def _recordoned(node: AgentNode) -> None:
    await node.cluster_until(lambda: bool(node.node()["spec"].get("unschedulable")), "cordoned")
    node.cluster.merge(kinds.NODES, NODE, {"spec": {"unschedulable": None}})
    await _annotated('"recordoned":true')(node)


SEVEN = tuple(f"1g.10gb@{start}" for start in range(7))
CASES = {
    "Begin": Case(steps.Begin, _nothing, _annotated('"touched":false')),
    "Recordon": Case(steps.Recordon, _uncordon, _recordoned),
    "Evict": Case(steps.Evict, _nothing, _evicted),
    "Pause": Case(steps.Pause, _nothing, _annotated('"touched":true')),
    "SetMode before": Case(
        steps.SetMode, _fault("nvmlDeviceSetMigMode", "--die", "before", "--count", "1"), _dies, mig=False
    ),
    "SetMode after": Case(
        steps.SetMode, _fault("nvmlDeviceSetMigMode", "--die", "after", "--count", "1"), _dies, mig=False
    ),
    "Destroy before": Case(steps.Destroy, _fault(DESTROY, "--die", "before", "--count", "1"), _dies),
    "Destroy after": Case(steps.Destroy, _fault(DESTROY, "--die", "after", "--count", "1"), _dies),
    "Create before": Case(steps.Create, _fault(CREATE, "--die", "before", "--count", "1"), _dies),
    "Create after": Case(steps.Create, _fault(CREATE, "--die", "after", "--count", "1"), _dies),
    "AnnounceReboot": Case(
        steps.AnnounceReboot, _reboots(), _annotated('"asked_in":"first-boot"'), mig=False, guest=True
    ),
    "Reboot before": Case(steps.Reboot, _reboots(before=('kill -9 "$PPID"; exit',)), _dies, mig=False, guest=True),
    "Reboot after": Case(steps.Reboot, _reboots('kill -9 "$PPID"'), _dies, mig=False, guest=True),
    "Prepare": Case(steps.Prepare, _hook_kills, _dies),
    "Refresh": Case(steps.Refresh, _hook_kills, _dies),
    "Resume": Case(steps.Resume, _nothing, _annotated('"touched":true', '"labels":{}')),
    "RestartClient": Case(steps.RestartClient, _nothing, _client_deleted, deploy_labels=False),
    # The plugin stays, so that no change of the node comes between the failure and the record of it.
    "Turn": Case(
        steps.Turn, _create_fails, _annotated("Insufficient"), deploy_labels=False, state="failed", slices=SEVEN
    ),
    "End before": Case(steps.End, _hold_last_write, _last_write_held_back),
    "End after": Case(steps.End, _nothing, _ended),
}


def test_every_kind_of_step_has_its_case() -> None:
    assert {case.step for case in CASES.values()} | {steps.Trim} == set(get_args(steps.Step))


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_killed_for_real_while_an_instance_gets_another_split(tmp_path: Path, moment: str) -> None:
    """Two of four compute instances make room for a wider one; a pod on another does not notice."""
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("4x1c.4g.40gb")
        await node.until("success", "4x1c.4g.40gb")
        await node.run_deployment("serve", "nvidia.com/mig-1c.4g.40gb", replicas=1)
        serving = set(node.pods("serve"))
        node.gpus.fault("nvmlComputeInstanceDestroy", "--die", moment, "--count", "1")
        node.wish("1x2c.4g.40gb_2x1c.4g.40gb")
        await _dies(node)
        await node.start()
        await node.until("success", "1x2c.4g.40gb_2x1c.4g.40gb")
        (instance,) = node.gpus.show()["gpus"][0]["instances"]
        assert sorted(one["size"] for one in instance["cis"]) == [1, 1, 2]
        assert set(node.pods("serve")) == serving
        assert not node.evictions()


@pytest.mark.parametrize("name", CASES)
async def test_killed_for_real(tmp_path: Path, name: str) -> None:
    case = CASES[name]
    board = "A100-80GB" if case.guest else "H100-80GB-SXM"
    async with agent_node(tmp_path, board, mig=case.mig, deploy_labels=case.deploy_labels) as node:
        flags = _commands(node, case)
        await _stage(node, case, flags)
        before = {k: v for k, v in node.node()["metadata"]["labels"].items() if k not in (labels.CONFIG, labels.STATE)}
        case.prepare(node)
        node.wish("mixed")
        await case.strike(node)
        await node.start(**flags)
        await node.until(case.state, "mixed")
        assert node.slices() == list(case.slices)
        found = node.node()
        assert found["metadata"]["labels"] == {**before, labels.CONFIG: "mixed", labels.STATE: case.state}
        assert set(found["metadata"]["annotations"]) & {labels.OPERATION, *labels.AUTOSCALER_GUARDS} == set()
        assert not found["spec"].get("unschedulable")
        await node.cluster_until(lambda: _advertises(node, case), "allocatable shows the layout")
        if case.mig:
            running = 5 if case.slices == SEVEN else 4
            await node.cluster_until(lambda: len(node.pods("serve")) == running, "the pods run that have a slice")


def _commands(node: AgentNode, case: Case) -> dict[str, str]:
    """The host's commands, as settings; a guest can tell its boots apart."""
    hooks: dict[object, str] = {steps.Prepare: "before_commands", steps.Refresh: "refresh_commands"}
    flags = {hooks[case.step]: f'[["{node.folder}/hook"]]'} if case.step in hooks else {}
    if case.guest:
        node.gpus.run("virtualization", "--gpu", node.gpus.gpu_uuids()[0], "--kind", "passthrough")
        boot = node.folder / "boot_id"
        boot.write_text("first-boot\n")
        flags |= {"reboot_command": f'["{node.folder}/reboot"]', "boot_id_file": str(boot)}
    return flags


async def _stage(node: AgentNode, case: Case, flags: dict[str, str]) -> None:
    """With MIG on: seven small slices, five of them held: the large one needs three, so one pod has to go."""
    await node.start(**({} if case.mig else flags))
    if case.mig:
        node.wish("small")
        await node.until("success", "small")
        await node.run_deployment("serve", "nvidia.com/mig-1g.10gb", replicas=5)
        await node.stop()
        await node.start(**flags)


def _advertises(node: AgentNode, case: Case) -> bool:
    shown = node.node()["status"]["allocatable"]
    small, large = (sum(s.startswith(p) for s in case.slices) for p in ("1g", "3g"))
    return (shown.get("nvidia.com/mig-1g.10gb"), shown.get("nvidia.com/mig-3g.40gb", "0")) == (str(small), str(large))
