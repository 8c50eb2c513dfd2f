"""What the matrix is made of, and how it follows from a recording of each story."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from tests.faults.documented import codes_of

Kind = Literal["once", "lasting", "hang", "hang for ever", "killed before", "killed after", "lost"]

OF_A_CHANGE = {
    "IN_USE": 19,
    "INSUFFICIENT_RESOURCES": 23,
    "TIMEOUT": 10,
    "RESET_REQUIRED": 16,
    "DRIVER_NOT_LOADED": 9,
}
"""Codes of which no comment in nvml.h says that a change may end with them, and of which some were seen to."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One fault in one story: the call of that function after ``after`` others of it. ``code`` is an nvmlReturn_t.

    Of a lost GPU, ``after`` counts passes.
    """

    story: str
    kind: Kind
    function: str
    after: int
    code: int = 0
    code_name: str = ""

    @property
    def name(self) -> str:
        """As pytest shows it."""
        what = f"{self.function.removeprefix('nvml')}[{self.after}]" if self.function else f"pass {self.after}"
        return f"{self.story}: {self.kind} {what} {self.code_name}".strip()

    @property
    def fault(self) -> tuple[str, ...]:
        """Words of ``simgpu fault add``; none for a GPU that is lost."""
        after = ("--after", str(self.after))
        match self.kind:
            case "once":
                return (self.function, *after, "--count", "1", "--code", str(self.code))
            case "lasting":
                return (self.function, *after, "--code", str(self.code))
            case "hang" | "hang for ever":
                return (self.function, *after, "--count", "1", "--hang")
            case "killed before" | "killed after":
                return (self.function, *after, "--count", "1", "--die", self.kind.removeprefix("killed "))
            case "lost":
                return ()


@dataclass(frozen=True, slots=True)
class Recording:
    """A story without a disturbance: for each pass how often each function was called before it, and the changes made."""

    story: str
    before_pass: tuple[Mapping[str, int], ...]
    changes: tuple[str, ...]

    @property
    def passes(self) -> int:
        """How many there were."""
        return len(self.before_pass) - 1

    def first_calls(self, function: str) -> tuple[int, ...]:
        """The number of the first call of each pass that calls it."""
        counts = [counted.get(function, 0) for counted in self.before_pass]
        return tuple(earlier for earlier, later in pairwise(counts) if later > earlier)

    @property
    def functions(self) -> tuple[str, ...]:
        """All that were called."""
        return tuple(sorted(self.before_pass[-1]))


def cells_of(recording: Recording, every: bool) -> Iterator[Cell]:
    """Every change fails, hangs and is the last at each of its calls; every other call at its first in each pass.

    Each call meets each of its codes. Of calls that are no change, ``every`` pairs each pass with each code; else the
    codes take turns over the passes, so that each code and each pass is there.
    """
    story = recording.story
    for function in recording.functions:
        codes = codes_of(function)
        if function in recording.changes:
            at = tuple(range(recording.changes.count(function)))
            codes = {**codes, **OF_A_CHANGE}
            pairs = [(after, code) for after in at for code in codes]
            for after in at:
                yield Cell(story, "killed before", function, after)
                yield Cell(story, "killed after", function, after)
        else:
            at = recording.first_calls(function)
            pairs = _product(at, tuple(codes)) if every else _in_turn(at, tuple(codes))
        for after, code in pairs:
            yield Cell(story, "once", function, after, codes[code], code)
        for after in sorted({at[0], at[len(at) // 2]}):
            for code, number in codes.items():
                yield Cell(story, "lasting", function, after, number, code)
        for after in at if function in recording.changes else sorted({at[0], at[len(at) // 2]}):
            yield Cell(story, "hang", function, after)
            yield Cell(story, "hang for ever", function, after)
    for number in range(recording.passes):
        yield Cell(story, "lost", "", number)


def _product(at: tuple[int, ...], codes: tuple[str, ...]) -> list[tuple[int, str]]:
    return [(after, code) for after in at for code in codes]


def _in_turn(at: tuple[int, ...], codes: tuple[str, ...]) -> list[tuple[int, str]]:
    count = max(len(at), len(codes))
    return [(at[number % len(at)], codes[number % len(codes)]) for number in range(count)]
