"""What benchmarks print, as data: tables are lines of cells between `` | ``, the first of them the heads; all else is said."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

_BETWEEN = " | "


@dataclass(frozen=True, slots=True)
class Table:
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Run:
    """One benchmark's. ``exit_code``: not 0 where it passed one of its limits, or failed."""

    name: str
    title: str
    command: str
    seconds: float
    exit_code: int
    tables: tuple[Table, ...]
    said: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """``day`` as in 2026-01-31; ``full``: not the short form."""

    day: str
    commit: str
    full: bool
    machine: dict[str, str | int]
    runs: tuple[Run, ...]

    @staticmethod
    def from_json(text: str) -> Report:
        """What was written by ``--json``. msgspec.ValidationError for anything else."""
        return msgspec.json.decode(text, type=Report)


def parsed(lines: Iterable[str]) -> tuple[tuple[Table, ...], tuple[str, ...]]:
    """(tables, other lines). A table ends with the first line that has no cells, or another number of them than the heads."""
    tables: list[list[tuple[str, ...]]] = []
    said: list[str] = []
    inside = False
    for line in lines:
        cells = tuple(cell.strip() for cell in line.split(_BETWEEN.strip()))
        if len(cells) < 2 or _BETWEEN.strip() not in line:
            inside = False
            said += [line] if line.strip() else []
        elif inside and len(cells) == len(tables[-1][0]):
            tables[-1].append(cells)
        else:
            tables.append([cells])
            inside = True
    return tuple(Table(rows[0], tuple(rows[1:])) for rows in tables), tuple(said)
