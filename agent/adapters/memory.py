"""The door to how much memory there is: what the machine could give, and what the control groups of this process allow.

# Note [Whose memory]
# A page of a file is charged to the group of the process that reads it first, and to every group above that. The groups are named
# in ``/proc/self/cgroup``: under version 1 by the line of the controller ``memory``, under version 2 by the line ``0::``. Where
# both are mounted, version 2 has the controllers that version 1 has not. ``/proc/self/mountinfo`` says which group a mount shows
# as its top. In a container that is usually its own group, by a namespace (then both are ``/``) or by a mount of only that part
# of the tree (then both are the same long path). Where the two do not fit together, the mount's top is the nearest that we see.
# What is above cannot be seen from there, except for the tightest limit under version 1.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from agent.adapters.pressure import waiting_per_cent
from agent.model.page_cache import MemoryLimit

_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB", re.MULTILINE)
_NO_LIMIT_BYTES = 1 << 60  # version 1 writes the largest number it has
SELF = Path("/proc/self")


@dataclass(frozen=True, slots=True)
class Memory:
    """``process``: what the kernel shows of this one; ``root``: where the paths of mounts begin."""

    meminfo: Path
    pressure: Path
    process: Path = SELF
    root: Path = Path("/")

    def available_bytes(self) -> int:
        """0 where the kernel does not say."""
        match = _AVAILABLE.search(_text(self.meminfo))
        return int(match[1]) * 1024 if match is not None else 0

    def waiting_per_cent(self) -> float:
        return waiting_per_cent(self.pressure)

    def limits(self) -> tuple[MemoryLimit, ...]:
        """Of each group that has one, ours first and then those above. See Note [Whose memory]."""
        try:
            mount, below, read = _found_group(self.process)
        except LookupError:
            return ()
        top = self.root / mount.lstrip("/")
        folder = top / below.lstrip("/")
        ways = (folder, *folder.parents) if folder.is_dir() else (top,)
        limits = (read(way) for way in ways if way.is_relative_to(top))
        return tuple(limit for limit in limits if limit is not None)


@lru_cache(maxsize=8)
def _found_group(process: Path) -> tuple[str, str, Callable[[Path], MemoryLimit | None]]:
    """Once found it stays: a container does not change its group, and a host has thousands of mounts. LookupError where there is
    none, which is looked for again."""
    found = _group(process)
    if found is None:
        raise LookupError("no control group of memory is to be seen")
    return found


def _group(process: Path) -> tuple[str, str, Callable[[Path], MemoryLimit | None]] | None:
    """Where the tree is mounted, our group below that, and how a group is read."""
    groups = _groups(process)
    mounts = list(_mounts(process))
    version_1 = [(top, at) for kind, options, top, at in mounts if kind == "cgroup" and "memory" in options]
    version_2 = [(top, at) for kind, _, top, at in mounts if kind == "cgroup2"]
    for group, shown, read in ((groups.get("memory"), version_1, _version_1), (groups.get(""), version_2, _version_2)):
        if group is not None and shown:
            ways = [(at, below) for top, at in shown if (below := _below(group, top)) is not None]
            at, below = ways[0] if ways else (shown[0][1], "")
            return at, below, read
    return None


def _groups(process: Path) -> dict[str, str]:
    """Our group by controller; under "" that of version 2."""
    lines = [line.split(":", 2) for line in _text(process / "cgroup").splitlines()]
    return {name: line[2] for line in lines if len(line) == 3 for name in line[1].split(",")}


def _mounts(process: Path) -> Iterator[tuple[str, list[str], str, str]]:
    """(type, options, the group that is its top, the folder)"""
    for line in _text(process / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        fields, more = before.split(" "), after.split(" ")
        if len(fields) > 4 and len(more) > 2:
            yield more[0], more[2].split(","), fields[3], fields[4].replace("\\040", " ")


def _below(group: str, top: str) -> str | None:
    """The way from ``top`` down to ``group``; None where it does not lead there."""
    if ".." in group.split("/"):
        return None
    top = top.rstrip("/")
    return group[len(top) :] if group == top or group.startswith(f"{top}/") else None


def _version_1(folder: Path) -> MemoryLimit | None:
    counts = _counts(folder / "memory.stat")
    limits = (_number(folder / "memory.limit_in_bytes"), counts.get("hierarchical_memory_limit"))
    files = counts.get("total_inactive_file", 0) + counts.get("total_active_file", 0)
    return _limit(limits, _number(folder / "memory.usage_in_bytes"), files)


def _version_2(folder: Path) -> MemoryLimit | None:
    """Above ``memory.high`` a group is slowed down so much that it counts as a limit."""
    counts = _counts(folder / "memory.stat")
    limits = (_number(folder / "memory.max"), _number(folder / "memory.high"))
    files = counts.get("inactive_file", 0) + counts.get("active_file", 0)
    return _limit(limits, _number(folder / "memory.current"), files)


def _limit(limits: Iterable[int | None], used: int | None, files: int) -> MemoryLimit | None:
    known = [limit for limit in limits if limit is not None and limit < _NO_LIMIT_BYTES]
    return MemoryLimit(min(known), used, min(files, used)) if known and used is not None else None


def _counts(file: Path) -> dict[str, int]:
    pairs = (line.split() for line in _text(file).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def _number(file: Path) -> int | None:
    """None where there is none, or ``max``."""
    text = _text(file).strip()
    return int(text) if text.isdigit() else None


def _text(file: Path) -> str:
    """Nothing where it cannot be read."""
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
