"""What a layout would do to a node: the answer to a dry run, and to `warmslice plan`, in one shape."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import msgspec

Verdict = Literal["nothing", "change", "wait", "refused"]


@dataclass(frozen=True, slots=True)
class GpuAnswer:
    """One GPU. Instances are written ``profile@start:size``, in memory slices.

    ``gpu`` is its index, ``memory_slices`` how many it has, ``mode`` the MIG mode that it gets (None: it stays). ``now`` are
    its instances, ``keep`` and ``destroy`` share them out, ``create`` comes. ``holders`` names who is on an instance of now.
    """

    gpu: int
    uuid: str
    name: str
    memory_slices: int
    mode: bool | None = None
    now: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    destroy: tuple[str, ...] = ()
    create: tuple[str, ...] = ()
    holders: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """``verdict``: ``nothing`` to do, a ``change`` that could begin now, ``wait`` (``reason`` and ``message`` say for what; the
    GPUs then show the change that would be made if nobody were in the way), or ``refused``.

    ``pods`` (``namespace/name``) would be moved. ``may_move`` are pods of which only the node knows whether they hold a slice
    that goes. ``budgets`` names each one's disruption budgets, ``held_back`` those that a budget does not let go now.
    ``exact``: no better way exists. ``unknown`` is one sentence on what could not be known, empty where all is.
    """

    layout: str
    verdict: Verdict
    reason: str
    message: str
    gpus: tuple[GpuAnswer, ...] = ()
    pods: tuple[str, ...] = ()
    may_move: tuple[str, ...] = ()
    budgets: dict[str, tuple[str, ...]] = field(default_factory=dict)
    held_back: tuple[str, ...] = ()
    exact: bool = True
    unknown: str = ""

    def to_json(self) -> str:
        """As it stands in the annotation; every key is there, always."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Answer | None:
        """Read an annotation back; None when it is not one of ours."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.ValidationError, msgspec.DecodeError):
            return None
