"""The door to what a directory is on: its file system, and how much of that is free. Nothing is written."""

from __future__ import annotations

import os
from pathlib import Path

from agent.adapters.files import free_bytes, total_bytes
from agent.model.host_view import Directory


def directory(path: str, mountinfo: Path) -> Directory:
    """``mountinfo`` is the kernel's list of mounts (``/proc/self/mountinfo``)."""
    there = Path(path).is_dir()
    nearest = next(each for each in (Path(path), *Path(path).absolute().parents) if each.exists())
    try:
        free, total = free_bytes(nearest), total_bytes(nearest)
    except OSError:
        free = total = 0
    return Directory(path, there, os.access(path, os.W_OK | os.X_OK), _kind(nearest.resolve(), mountinfo), free, total)


def _kind(path: Path, mountinfo: Path) -> str:
    """That of the innermost mount, the last of those at the same place."""
    best, kind = -1, ""
    for line in _lines(mountinfo):
        before, _, after = line.partition(" - ")
        fields, more = before.split(" "), after.split(" ")
        if len(fields) < 5:
            continue
        at = fields[4].replace("\\040", " ")
        if path.is_relative_to(at) and len(at) >= best:
            best, kind = len(at), more[0]
    return kind


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text("utf-8", "replace").splitlines()
    except OSError:
        return []
