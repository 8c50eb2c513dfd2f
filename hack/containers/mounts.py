"""What a process finds as its file system, as data; and the entering of it, in a mount namespace of its own.

One layer, not several: an overlay does not take folders as further layers that lie in the lowest.

``python -m hack.containers.mounts FILE`` is run inside the new namespace: it lays the file system out, and becomes the
process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True, slots=True)
class Bind:
    """``source``, a file or folder of this machine, at ``target``."""

    source: str
    target: str
    is_read_only: bool = False


BASE = Bind(sys.base_prefix, "/opt/python", is_read_only=True)
"""The base image's Python is this machine's, at a place that everybody may enter."""
BASE_ENVIRONMENT = {
    "PATH": "/opt/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LD_LIBRARY_PATH": "/opt/python/lib",
}


@dataclass(frozen=True, slots=True)
class Process:
    """``layer`` lies over this machine's file system, and is written to. ``work`` and ``root``: empty folders on the same disk.
    ``keeps``: capabilities that are kept, None for all. ``may_gain``: whether programs with set-user-id gain rights."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    layer: str
    work: str
    root: str
    directory: str = "/"
    binds: tuple[Bind, ...] = ()
    is_root_read_only: bool = False
    user: int = 0
    keeps: tuple[str, ...] | None = None
    may_gain: bool = True

    def command(self, file: Path) -> list[str]:
        """What runs it, from a file that this writes."""
        file.write_bytes(msgspec.json.encode(self))
        as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", "--mount", "--propagation=private", *as_root, sys.executable, "-m", __name__, str(file)]


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _inside(root: Path, path: str) -> Path:
    """Where that is below ``root``, by its own links: an absolute one would lead out of it."""
    here = root
    parts = list(reversed(Path(path).parts[1:]))
    while parts:
        part = parts.pop()
        if part == "..":
            here = here.parent if here != root else root
            continue
        step = here / part
        if step.is_symlink():
            target = step.readlink()
            here = root if target.is_absolute() else here
            parts.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))
        else:
            here = step
    return here


def _bind(root: Path, bind: Bind) -> None:
    target = _inside(root, bind.target)
    if not target.exists():
        # As container runtimes do, which have the image's layers writable until all is mounted.
        if Path(bind.source).is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()
    _mount("--bind", bind.source, str(target))
    if bind.is_read_only:
        _mount("-o", "remount,bind,ro", str(target))


def enter(process: Process) -> None:
    """Does not return."""
    root = Path(process.root)
    options = f"lowerdir=/,upperdir={process.layer},workdir={process.work}"
    _mount("-t", "overlay", "overlay", "-o", options, str(root))
    for name in ("proc", "sys", "dev"):
        _mount("--rbind", f"/{name}", str(root / name))
    for bind in (BASE, *process.binds):
        _bind(root, bind)
    if process.is_root_read_only:
        _mount("-o", "remount,bind,ro", str(root))
    os.chroot(root)
    os.chdir(process.directory)
    os.execvpe(
        "setpriv", [*_privileges(process), "--", *process.arguments], {**BASE_ENVIRONMENT, **process.environment}
    )


def _privileges(process: Process) -> list[str]:
    """For ``setpriv``, of util-linux."""
    told = ["setpriv"]
    if process.user:
        told += [f"--reuid={process.user}", f"--regid={process.user}", "--clear-groups"]
    if process.keeps is not None:
        kept = "".join(f",+{name.lower()}" for name in process.keeps)
        told += [f"--{which}=-all{kept}" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    return told if process.may_gain else [*told, "--no-new-privs"]


if __name__ == "__main__":
    enter(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Process))
