"""The whole world of one pass, read once."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.mig import Gpu
from agent.model.node import Budget, DeviceOwner, Node, Offers, Pod


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a pass decides on. ``now`` and ``boot_began`` are seconds since the epoch, the latter 0 where it is not known.

    ``owners`` is None when the kubelet could not be asked; ``owners_error`` says why. Then nobody is known to be free.
    ``offers`` is None where nobody needs to know them, and while they are not known yet. ``unready``: which gated models that are
    wanted here are not on disk, in words; empty where there are none, or changes do not wait for them.
    """

    now: float
    node: Node
    gpus: tuple[Gpu, ...]
    pods: tuple[Pod, ...]
    owners: tuple[DeviceOwner, ...] | None
    owners_error: str = ""
    budgets: tuple[Budget, ...] = ()
    boot_began: float = 0.0
    offers: Offers | None = None
    unready: str = ""
