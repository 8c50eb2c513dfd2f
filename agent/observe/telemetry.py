"""The one sampler of GPUs and slices: a look at every GPU each period, whoever scrapes and however often.

# Note [A GPU that is known]
# A GPU that does not answer, and one that the driver does not list any more, stays in the snapshot as ``down`` as long as this
# process lives: nothing would tell of a lost GPU if its series just went. Where it stands in the driver's order is known from
# the last time that it answered, unless another one answers there now.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.adapters.nvml import Hardware
from agent.adapters.nvml.sampler import GpuSampler, count_gpus
from agent.adapters.nvml.xids import XidListener
from agent.model.errors import AgentError, RetryError
from agent.model.mig import NAMELESS
from agent.model.telemetry import GpuSample, SliceSample, TelemetrySnapshot, Xid

log = logging.getLogger(__name__)

_XIDS = "Xid errors"
_SHORTEST_INTERVAL_SECONDS = 0.1
_USUAL_INTERVAL_SECONDS = 1.0


class Telemetry:
    """``publish`` gets each snapshot; ``now`` gives seconds since the epoch. A driver that is not there, and a GPU that is
    lost or does not answer, are in the snapshot as what could not be read, and end nothing."""

    def __init__(
        self,
        hardware: Hardware,
        period_seconds: float,
        now: Callable[[], float],
        publish: Callable[[TelemetrySnapshot], None],
    ) -> None:
        self._hardware = hardware
        self._period_seconds = period_seconds
        self._now = now
        self._publish = publish
        self._gpus: dict[int, _Gpu] = {}
        self._known: dict[str, GpuSample] = {}
        self._listener = XidListener()
        self._xids: dict[Xid, int] = {}
        self._deaf = ""
        self._paused = False
        self._looking = asyncio.Lock()
        self._wake = asyncio.Event()
        self._last = TelemetrySnapshot(0.0)
        hardware.before_closing(self._let_go)

    async def run(self) -> None:
        """Look each period until cancelled, and when woken, which puts off no look that is due; those that are missed are left
        out."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            self._wake.clear()
            await self.look()
            if loop.time() >= due:
                due = max(due + self._period_seconds, loop.time())
            await self._wait_until(due)

    def wake(self) -> None:
        """Slices may have changed: look now, so that their series come and go with them."""
        self._wake.set()

    async def pause(self) -> None:
        """Ask the driver nothing from now on, so that the NVML session can be closed and stays so. Returns when the look under
        way has ended."""
        self._paused = True
        async with self._looking:
            self._wake.set()

    def _let_go(self) -> None:
        """Of what the session gave, before it is closed. A stuck call keeps what it has."""
        for gpu in self._gpus.values():
            gpu.forget()
        self._listener.forget()

    def resume(self) -> None:
        """The driver may be asked again."""
        if self._paused:
            self._paused = False
            self._wake.set()

    async def look(self) -> TelemetrySnapshot:
        """One look, published and returned."""
        async with self._looking:
            sampled_at = self._now()
            snapshot = self._pausing(sampled_at) if self._paused else await self._look(sampled_at)
            if self._paused:
                snapshot = self._pausing(sampled_at)
        self._say_what_changed(snapshot)
        self._publish(snapshot)
        return snapshot

    def _pausing(self, sampled_at: float) -> TelemetrySnapshot:
        """What was heard stays: a count that went and came again would look like news."""
        return TelemetrySnapshot(sampled_at, paused=True, xids=dict(self._xids))

    async def _look(self, sampled_at: float) -> TelemetrySnapshot:
        try:
            count = await self._hardware.on_reader("counting GPUs", count_gpus)
        except AgentError as error:
            down = tuple(_down(known, str(error)) for known in self._known.values())
            return TelemetrySnapshot(sampled_at, error=str(error), gpus=down, xids=dict(self._xids))
        gpus: list[GpuSample] = []
        slices: list[SliceSample] = []
        unreadable: dict[int, str] = {}
        for index in range(count):
            if self._paused:
                break
            try:
                gpu, cut = await self._gpu(index).look(self._hardware)
            except AgentError as error:
                unreadable[index] = str(error)
            else:
                gpus.append(gpu)
                slices.extend(cut)
        self._known |= {gpu.uuid: gpu for gpu in gpus}
        gpus += self._missing({gpu.uuid for gpu in gpus}, unreadable)
        await self._hear()
        self._forget_xids(gpus, slices)
        gpus.sort(key=lambda gpu: (gpu.index, gpu.uuid))
        last = {xid.gpu: xid.number for xid in self._xids}
        none_yet = None if self._deaf else 0
        told = tuple(replace(gpu, last_xid=last.get(gpu.uuid, none_yet)) for gpu in gpus)
        return TelemetrySnapshot(sampled_at, tuple(slices), unreadable, gpus=told, xids=dict(self._xids))

    def _missing(self, answering: set[str], unreadable: Mapping[int, str]) -> list[GpuSample]:
        """See Note [A GPU that is known]."""
        silent = [known for uuid, known in self._known.items() if uuid not in answering]
        places = {known.index for known in silent}
        silent += [GpuSample(f"{NAMELESS}{index}", index) for index in unreadable if index not in places]
        return [_down(gpu, unreadable.get(gpu.index, "the driver does not list it any more")) for gpu in silent]

    async def _hear(self) -> None:
        before = self._deaf
        try:
            heard, self._deaf = await self._hardware.on_reader(_XIDS, self._listener.hear)
        except AgentError as error:
            heard, self._deaf = (), str(error)
        if self._deaf and self._deaf != before:
            log.warning("telemetry.no_xids", extra={"why": self._deaf})
        for xid in heard:
            # The last one heard stands last.
            self._xids[xid] = self._xids.pop(xid, 0) + 1
            about = {"gpu": xid.gpu, "index": xid.gpu_index, "gpu_instance": xid.gpu_instance, "xid": xid.number}
            log.warning("gpu.xid", extra=about)

    def _forget_xids(self, gpus: Sequence[GpuSample], slices: Sequence[SliceSample]) -> None:
        """Ids of GPU instances are given again: what was counted of one goes with it."""
        there = {(one.gpu, one.gpu_instance) for one in slices}
        answering = {gpu.uuid for gpu in gpus if not gpu.down}
        for xid in list(self._xids):
            gone = xid.gpu in answering and (xid.gpu, xid.gpu_instance) not in there
            if xid.gpu_instance is not None and gone:
                del self._xids[xid]

    def _gpu(self, index: int) -> _Gpu:
        if index not in self._gpus:
            interval = max(_SHORTEST_INTERVAL_SECONDS, min(_USUAL_INTERVAL_SECONDS, self._period_seconds / 2))
            self._gpus[index] = _Gpu(GpuSampler(index, interval, self._hardware.generation), f"the load of GPU {index}")
        return self._gpus[index]

    async def _wait_until(self, due: float) -> None:
        try:
            async with asyncio.timeout_at(due):
                await self._wake.wait()
        except TimeoutError:
            return

    def _say_what_changed(self, snapshot: TelemetrySnapshot) -> None:
        before, self._last = self._last, snapshot
        if snapshot.error and snapshot.error != before.error:
            log.warning("telemetry.no_driver", extra={"why": snapshot.error})
        for index, why in snapshot.unreadable.items():
            if before.unreadable.get(index) != why:
                log.warning("telemetry.unreadable", extra={"gpu": index, "why": why})
        for index in before.unreadable.keys() - snapshot.unreadable.keys():
            log.info("telemetry.readable_again", extra={"gpu": index})


@dataclass(slots=True)
class _Gpu:
    """One GPU's sampler. ``inside``: a look is in the driver; while one is stuck there, nothing is sent after it."""

    sampler: GpuSampler
    about: str
    inside: bool = False

    async def look(self, hardware: Hardware) -> tuple[GpuSample, tuple[SliceSample, ...]]:
        """RetryError while a call has not come back."""
        if self.inside:
            raise RetryError("a call to the driver has not come back")
        return await hardware.on_reader(self.about, self._look)

    def forget(self) -> None:
        """On the reading thread. A stuck call keeps what it has; what a driver that does not answer gave is as good as gone."""
        if not self.inside:
            self.sampler.forget()

    def _look(self) -> tuple[GpuSample, tuple[SliceSample, ...]]:
        self.inside = True
        try:
            return self.sampler.look()
        finally:
            self.inside = False


def _down(known: GpuSample, why: str) -> GpuSample:
    return GpuSample(known.uuid, known.index, known.model, known.mig, down=why, pci_bus_id=known.pci_bus_id)
