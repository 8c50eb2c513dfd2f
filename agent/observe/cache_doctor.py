"""Looks for what is odd in a cache: what others left there, what a kill left, what readers cannot use. Changes nothing."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from agent.adapters.files import allocated_bytes, locked
from agent.adapters.hub_cache import ModelFolder, model_folders, read_manifest
from agent.model.cache_finding import Finding, Remedy
from agent.observe.revisions import MANIFEST

_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_INCOMPLETE = re.compile(r"([0-9a-f]{40,64})(\.[0-9a-f]+)?\.incomplete")
_PART = re.compile(r"([0-9a-f]{40,64})\.warmslice-(part|grains)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LEFT_BY_A_KILL = ("*.going", "*.gone", "*.draft")
_READABLE_DIRECTORY = 0o555


def examine(cache: Path, wanted: Collection[str]) -> tuple[Finding, ...]:
    """``wanted``: repositories of the catalog, whose unfinished parts are needed. Raises RetryError where the disk does not
    answer."""
    known = {folder.root.name for folder in model_folders(cache)}
    found = list(_strangers(cache, known))
    for folder in model_folders(cache):
        found += _of_folder(folder, folder.repository in wanted)
    return tuple(found)


def _strangers(cache: Path, known: Collection[str]) -> Iterator[Finding]:
    if not cache.is_dir():
        return
    for entry in sorted(os.scandir(cache), key=lambda entry: entry.name):
        ours = entry.name in known or entry.name.startswith(".")
        if not ours and entry.name not in {"blobs", "version.txt", "CACHEDIR.TAG"}:
            what = "is no model of this cache; the agent leaves it alone, and its bytes do not count in the budget"
            yield Finding(entry.name, what, Remedy.NONE)


def _of_folder(folder: ModelFolder, wanted: bool) -> Iterator[Finding]:
    if folder.private.is_dir():
        with locked(folder.lock) as idle:
            if not idle:
                yield Finding(folder.repository, "a fetch is at work on it: look again later", Remedy.NONE)
                return
    yield from _snapshots(folder)
    yield from _blobs(folder, wanted)
    yield from _left_by_a_kill(folder)
    yield from _modes(folder)


def _snapshots(folder: ModelFolder) -> Iterator[Finding]:
    for snapshot in sorted(_listed(folder.root / "snapshots")):
        links = [path for path in snapshot.rglob("*") if path.is_symlink() or path.is_file()]
        dangling = [path for path in links if not path.exists()]
        commit = snapshot.name[:12]
        if dangling:
            names = ", ".join(sorted(path.relative_to(snapshot).as_posix() for path in dangling)[:3])
            what = f"snapshot {commit} lacks {len(dangling)} of {len(links)} files ({names}): fetch it again"
            yield Finding(folder.repository, what, Remedy.NONE)
        elif _COMMIT.fullmatch(snapshot.name) and read_manifest(folder, snapshot.name) is None:
            what = f"snapshot {commit} was put there by another program: its content was never checked, and it is never evicted"
            # Without a list of what the commit has nobody knows whether that is all; a fetch asks the hub.
            remedy = Remedy.ADOPT if folder.listing_of_the_client(snapshot.name).is_file() else Remedy.NONE
            paths = (snapshot.relative_to(folder.cache).as_posix(),)
            yield Finding(folder.repository, what, remedy, paths, sum(map(_bytes_behind, links)))
    for path in sorted(folder.private.glob("*.json")):
        if MANIFEST.fullmatch(path.name) and not folder.snapshot(path.stem).is_dir():
            what = f"commit {path.stem[:12]} has a record but no snapshot: fetch it again"
            yield Finding(folder.repository, what, Remedy.REMOVE, _below(folder, [path]))


def _blobs(folder: ModelFolder, wanted: bool) -> Iterator[Finding]:
    names = sorted(path.name for path in _listed(folder.blobs))
    abandoned = [n for n in names if (match := _INCOMPLETE.fullmatch(n)) and not _being_brought(folder, match[1])]
    if abandoned:
        what = f"{len(abandoned)} downloads were broken off by another program, which never goes on with them"
        yield _of_blobs(folder, abandoned, what, Remedy.REMOVE)
    parts = [name for name in names if _PART.fullmatch(name)]
    if parts and not wanted:
        yield _of_blobs(folder, parts, "is not in the catalog any more and has unfinished parts", Remedy.REMOVE)
    orphans = [n for n in names if _BLOB.fullmatch(n) and n not in _needed(folder) and not _being_brought(folder, n)]
    if orphans and not wanted:
        yield _of_blobs(folder, orphans, f"{len(orphans)} blobs belong to no snapshot", Remedy.REMOVE)
    shared = [name for name in names if folder.blob(name).is_symlink()]
    if shared:
        what = (
            f"{len(shared)} blobs are links to a shared store, which a pod that mounts this folder alone cannot follow"
        )
        yield _of_blobs(folder, shared, what, Remedy.UNSHARE)
    odd = [n for n in names if not (_BLOB.fullmatch(n) or _PART.fullmatch(n) or _INCOMPLETE.fullmatch(n))]
    if odd:
        yield Finding(
            folder.repository, f"has files that nobody knows among its blobs: {', '.join(odd[:3])}", Remedy.NONE
        )


def _left_by_a_kill(folder: ModelFolder) -> Iterator[Finding]:
    left = [path for pattern in _LEFT_BY_A_KILL for path in folder.private.glob(pattern)]
    if left:
        what = "a removal or a publication was interrupted: the agent brings it to its end"
        yield Finding(folder.repository, what, Remedy.NONE, _below(folder, left))


def _modes(folder: ModelFolder) -> Iterator[Finding]:
    closed = [
        path for path in (folder.blobs, folder.root, folder.root / "snapshots") if path.is_dir() and not _open(path)
    ]
    closed += [path for path in _listed(folder.blobs) if _BLOB.fullmatch(path.name) and not _open(path)]
    closed += [path for path in (folder.root / "snapshots").rglob("*") if not path.is_symlink() and not _open(path)]
    if closed:
        what = f"{len(closed)} files or folders cannot be read by a pod that does not run as their owner"
        yield Finding(folder.repository, what, Remedy.OPEN, _below(folder, closed))


def _open(path: Path) -> bool:
    try:
        status = path.stat()
    except OSError:
        return True  # what is missing is told elsewhere
    wanted = _READABLE_DIRECTORY if stat.S_ISDIR(status.st_mode) else 0o444
    return status.st_mode & wanted == wanted


def _needed(folder: ModelFolder) -> frozenset[str]:
    links = (path for path in (folder.root / "snapshots").rglob("*") if path.is_symlink())
    manifests = (read_manifest(folder, path.stem) for path in folder.private.glob("*.json"))
    linked = frozenset(os.path.basename(os.readlink(link)) for link in links)
    return linked.union(*(manifest.blobs for manifest in manifests if manifest is not None))


def _being_brought(folder: ModelFolder, blob: str) -> bool:
    path = folder.lock_of_the_client(blob)
    if not path.exists():
        return False
    with locked(path) as free:
        return not free


def _of_blobs(folder: ModelFolder, names: Iterable[str], what: str, remedy: Remedy) -> Finding:
    paths = [folder.blobs / name for name in names]
    return Finding(folder.repository, what, remedy, _below(folder, paths), sum(map(allocated_bytes, paths)))


def _below(folder: ModelFolder, paths: Iterable[Path]) -> tuple[str, ...]:
    return tuple(path.relative_to(folder.cache).as_posix() for path in paths)


def _bytes_behind(link: Path) -> int:
    try:
        return link.stat().st_size
    except OSError:
        return 0


def _listed(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError:
        return []
