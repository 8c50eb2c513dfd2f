"""`warmslice apply`: a change of layout by hand, on a host without Kubernetes. The engine and its guards are the agent's.

The wish is written where a node has its label, and passes are made until it is reached, refused or undone. See Note [A host is
a node] in adapters/host_node.py for what takes the API server's place.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from agent.adapters import clock, command
from agent.adapters.boot import this_boot
from agent.adapters.cgroups import Processes
from agent.adapters.dra import DraOnce
from agent.adapters.host_node import HostNode
from agent.adapters.kubelet import KubeletIfAny
from agent.adapters.nvml import Hardware
from agent.commands.saying import SayingHands
from agent.execute.mig import Gpus
from agent.model import labels
from agent.model.errors import AgentError, BadInputError, InUseError, RefusedError
from agent.model.mig import Gpu
from agent.model.operation import Operation
from agent.model.report import NodeStatus, PartitionReport
from agent.observe.claims import Claims
from agent.observe.world import World
from agent.reconcile.fleet import NoSlots
from agent.reconcile.host import HostCommands
from agent.reconcile.partition import PartitionPass, Rules
from agent.reconcile.policy import policy_of
from agent.settings import Settings

Say = Callable[[str], None]

DONE, REFUSED, BAD_INPUT, BLOCKED = range(4)
"""Exit codes."""

_MISTAKES = frozenset({"unknown-layout", "unparsable-layout", "layouts-unreadable", "unknown-gpu"})
"""Refusals of what was typed, not of what the hardware can do."""

_THEN = {"reboot-required": "; after the reboot, ask again"}
"""What a label does by itself, and a command does not."""

_PAUSE_SECONDS = 1.0
"""No event tells when a process ends: look again."""

_LEAST_BACK_SECONDS = 60.0
"""A way back is not cut short because the way forward was."""


async def apply(settings: Settings, layout: str | None, indices: Sequence[int], seconds: float, say: Say) -> int:
    """Make the GPUs (those of ``indices``, or all) as the layout says; without one, end what was interrupted. The exit code.

    What is not reached within ``seconds``, or until a signal, is undone.
    """
    name = settings.node_name or socket.gethostname().lower()
    try:
        with HostNode.held(Path(settings.state_directory), name) as node:
            return await _apply(settings, node, layout, indices, seconds, say)
    except InUseError as error:
        say(f"blocked: {error}")
        return BLOCKED


async def _apply(
    settings: Settings, node: HostNode, layout: str | None, indices: Sequence[int], seconds: float, say: Say
) -> int:
    hardware = Hardware()
    try:
        operation = _operation(node)
        if layout is None and operation is None:
            say("no change is unfinished here")
            return DONE
        chosen = _chosen(await hardware.read(), layout, indices, operation)
        await _ask(node, settings.mig_config_label, layout)
        one_pass = _engine(settings, node, hardware, chosen, say)
        return await _until_ended(node, settings.mig_config_label, one_pass, seconds, say)
    finally:
        await hardware.release()


def _chosen(
    gpus: tuple[Gpu, ...], layout: str | None, indices: Sequence[int], operation: Operation | None
) -> frozenset[str]:
    """UUIDs of the GPUs that this is about. An unfinished change is ended with the GPUs that it began with."""
    unknown = sorted(set(indices) - {gpu.index for gpu in gpus})
    if unknown:
        raise BadInputError(f"there is no GPU {unknown[0]}; this host has {', '.join(str(gpu.index) for gpu in gpus)}")
    chosen = frozenset(gpu.uuid for gpu in gpus if not indices or gpu.index in indices)
    if operation is None:
        return chosen
    begun = frozenset(operation.before)
    if (
        layout is not None
        and frozenset(gpu.uuid for gpu in gpus if gpu.uuid in chosen and gpu.mig_enabled is not None) != begun
    ):
        named = ", ".join(str(gpu.index) for gpu in gpus if gpu.uuid in begun)
        raise BadInputError(
            f"a change of GPU {named} to {operation.layout!r} is unfinished: end it with --resume, or ask for another layout of "
            "the same GPUs"
        )
    return begun


async def _ask(node: HostNode, key: str, layout: str | None) -> None:
    """Write the wish down. Who asks by hand need not wait for what an earlier attempt has to wait for."""
    patch: dict[str, Any] = {"annotations": {labels.STATUS: None}}
    if layout is not None:
        patch["labels"] = {key: layout}
    await node.patch_node("", {"metadata": patch})


async def _until_ended(node: HostNode, key: str, one_pass: Callable[[], Any], seconds: float, say: Say) -> int:
    loop = asyncio.get_running_loop()
    enough = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, enough.set)
    timer = loop.call_later(seconds, enough.set)
    try:
        while True:
            wait = await _passed(one_pass, say)
            code = _verdict(node, say)
            if code is not None:
                return code
            if enough.is_set() and _operation(node) is None:
                say(f"not begun: {_status(node).message or 'nothing was touched'}")
                return BLOCKED
            if enough.is_set() and key in _labels(node):
                say("out of time: going back to what was before")
                await node.patch_node("", {"metadata": {"labels": {key: None}}})
                enough.clear()
                timer.cancel()
                timer = loop.call_later(max(seconds, _LEAST_BACK_SECONDS), enough.set)
                continue
            if enough.is_set():
                say(f"unfinished: {_status(node).message}; go on with warmslice apply --resume")
                return BLOCKED
            await _rest(enough, wait)
    finally:
        timer.cancel()


async def _passed(one_pass: Callable[[], Any], say: Say) -> float:
    try:
        wait: float = await one_pass()
        return wait
    except AgentError as error:
        say(f"waiting: {error}")
        return _PAUSE_SECONDS


async def _rest(enough: asyncio.Event, wait: float) -> None:
    try:
        async with asyncio.timeout(min(wait, _PAUSE_SECONDS)):
            await enough.wait()
    except TimeoutError:
        return


def _verdict(node: HostNode, say: Say) -> int | None:
    """The exit code, once it is over."""
    status = _status(node)
    if _operation(node) is not None:
        return None
    if status.state == "success":
        say(f"done: {status.message}")
        return DONE
    if status.state == "failed":
        say(f"{status.reason}: {status.message}{_THEN.get(status.reason, '')}")
        return BAD_INPUT if status.reason in _MISTAKES else REFUSED
    if status.reason in ("blocked", "operation-unreadable"):
        say(f"{status.reason}: {status.message}")
        return BLOCKED
    return None


def _engine(settings: Settings, node: HostNode, hardware: Hardware, chosen: frozenset[str], say: Say) -> PartitionPass:
    gpus = _Chosen(hardware, chosen)
    boot = partial(this_boot, settings.boot_id_file)
    # Who asks by hand is there to reboot the machine, or not to.
    policy = replace(policy_of(settings), reboots=False)
    changes = Gpus(hardware, hardware.release, command.reset_gpus)
    return PartitionPass(
        World(
            node,
            _NoPods(),
            gpus,
            KubeletIfAny(settings.pod_resources_socket),
            Claims(DraOnce(None, "")),
            Processes(settings.proc_directory).origin,
            _no_budgets,
            boot,
            clock.now,
        ),
        SayingHands(node, changes, _ByHand(settings), gpus.index_of, say),
        node,
        _NoEvents(),
        _NoCounts(),
        NoSlots(),
        _nothing_published,
        Rules(settings.layouts_file, settings.mig_config_label, policy, settings.resync_seconds),
        clock.now,
    )


class _Chosen:
    """The GPUs that the change is about, for reading."""

    def __init__(self, hardware: Hardware, chosen: frozenset[str]) -> None:
        self._hardware = hardware
        self._chosen = chosen
        self._indices: dict[str, int] = {}

    async def read(self) -> tuple[Gpu, ...]:
        found = tuple(gpu for gpu in await self._hardware.read() if gpu.uuid in self._chosen)
        self._indices |= {gpu.uuid: gpu.index for gpu in found}
        return found

    async def release(self) -> None:
        await self._hardware.release()

    def index_of(self, uuid: str) -> int | None:
        return self._indices.get(uuid)


class _NoPods:
    synced = True
    objects: tuple[dict[str, Any], ...] = ()


class _NoEvents:
    async def create_event(self, namespace: str, event: dict[str, Any]) -> None:
        """The command says it."""


class _NoCounts:
    def slice_changed(self, action: str) -> None: ...

    def pod_evicted(self) -> None: ...

    def reconfigured(self, outcome: str, reason: str) -> None: ...

    def phase(self, phase: str, seconds: float) -> None: ...

    def drifted(self) -> None: ...


class _ByHand(HostCommands):
    async def reboot(self) -> None:
        raise RefusedError("a change by hand reboots nothing")


async def _no_budgets() -> list[dict[str, Any]]:
    return []


def _nothing_published(report: PartitionReport) -> None:
    """Nobody scrapes a command."""


def _labels(node: HostNode) -> dict[str, str]:
    found: dict[str, str] = node.objects[0]["metadata"]["labels"]
    return found


def _status(node: HostNode) -> NodeStatus:
    text = node.objects[0]["metadata"]["annotations"].get(labels.STATUS, "null")
    return NodeStatus.from_json(text) or NodeStatus("pending", "", "", 0.0)


def _operation(node: HostNode) -> Operation | None:
    text = node.objects[0]["metadata"]["annotations"].get(labels.OPERATION)
    return Operation.from_json(text) if text else None
