"""All GPUs of the node, read and changed from asyncio. See Note [NVML on threads]."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import pynvml

from agent.adapters.nvml import calls, change
from agent.adapters.nvml.read import ListedProfiles, read_gpu
from agent.model.errors import AgentError, RetryError
from agent.model.mig import Gpu, Placement, Shape

T = TypeVar("T")


class Hardware:
    """NVML for one node. ``read_seconds`` bounds one GPU's read, ``change_seconds`` one change."""

    def __init__(self, read_seconds: float = 20.0, change_seconds: float = 60.0) -> None:
        self._read_seconds = read_seconds
        self._change_seconds = change_seconds
        self._reader = _thread("nvml-read")
        self._changers: dict[str, ThreadPoolExecutor] = {}
        self._open = False
        self._opening = threading.Lock()
        self._hung: dict[str, Future[Any]] = {}
        self._last: dict[str, Gpu] = {}
        self._listed = ListedProfiles()

    async def read(self) -> tuple[Gpu, ...]:
        """Every GPU, in PCI order. One that does not answer in time, or is lost, comes back as ``unknown``.

        RetryError while the driver is not there.
        """
        count = await self._on_reader(self._count, self._read_seconds)
        return tuple([await self._read_one(index) for index in range(count)])

    async def create(self, gpu: str, placement: Placement, shape: Shape) -> None:
        """See ``change.create``. InUseError, HardwareError, RetryError."""
        await self._change(gpu, lambda device, mib: change.create(device, placement, shape, mib))

    async def destroy(self, gpu: str, placement: Placement, profile: str) -> None:
        """See ``change.destroy``. InUseError, HardwareError, RetryError."""
        await self._change(gpu, lambda device, mib: change.destroy(device, placement, profile, mib))

    async def trim(self, gpu: str, placement: Placement, profile: str, parts: tuple[Placement, ...]) -> None:
        """See ``change.trim``. InUseError, HardwareError, RetryError."""
        await self._change(gpu, lambda device, mib: change.trim(device, placement, profile, parts, mib))

    async def set_mode(self, gpu: str, enabled: bool) -> bool:
        """See ``change.set_mode``."""
        return await self._change(gpu, lambda device, _: change.set_mode(device, enabled))

    async def on_reader(self, function: Callable[[], T]) -> T:
        """Run a read of somebody else's (telemetry) on the reading thread, with the session open."""

        def opened() -> T:
            self._ensure_open()
            return function()

        return await self._on_reader(opened, self._read_seconds)

    async def release(self) -> None:
        """Close the session, so that the driver can be unloaded or a GPU reset. The next read opens it again."""
        await self._on_reader(self._close, self._read_seconds)

    def _count(self) -> int:
        self._ensure_open()
        try:
            count: int = pynvml.nvmlDeviceGetCount()
        except pynvml.NVMLError as error:
            self._close()
            calls.fail("counting GPUs", error)
        return count

    async def _read_one(self, index: int) -> Gpu:
        known = next((gpu for gpu in self._last.values() if gpu.index == index), None)
        stuck = self._hung.get(known.uuid) if known is not None else None
        if known is not None and stuck is not None:
            if not stuck.done():
                return _unknown(known, "a call to the driver has not come back")
            del self._hung[known.uuid]
        try:
            gpu = await self._on_reader(lambda: _read(index, self._listed), self._read_seconds, known)
        except AgentError as error:
            # Whatever it is, it is this GPU's alone.
            return _unknown(known or _nameless(index), str(error))
        before = self._last.get(gpu.uuid)
        if gpu.mig_enabled is None and before is not None and before.mig_enabled is not None:
            return _unknown(before, "the driver says now that it has no MIG, and said before that it has")
        self._last[gpu.uuid] = gpu
        return gpu

    async def _change(self, gpu: str, act: Callable[[Any, int], T]) -> T:
        thread = self._changers.setdefault(gpu, _thread(f"nvml-{gpu[:12]}"))
        stuck = self._hung.get(gpu)
        if stuck is not None and not stuck.done():
            raise RetryError(f"GPU {gpu}: a call to the driver has not come back")
        future = thread.submit(self._act, gpu, act)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._change_seconds)
        except TimeoutError as error:
            self._leave_behind(gpu, future)
            self._changers[gpu] = _thread(f"nvml-{gpu[:12]}")
            raise RetryError(f"GPU {gpu}: the driver did not answer within {self._change_seconds:.0f} s") from error

    def _act(self, gpu: str, act: Callable[[Any, int], T]) -> T:
        self._ensure_open()
        try:
            device = pynvml.nvmlDeviceGetHandleByUUID(gpu)
            total_mib = pynvml.nvmlDeviceGetMemoryInfo(device).total >> 20
        except pynvml.NVMLError as error:
            calls.fail(f"finding GPU {gpu}", error)
        return act(device, total_mib)

    async def _on_reader(self, function: Callable[[], T], seconds: float, known: Gpu | None = None) -> T:
        future = self._reader.submit(function)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
        except TimeoutError as error:
            self._reader = _thread("nvml-read")
            if known is not None:
                self._leave_behind(known.uuid, future)
            raise RetryError(f"the driver did not answer within {seconds:.0f} s") from error

    def _leave_behind(self, gpu: str, future: Future[Any]) -> None:
        if not future.done():
            self._hung[gpu] = future

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
        if self._open:
            self._open = False
            # A driver that is gone has no session left to close; what else it may say, the next opening will tell.
            with contextlib.suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()


def _read(index: int, listed: ListedProfiles) -> Gpu:
    try:
        device = pynvml.nvmlDeviceGetHandleByIndex(index)
        return read_gpu(device, index, calls.text(pynvml.nvmlDeviceGetUUID(device)), listed)
    except pynvml.NVMLError as error:
        calls.fail(f"reading GPU {index}", error)


def _unknown(known: Gpu, why: str) -> Gpu:
    return Gpu(
        uuid=known.uuid,
        index=known.index,
        name=known.name,
        pci_device_id=known.pci_device_id,
        memory_mib=known.memory_mib,
        mig_enabled=known.mig_enabled,
        mig_pending=known.mig_pending,
        resetless=known.resetless,
        unknown=why,
    )


def _nameless(index: int) -> Gpu:
    return Gpu(f"GPU-unknown-{index}", index, "unknown", "", 0, None, None, False)


def _thread(name: str) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=name)
