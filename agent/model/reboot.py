"""MIG modes that only a reboot of the machine brings, as the journal and the status remember them.

# Note [What only a reboot brings]
# Ampere switches MIG mode by a reset of the GPU. Where the GPU is passed through to a virtual machine nobody inside can reset
# it: the mode stays pending (activation RESET_REQUIRED in nvml.h, NOT_SUPPORTED on some hypervisors) until the guest reboots.
# A change that meets this first asks all its modes, so that one reboot brings them all. Then it has the machine rebooted by
# the administrator's command, or, where none is set, puts the old slices back and leaves the modes pending: whoever reboots
# the machine then brings them, and the next boot's first pass goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from agent.model.mig import Gpu


@dataclass(frozen=True, slots=True)
class RebootRecord:
    """``modes`` (by GPU UUID) were pending in the boot ``boot_id``, for the wish ``revision``.

    ``asked_in`` is the boot in which a reboot was last asked for, "" for none, and ``asked`` when this change did so (seconds
    since the epoch). ``called``: the command has been run since, and worked. ``useless``: after that reboot the mode was
    not in force.
    """

    revision: str
    boot_id: str
    modes: dict[str, bool] = field(default_factory=dict)
    asked_in: str = ""
    asked: float | None = None
    called: bool = False
    useless: bool = False

    def pending_in(self, gpus: Iterable[Gpu]) -> dict[str, bool]:
        """The modes that are pending still. Of a GPU that does not answer it is not known that its mode was called off."""
        now = {gpu.uuid: gpu for gpu in gpus}
        return {uuid: mode for uuid, mode in self.modes.items() if uuid in now and _is_pending(now[uuid], mode)}

    def narrowed_to(self, gpus: Iterable[Gpu]) -> RebootRecord | None:
        """The record of what is pending still; None where nothing is."""
        modes = self.pending_in(gpus)
        return replace(self, modes=modes) if modes else None


def _is_pending(gpu: Gpu, mode: bool) -> bool:
    return bool(gpu.unknown) or (gpu.mig_enabled != mode and gpu.mig_pending == mode)
