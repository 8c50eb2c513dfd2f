"""Which weights are read into memory now, and why others are not. Pure.

# Note [Room in memory]
# The page cache counts as available memory, and what is resident already is a part of it: so all that is kept warm, resident or
# not, has to fit into the share. A control group is charged with what its own processes read first. What others read is charged
# to them, and nobody can say which pages those are: of the weights that are resident at most as much is ours as the group has of
# files. That part and what is yet to be read have to fit into what the group's limit leaves for files.
#
# Memory moves while weights are read. So a model needs a little more room to be begun than to be gone on with: else one that just
# fits would be read halfway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.model.page_cache import (
    Cause,
    Hindrance,
    MemoryLimit,
    MemoryRoom,
    Reading,
    WarmPlan,
    Weights,
    WeightsFile,
)

WHOLE = 0.99
"""Of the weights resident, it is not worth a reading: the kernel takes single pages at any time."""
PAUSE_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 3600.0
PRESSURE_PER_CENT = 10.0
_OWN_BYTES = 128 * 1024 * 1024  # what a fetch takes beside what the agent takes at rest
_BEGIN = 0.95


@dataclass(frozen=True, slots=True)
class WarmRules:
    """``ratio``: share of the available memory that weights may take."""

    ratio: float


@dataclass(slots=True)
class _Taken:
    """By the models before."""

    bytes: int = 0
    resident: int = 0
    paths: set[Path] = field(default_factory=set)

    @property
    def missing(self) -> int:
        return self.bytes - self.resident

    def others(self, weights: Weights) -> list[WeightsFile]:
        """Files of ``weights`` that no model before has as well."""
        return [file for file in weights.files if file.path not in self.paths]

    def take(self, files: Sequence[WeightsFile]) -> None:
        self.bytes += sum(file.bytes for file in files)
        self.resident += sum(file.resident_bytes for file in files)
        self.paths |= {file.path for file in files}


def plan_warming(
    wanted: Sequence[Weights],
    room: MemoryRoom,
    rules: WarmRules,
    readings: Mapping[str, Reading],
    now_seconds: float,
    begun: str | None = None,
) -> WarmPlan:
    """In the order of ``wanted``: one that does not fit beside those before it is not read at all, and leaves its room to those
    after it. ``begun``: the model that is being read. See Note [Room in memory]."""
    reads: list[Weights] = []
    hindrances: dict[str, Hindrance] = {}
    taken = _Taken()
    for weights in wanted:
        whole = is_whole(weights)
        lacking = None if whole else _lack_of_room(weights, taken, room, rules, weights.model == begun)
        if lacking is not None:
            hindrances[weights.model] = lacking
            continue
        taken.take(taken.others(weights))
        reading = readings.get(weights.model)
        waits = None if whole else _wait(weights, room, reading, now_seconds)
        if waits is not None:
            hindrances[weights.model] = waits
        elif not whole and (reading is None or now_seconds >= next_reading_seconds(reading)):
            reads.append(weights)
    return WarmPlan(tuple(reads), hindrances)


def is_whole(weights: Weights) -> bool:
    """All of it that matters is in memory."""
    return weights.resident_bytes >= WHOLE * weights.bytes


def after_reading(before: Reading | None, asked: Weights, found: Weights, now_seconds: float) -> Reading:
    """What to remember of a reading. The kernel knows better what memory is for: weights that it drops soon after each reading
    are read less and less often."""
    soon = before is not None and now_seconds - before.ended_at_seconds <= 2 * _pause_seconds(before)
    times = before.times + 1 if before is not None and soon else 1
    missing = asked.bytes - asked.resident_bytes
    return Reading(now_seconds, times, found.resident_bytes - asked.resident_bytes >= missing / 2)


def next_reading_seconds(reading: Reading) -> float:
    return reading.ended_at_seconds + _pause_seconds(reading)


def steady(before: Hindrance | None, now: Hindrance) -> Hindrance:
    """What was said before as long as it is nearly true: memory moves all the time, and that is no news."""
    if before is None or replace(before, room_bytes=0, sentence="") != replace(now, room_bytes=0, sentence=""):
        return now
    near = abs(before.room_bytes - now.room_bytes) <= now.weights_bytes / 10
    return before if near else now


def _pause_seconds(reading: Reading) -> float:
    return min(LONGEST_PAUSE_SECONDS, PAUSE_SECONDS * 2.0 ** min(reading.times - 1, 10))


def _lack_of_room(weights: Weights, taken: _Taken, room: MemoryRoom, rules: WarmRules, begun: bool) -> Hindrance | None:
    files = taken.others(weights)
    beside = " beside the models before it" if taken.bytes else ""
    for limit in room.limits:
        if (left := _left_by(limit, files, taken, begun)) is not None:
            sentence = (
                f"its weights are {_gb(weights.bytes)}, and the agent's memory limit leaves {_gb(left)} for the page "
                f"cache{beside}: raise the limit of the cache container"
            )
            return Hindrance(Cause.LIMIT, weights.bytes, left, sentence)
    share = rules.ratio * room.available_bytes * (1.0 if begun else _BEGIN)
    if sum(file.bytes for file in files) <= share - taken.bytes:
        return None
    left = max(0, int(share - taken.bytes))
    sentence = (
        f"its weights are {_gb(weights.bytes)}, and page_cache_ratio ({rules.ratio:g} of the memory that is available) "
        f"leaves {_gb(left)} for the page cache{beside}"
    )
    return Hindrance(Cause.SHARE, weights.bytes, left, sentence)


def _left_by(limit: MemoryLimit, files: Sequence[WeightsFile], taken: _Taken, begun: bool) -> int | None:
    """What the limit leaves for ``files``, where that is not enough."""
    resident = taken.resident + sum(file.resident_bytes for file in files)
    missing = taken.missing + sum(file.missing_bytes for file in files)
    room = limit.for_files_bytes - (_OWN_BYTES // 2 if begun else _OWN_BYTES)
    if min(resident, limit.file_bytes) + missing <= room:
        return None
    return max(0, room - min(taken.resident, limit.file_bytes) - taken.missing)


def _wait(weights: Weights, room: MemoryRoom, reading: Reading | None, now_seconds: float) -> Hindrance | None:
    """What there is room for may have to wait all the same."""
    if room.waiting_per_cent > PRESSURE_PER_CENT:
        sentence = f"memory is short: somebody waited for it more than {PRESSURE_PER_CENT:g} % of the last ten seconds"
        return Hindrance(Cause.PRESSURE, weights.bytes, 0, sentence)
    if reading is not None and not reading.kept and now_seconds < next_reading_seconds(reading):
        sentence = "its weights were read, and the kernel did not keep them; they are read again later"
        return Hindrance(Cause.DROPPED, weights.bytes, 0, sentence)
    return None


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
