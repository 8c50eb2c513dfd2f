"""Advice as text for people. Fits 100 columns where names do. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import assert_never

from agent.model.advice import Advice, Advised, Fragments, Geometry, GpuSlice, Idle, Oversized
from agent.report.drawing import bar

_WIDTH = 100
_INDENT = " " * 11


def advice_drawn(advised: Advised) -> str:
    """What it rests on, each advice, and each GPU."""
    rows = [_rests_on(advised)]
    if not advised.advice:
        rows.append(_nothing(advised))
    for one in advised.advice:
        rows += ["", *_advice(one)]
    rows += [""] if advised.gpus else []
    for gpu in advised.gpus:
        rows += _fragments(gpu)
    if advised.unknown:
        rows.append(advised.unknown)
    return "\n".join(rows)


def _rests_on(advised: Advised) -> str:
    gpus = "GPUs as they are now" if advised.gpus_seen is None else f"GPUs as of {_time(advised.gpus_seen)}"
    if advised.seen is None:
        return f"nothing observed yet; {gpus}"
    return f"observed {lasting(advised.observed_seconds)}, until {_time(advised.seen)}; {gpus}"


def _nothing(advised: Advised) -> str:
    if advised.observed_seconds < advised.needed_seconds:
        return f"nothing to advise yet: advice on sizes and idle slices needs {lasting(advised.needed_seconds)}"
    return "nothing to advise by what is known" if advised.unknown else "nothing to advise"


def _advice(one: Advice) -> Iterator[str]:
    match one:
        case Oversized():
            yield from _oversized(one)
        case Idle():
            yield from _idle(one)
        case Geometry():
            yield from _geometry(one)
        case _:
            assert_never(one)


def _oversized(one: Oversized) -> Iterator[str]:
    what = one.profile if len(one.slices) == 1 else f"{len(one.slices)} of {one.profile}"
    yield from _row(
        "oversized",
        f"{_who(one.holders)} holds {what} and never used more than {_gib(one.peak_memory_bytes)} in "
        f"{lasting(one.observed_seconds)}: {one.fits} ({_gib(one.fits_memory_bytes)}) holds that",
    )
    yield from _row("", _compute(one))
    yield from _row("", f"slices: {', '.join(map(_where, one.slices))}")
    yield from _row("", _frees(one, f" as {one.enough or one.fits}"))


def _compute(one: Oversized) -> str:
    if one.peak_load is None or one.compute == "unknown":
        return "compute: not known whether a smaller one would do, since no load is reported here"
    over = f" over {one.load_seconds:g} s" if one.load_seconds else " between two looks"
    mean = f", {_percent(one.mean_load)} over the whole time" if one.mean_load is not None else ""
    busy = f"compute: at most {_percent(one.peak_load)} of its multiprocessors were busy on average{over}{mean}"
    return f"{busy}: {_has(one)}. Shorter bursts are not seen, and would take longer there"


def _has(one: Oversized) -> str:
    """What smaller ones have of the multiprocessors that were busy."""
    if one.compute == "enough":
        return f"{one.fits} has twice that"
    fits = f"{one.fits} has that, but not twice" if one.compute == "tight" else f"more than {one.fits} has"
    if one.enough:
        return f"{fits}; {one.enough} has twice that"
    return f"{fits}, and no smaller one has twice that, so it could be slower"


def _idle(one: Idle) -> Iterator[str]:
    held = f"held by {_who(one.slice.holders)}" if one.slice.holders else "held by nobody"
    last = f"last active {_time(one.last_active)}" if one.last_active is not None else "never seen active"
    process = ", though a process is on it" if one.process else ""
    yield from _row("idle", f"{_where(one.slice)}: {held}, not active in {lasting(one.quiet_seconds)}{process}; {last}")
    yield from _row("", _frees(one))


def _geometry(one: Geometry) -> Iterator[str]:
    now = f"where now {one.instead_of} is the largest that fits" if one.instead_of else "where now nothing fits"
    yield from _row("geometry", f"GPU {one.gpu}: room for {one.frees} {now}, if {_moving(one.moves)}")
    for moved in one.moves:
        yield from _row("", f"{moved.slice}  held by {_who(moved.holders) if moved.holders else 'nobody'}")
    yield f"{_INDENT}now   {bar(one.before, one.memory_slices)}"
    yield f"{_INDENT}then  {bar(one.after, one.memory_slices)}"
    if one.layout:
        yield f"{_INDENT}label {one.label}={one.layout}"
    else:
        yield f"{_INDENT}(no label value asks for this)"


def _moving(moves: Sequence[GpuSlice]) -> str:
    return "one slice moves" if len(moves) == 1 else f"{len(moves)} slices move"


def _fragments(gpu: Fragments) -> Iterator[str]:
    yield f"GPU {gpu.gpu}  {gpu.name}: fragmentation {gpu.fragmentation:.2f}"
    could = f", {gpu.largest_possible} if slices moved" if gpu.fragmentation else ""
    largest = f"largest that fits {gpu.largest_free or 'none'}{could}"
    unusable = f", {len(gpu.unusable)} of them of no use to any profile" if gpu.unusable else ""
    yield f"       {gpu.free_memory_slices} of {gpu.memory_slices} memory slices free{unusable}; {largest}"


def _row(title: str, text: str) -> list[str]:
    """Under its title, and wrapped."""
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=title.ljust(len(_INDENT)),
        subsequent_indent=_INDENT,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _frees(one: Idle | Oversized, how: str = "") -> str:
    number = one.frees_memory_slices
    return f"frees {number} memory slice{'s' if number > 1 else ''} ({_gib(one.frees_bytes)}){how}"


def _where(one: GpuSlice) -> str:
    return f"{one.slice} on GPU {one.gpu}"


def _who(holders: Sequence[str]) -> str:
    return ", ".join(holders)


def lasting(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 3600:
        return f"{seconds / 60:.0f} min"
    if seconds < 2 * 86400:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86400:.1f} days"


def _gib(count: int) -> str:
    return f"{count / 2**30:.1f} GiB"


def _percent(part: float) -> str:
    return f"{100 * part:.0f} %"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%MZ")
