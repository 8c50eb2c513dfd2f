"""The start-up gate: a taint that keeps pods off a node until it is what it was registered to be.

# Note [The start-up gate]
# Whoever registers the node sets the taint ``warmslice.dev/warming:NoSchedule``; the agent only takes it away, once. Nothing of
# it is remembered in the process: since when the gate is watched stands in an annotation, written when the taint is first seen,
# so that a kill does not put off the deadline. The annotation goes in the patch that takes the taint: a taint that is set again
# later finds no record, and its time begins anew. The list of taints has no owner per entry, so it is written back whole, with
# the resourceVersion of the node that it was read from: a taint that somebody set meanwhile costs a 409, and another decision.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec

Opened = Literal["ready", "deadline"]


@dataclass(frozen=True, slots=True)
class Gate:
    """The annotation: the gate is watched ``since`` (seconds since the epoch), and ``waits_for`` (a short word) is the first that
    it lacks."""

    since: float
    waits_for: str
    message: str

    def to_json(self) -> str:
        """As it stands on the node."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Gate | None:
        """Read it back; None when it is not ours."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.ValidationError, msgspec.DecodeError, RecursionError):
            return None


@dataclass(frozen=True, slots=True)
class Lack:
    """One of the things that a gate waits for. ``message`` stays true for as long as it does, so that the node is not written for
    each step on the way; ``detail`` is what is missing just now."""

    reason: str
    message: str
    detail: str


@dataclass(frozen=True, slots=True)
class NoteGate:
    """Write down since when the gate is watched, and for what it waits."""

    gate: Gate


@dataclass(frozen=True, slots=True)
class OpenGate:
    """One patch of the node: our taint goes and the record with it, every other taint stays. ``since`` names this gate."""

    outcome: Opened
    message: str
    since: float


@dataclass(frozen=True, slots=True)
class ForgetGate:
    """Somebody else has taken the taint: the record goes, lest a later gate begins with its time."""


GateStep = NoteGate | OpenGate | ForgetGate


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """What a look at the gate comes to. ``lacks`` is empty where there is none, or none any more; ``due_seconds`` is in how many
    seconds it opens whatever is missing."""

    step: GateStep | None = None
    lacks: tuple[Lack, ...] = ()
    due_seconds: float | None = None
