"""Changes of the GPUs, with the reset that a mode change owes on Ampere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

from agent.adapters.nvml import Hardware
from agent.adapters.nvml.peers import joined_with
from agent.model.errors import HardwareError, RebootError
from agent.model.mig import Placement, Shape


class Gpus:
    """NVML's changes; ``release`` closes every NVML session of ours, ``reset`` resets GPUs by UUID, in one command, once they
    are closed; RebootError where that is not available."""

    def __init__(
        self,
        hardware: Hardware,
        release: Callable[[], Awaitable[None]],
        reset: Callable[[Sequence[str]], Awaitable[None]],
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

    async def set_mode(self, gpu: str, enabled: bool, others: Mapping[str, str]) -> None:
        """Switch, and reset that GPU alone where the switch stays pending.

        Its NVSwitch peers are reset with it only where the board requires it, and only when ``others`` says of each that nobody
        is on it. InUseError while somebody holds the GPU, RebootError where nothing but a reboot of the machine helps.
        """
        activation = await self._hardware.set_mode(gpu, enabled)
        if activation == "by reset":
            await self._reset_for_mode(gpu, others)
            activation = await self._hardware.set_mode(gpu, enabled)
        if activation == "by reset":
            raise HardwareError(f"GPU {gpu}: MIG mode is still pending after a reset")
        if activation == "by reboot":
            raise RebootError(f"GPU {gpu}: MIG mode {'on' if enabled else 'off'} is pending until this machine reboots")

    async def _reset_for_mode(self, gpu: str, others: Mapping[str, str]) -> None:
        await self._release()
        try:
            await self._reset([gpu])
        except RebootError:
            # Not in a guest, and not without its peers: nvidia-smi's exit code is the same.
            peers = await self._hardware.on_reader(f"peers of {gpu}", partial(joined_with, gpu))
            if not peers:
                raise
            await self._reset_together(gpu, peers, others)

    async def _reset_together(self, gpu: str, peers: Sequence[str], others: Mapping[str, str]) -> None:
        taken = [who for peer in peers if (who := others.get(peer, f"who is on {peer} is not known"))]
        if taken:
            raise HardwareError(
                f"{gpu} can be reset only together with the GPUs that NVSwitch joins it with, while Fabric Manager does not "
                f"run; {'; '.join(taken)}"
            )
        await self._release()
        await self._reset([gpu, *peers])
