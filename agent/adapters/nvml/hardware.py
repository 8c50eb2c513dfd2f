"""All GPUs of the node, read and changed from asyncio. See Note [NVML on threads]."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pynvml

from agent.adapters.nvml import calls, change
from agent.adapters.nvml.read import ListedProfiles, read_gpu
from agent.adapters.nvml.threads import Threads
from agent.model.errors import AgentError
from agent.model.mig import NAMELESS, Activation, Gpu, Placement, Shape

T = TypeVar("T")


class Hardware:
    """NVML for one node. ``read_seconds`` bounds one GPU's read, ``change_seconds`` one change."""

    def __init__(self, read_seconds: float = 20.0, change_seconds: float = 60.0) -> None:
        self._read_seconds = read_seconds
        self._change_seconds = change_seconds
        self._threads = Threads()
        self._open = False
        self._opening = threading.Lock()
        self._places: dict[int, str] = {}
        self._last: dict[str, Gpu] = {}
        self._listed = ListedProfiles()
        self._generations: Counter[tuple[str, Placement]] = Counter()
        self._before_closing: list[Callable[[], None]] = []

    def before_closing(self, let_go: Callable[[], None]) -> None:
        """Call this on the reading thread before the session is closed, whoever closes it: what the driver gave belongs to it."""
        self._before_closing.append(let_go)

    async def read(self) -> tuple[Gpu, ...]:
        """Every GPU, in PCI order. One that does not answer in time, is lost, or is not listed any more though this process
        has seen it, comes back as ``unknown``.

        RetryError while the driver is not there.
        """
        count = await self._on_reader("the driver", self._count)
        found: dict[str, Gpu] = {}
        silent: list[tuple[int, str]] = []
        for index in range(count):
            try:
                gpu = await self._read_one(index)
                found[gpu.uuid] = gpu
            except AgentError as error:
                # Whatever it is, it is this GPU's alone.
                silent.append((index, str(error)))
        unknown = self._missing(set(found), silent)
        self._last |= {uuid: gpu for uuid, gpu in found.items() if not gpu.unknown}
        return tuple(sorted((*found.values(), *unknown), key=lambda gpu: gpu.index))

    async def create(self, gpu: str, placement: Placement, shape: Shape) -> None:
        """See ``change.create``. InUseError, HardwareError, RetryError."""
        await self._change(gpu, lambda device, mib: change.create(device, placement, shape, mib))

    async def destroy(self, gpu: str, placement: Placement, profile: str) -> None:
        """See ``change.destroy``. InUseError, HardwareError, RetryError."""

        def act(device: Any, mib: int) -> None:
            # On the thread: a call that is given up on may still destroy.
            try:
                change.destroy(device, placement, profile, mib)
            finally:
                self._generations[gpu, placement] += 1

        await self._change(gpu, act)

    def generation(self, gpu: str, placement: Placement) -> int:
        """How often this process has destroyed what was at that place: what comes there next is another instance, whatever ids
        the driver gives it."""
        return self._generations[gpu, placement]

    async def trim(self, gpu: str, placement: Placement, profile: str, parts: tuple[Placement, ...]) -> None:
        """See ``change.trim``. InUseError, HardwareError, RetryError."""
        await self._change(gpu, lambda device, mib: change.trim(device, placement, profile, parts, mib))

    async def set_mode(self, gpu: str, enabled: bool) -> Activation:
        """See ``change.set_mode``."""
        return await self._change(gpu, lambda device, _: change.set_mode(device, enabled))

    async def on_reader(self, about: str, function: Callable[[], T]) -> T:
        """Run a read of somebody else's (telemetry) on the reading thread, with the session open. ``about``: see Threads."""

        def opened() -> T:
            self._ensure_open()
            return function()

        return await self._on_reader(about, opened)

    def hanging(self) -> tuple[str, ...]:
        """What calls are about that were left behind and have not come back."""
        return self._threads.hanging()

    async def release(self) -> None:
        """Close the session, so that the driver can be unloaded or a GPU reset. The next read opens it again."""
        await self._on_reader("closing NVML", self._close)

    def _count(self) -> int:
        self._ensure_open()
        try:
            count: int = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self._close()
            calls.fail("counting GPUs", error)
        return count

    async def _read_one(self, index: int) -> Gpu:
        """The GPU of that index, which in one session is always the same one."""
        uuid = self._places.get(index)
        if uuid is None:
            uuid = await self._on_reader(f"GPU {index}", partial(_uuid_at, index))
            self._places[index] = uuid
        gpu = await self._on_reader(uuid, partial(_read, index, uuid, self._listed))
        before = self._last.get(uuid)
        if gpu.mig_enabled is None and before is not None and before.mig_enabled is not None:
            return _unknown(before, index, "the driver says now that it has no MIG, and said before that it has")
        return gpu

    def _missing(self, found: set[str], silent: list[tuple[int, str]]) -> list[Gpu]:
        """Those that were not read: GPUs that this process knows, and places of which nobody knows which GPU is there."""
        why = {self._places[index]: (index, words) for index, words in silent if index in self._places}
        nowhere = [(index, words) for index, words in silent if index not in self._places]
        unknown = []
        for uuid, known in self._last.items():
            if uuid in found:
                continue
            place = why.pop(uuid, None) or (nowhere.pop(0) if nowhere else None)
            if place is not None:
                unknown.append(_unknown(known, *place))
            else:
                gone = _unknown(known, known.index, "the driver does not list it any more")
                unknown.append(replace(gone, listed=False))
        rest = [(index, uuid, words) for uuid, (index, words) in why.items()]
        rest += [(index, f"{NAMELESS}{index}", words) for index, words in nowhere]
        return unknown + [_nameless(index, uuid, words) for index, uuid, words in rest]

    async def _change(self, gpu: str, act: Callable[[Any, int], T]) -> T:
        return await self._threads.call(gpu[:12], gpu, lambda: self._act(gpu, act), self._change_seconds)

    def _act(self, gpu: str, act: Callable[[Any, int], T]) -> T:
        self._ensure_open()
        try:
            device = pynvml.nvmlDeviceGetHandleByUUID(gpu)
            total_mib = pynvml.nvmlDeviceGetMemoryInfo(device).total >> 20
        except pynvml.NVMLError as error:
            calls.fail(f"finding GPU {gpu}", error)
        return act(device, total_mib)

    async def _on_reader(self, about: str, function: Callable[[], T]) -> T:
        return await self._threads.call("read", about, function, self._read_seconds)

    def _ensure_open(self) -> None:
        # NVML counts its openings: a session that two threads opened would outlive one closing, and bar a reset.
        with self._opening:
            if self._open:
                return
            try:
                pynvml.nvmlInit()
            except pynvml.NVMLError as error:
                calls.fail("opening NVML", error)
            self._open = True

    def _close(self) -> None:
        # The next session counts the GPUs anew: one that was lost shifts the indices of all behind it.
        self._places.clear()
        if self._open:
            for let_go in self._before_closing:
                let_go()
            self._open = False
            # A driver that is gone has no session left to close; what else it may say, the next opening will tell.
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _uuid_at(index: int) -> str:
    try:
        return calls.text(pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetHandleByIndex(index)))
    except pynvml.NVMLError as error:
        calls.fail(f"reading GPU {index}", error)


def _read(index: int, uuid: str, listed: ListedProfiles) -> Gpu:
    try:
        return read_gpu(pynvml.nvmlDeviceGetHandleByIndex(index), index, uuid, listed)
    except pynvml.NVMLError as error:
        calls.fail(f"reading GPU {index}", error)


def _unknown(known: Gpu, index: int, why: str) -> Gpu:
    return Gpu(
        uuid=known.uuid,
        index=index,
        name=known.name,
        pci_device_id=known.pci_device_id,
        memory_mib=known.memory_mib,
        mig_enabled=known.mig_enabled,
        mig_pending=known.mig_pending,
        resetless=known.resetless,
        unknown=why,
    )


def _nameless(index: int, uuid: str, why: str) -> Gpu:
    return Gpu(uuid, index, "unknown", "", 0, None, None, False, unknown=why)
