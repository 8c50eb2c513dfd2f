"""What the fetching process is told on its standard input, and the lines it answers with. JSON both ways."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from agent.model.cache import FailureKind, FetchOrder


class Instructions(msgspec.Struct, frozen=True):
    """The one document on standard input. The token stands nowhere else: no argument, no environment, no log."""

    order: FetchOrder
    token: str | None = None

    def __repr__(self) -> str:
        return f"Instructions({self.order!r}, token={'***' if self.token else None})"


class Resolved(msgspec.Struct, frozen=True, tag="resolved"):
    """The commit is known and fits: ``size_bytes`` in all, ``present_bytes`` of them were here before."""

    commit: str
    size_bytes: int
    present_bytes: int


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """So far in this process. ``fetched_bytes`` of the size are safely on disk; ``received_bytes`` came over the
    network; ``faults`` were tried again, by reason."""

    fetched_bytes: int
    received_bytes: int
    verify_failures: int
    faults: dict[str, int]


class Done(msgspec.Struct, frozen=True, tag="done"):
    commit: str


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    kind: FailureKind
    reason: str
    message: str
    after_seconds: float | None = None
    needed_bytes: int = 0


Message = Resolved | Progress | Done | Failed

_DECODER: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def read_message(line: bytes) -> Message | None:
    """None for a line that is none of ours (a library's word on standard output)."""
    try:
        return _DECODER.decode(line)
    except msgspec.DecodeError:
        return None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a fetching process ended: without a failure the commit is there."""

    commit: str | None
    failure: Failed | None
