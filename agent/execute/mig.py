"""Changes of the GPUs, with the reset that a mode change owes on Ampere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from agent.adapters.nvml import Hardware
from agent.model.errors import HardwareError
from agent.model.mig import Placement, Shape


class Gpus:
    """NVML's changes; ``release`` closes every NVML session of ours, ``reset`` resets one GPU by UUID once they are closed."""

    def __init__(
        self, hardware: Hardware, release: Callable[[], Awaitable[None]], reset: Callable[[str], Awaitable[None]]
    ) -> None:
        self._hardware = hardware
        self._release = release
        self._reset = reset

    async def create(self, gpu: str, placement: Placement, shape: Shape) -> None:
        """See Hardware.create."""
        await self._hardware.create(gpu, placement, shape)

    async def destroy(self, gpu: str, placement: Placement, profile: str) -> None:
        """See Hardware.destroy."""
        await self._hardware.destroy(gpu, placement, profile)

    async def trim(self, gpu: str, placement: Placement, profile: str, parts: tuple[Placement, ...]) -> None:
        """See Hardware.trim."""
        await self._hardware.trim(gpu, placement, profile, parts)

    async def set_mode(self, gpu: str, enabled: bool) -> None:
        """Switch, and reset that GPU alone where the switch stays pending. InUseError while somebody holds the GPU."""
        if await self._hardware.set_mode(gpu, enabled):
            return
        await self._release()
        await self._reset(gpu)
        if not await self._hardware.set_mode(gpu, enabled):
            raise HardwareError(f"GPU {gpu}: MIG mode is still pending after a reset; the machine may need a reboot")
