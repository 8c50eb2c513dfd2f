"""What a process finds as its file system, as data; and the entering of it, in a mount namespace of its own.

``python -m hack.containers.mounts FILE`` is run inside the new namespace: it lays the file system out, and becomes the
process.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

_KERNELS = ("proc", "sys", "dev")


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
    ``keeps``: capabilities that are kept, None for all. ``may_gain``: whether programs with set-user-id gain rights. ``user``: in
    a user namespace there is root alone, who is whoever called."""

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
        return [*namespace(), sys.executable, "-m", __name__, str(file)]


def namespace() -> list[str]:
    """The words before a command that give it mounts of its own."""
    as_root = [] if os.geteuid() == 0 else ["--map-root-user"]
    return ["unshare", "--mount", "--propagation=private", *as_root]


def why_not() -> str:
    """Why no container can run here; empty where it can. Some systems give ordinary users no user namespaces."""
    missing = [program for program in ("unshare", "mount", "setpriv") if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} of util-linux missing"
    done = subprocess.run([*namespace(), "true"], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else f"no mount namespaces: {done.stderr.strip()}"


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _place(layer: Path, path: str) -> Path:
    """That path without links, as the layer has them and below it the machine: followed outside, an absolute one would lead out
    of the container."""
    here = Path("/")
    parts = list(reversed(Path(path).parts[1:]))
    while parts:
        part = parts.pop()
        if part == "..":
            here = here.parent
            continue
        step = here / part
        link = next((one for one in (layer / step.relative_to("/"), step) if one.is_symlink()), None)
        if link is None:
            here = step
            continue
        target = link.readlink()
        here = Path("/") if target.is_absolute() else here
        parts.extend(reversed(target.parts[1:] if target.is_absolute() else target.parts))
    return here


def _mount_point(layer: Path, bind: Bind) -> Path:
    """Where it is going to be, below the root. It is made in the layer where nothing is there, as container runtimes do."""
    place = _place(layer, bind.target).relative_to("/")
    made = layer / place
    if not made.exists() and not (Path("/") / place).exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        if Path(bind.source).is_dir():
            made.mkdir()
        else:
            made.touch()
    return place


def _bind(bind: Bind, target: Path) -> None:
    _mount("--bind", bind.source, str(target))
    if bind.is_read_only:
        _mount("-o", "remount,bind,ro", str(target))


def enter(process: Process) -> None:
    """Does not return."""
    root, layer = Path(process.root), Path(process.layer)
    binds = [(bind, _mount_point(layer, bind)) for bind in (BASE, *process.binds)]
    _mount("--bind", process.layer, str(root))
    laid = [name for name in sorted(os.listdir("/")) if _lay(Path("/") / name, process)]
    for place in [root, *(root / name for name in laid)] if process.is_root_read_only else []:
        _mount("-o", "remount,bind,ro", str(place))
    for bind, place in binds:
        _bind(bind, root / place)
    os.chroot(root)
    os.chdir(process.directory)
    environment = {**BASE_ENVIRONMENT, **process.environment}
    os.execvpe("setpriv", [*_privileges(process), "--", *process.arguments], environment)


def _lay(machines: Path, process: Process) -> bool:
    """Whether that folder of the machine is there now, below what the layer has of it. Folder by folder: a user namespace does
    not get the whole of / as it has other mounts in it, nor a folder that has."""
    name, place = machines.name, Path(process.root) / machines.name
    if machines.is_symlink():
        if not place.is_symlink():
            place.symlink_to(machines.readlink())
        return False
    if not machines.is_dir():
        return False
    place.mkdir(exist_ok=True)
    if name in _KERNELS:
        _mount("--rbind", str(machines), str(place))
        return False
    work = Path(process.work) / name
    work.mkdir(exist_ok=True)
    options = f"lowerdir={machines},upperdir={Path(process.layer) / name},workdir={work}"
    as_user = ",userxattr" if _is_user() else ""
    done = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options + as_user, str(place)], capture_output=True, check=False
    )
    return done.returncode == 0


def remove_work(process: Process) -> None:
    """What overlays leave, in folders that only root may enter as they are. After the process has ended."""
    for left in Path(process.work).glob("*/work"):
        left.chmod(0o700)
    shutil.rmtree(process.work)


def _is_user() -> bool:
    """Root in a user namespace of somebody else's."""
    return Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]


def _privileges(process: Process) -> list[str]:
    """For ``setpriv``, of util-linux. To end with the parent is asked for here, since a change of user takes it away."""
    told = ["setpriv", "--pdeathsig=TERM"]
    if process.user and not _is_user():
        told += [f"--reuid={process.user}", f"--regid={process.user}", "--clear-groups"]
    if process.keeps is not None:
        kept = "".join(f",+{name.lower()}" for name in process.keeps)
        told += [f"--{which}=-all{kept}" for which in ("inh-caps", "ambient-caps", "bounding-set")]
    return told if process.may_gain else [*told, "--no-new-privs"]


if __name__ == "__main__":
    enter(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Process))
