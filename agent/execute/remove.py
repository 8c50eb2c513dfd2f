"""Removes revisions from the cache.

# Note [Removal]
# A snapshot disappears at once and before the blobs that it is made of: no reader finds half of it. What is to go is noted first
# and then the manifest goes. A kill leaves the note: with the manifest still there nothing has happened, or the commit was
# fetched again, and the note is dropped; without it the next pass goes on. A blob goes only while no snapshot has a link to it
# and no manifest of ours lists it. The lock of the repository keeps fetches out, the hub client's own locks keep us off what
# that client is at: such a blob keeps the note, and goes later.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

import msgspec

from agent.adapters.files import allocated_bytes, locked, sync_directory, write_durably
from agent.adapters.hub_cache import ModelFolder, model_folders, read_manifest
from agent.model.errors import RetryError
from agent.model.revision import UNFINISHED, Going, RevisionKey

_BLOBS_AT_ONCE = 200  # each may take a descriptor for its lock


def remove(cache: Path, going: Going) -> bool:
    """True: it is gone, durably. False: another process is at work on the repository. Raises RetryError where the disk
    refuses."""
    folder = ModelFolder(cache, going.key.repository)
    try:
        with locked(folder.lock) as ours:
            if ours and going.key.commit == UNFINISHED:
                _unlink(folder, going.blobs)
            elif ours:
                write_durably(folder.going(going.key.commit), msgspec.json.encode(going.blobs))
                folder.manifest(going.key.commit).unlink(missing_ok=True)
                sync_directory(folder.private)
                _finish(folder, going.key.commit)
    except OSError as error:
        raise RetryError(f"{going.key} cannot be removed: {error}") from error
    if ours:
        _remove_empty(folder)
    return ours


def finish_removals(cache: Path) -> None:
    """Go on where a kill interrupted. See Note [Removal]. Raises RetryError where the disk refuses."""
    for folder in model_folders(cache):
        for note in folder.private.glob("*.going"):
            try:
                with locked(folder.lock) as ours:
                    if ours and folder.manifest(note.stem).exists():
                        note.unlink(missing_ok=True)
                    elif ours:
                        _finish(folder, note.stem)
            except OSError as error:
                raise RetryError(f"{folder.repository} cannot be removed: {error}") from error
            _remove_empty(folder)


def reap_broken_downloads(cache: Path, older_than_seconds: float) -> int:
    """Remove what the hub's client, which never goes on with a download, has left of those that were broken off before that
    time. Returns the bytes. Raises RetryError where the disk refuses."""
    freed = 0
    for folder in model_folders(cache):
        for path in folder.blobs.glob("*.incomplete"):
            try:
                if path.stat().st_mtime < older_than_seconds:
                    freed += _reap(folder, path)
            except OSError as error:
                raise RetryError(f"{path.name} cannot be removed: {error}") from error
    return freed


def _reap(folder: ModelFolder, path: Path) -> int:
    with ExitStack() as locks:
        if not _nobody_brings(folder, path.name.partition(".")[0], locks):
            return 0
        size = allocated_bytes(path)
        path.unlink(missing_ok=True)
        return size


def touch_used(cache: Path, key: RevisionKey) -> None:
    """Note that the commit is in use now."""
    folder = ModelFolder(cache, key.repository)
    if folder.manifest(key.commit).exists():
        folder.used(key.commit).touch(0o644)


def _finish(folder: ModelFolder, commit: str) -> None:
    """All but the manifest, which is gone."""
    note, snapshot, gone = folder.going(commit), folder.snapshot(commit), folder.private / f"{commit}.gone"
    for ref in (path for path in (folder.root / "refs").rglob("*") if path.is_file()):
        if ref.read_bytes().strip() == commit.encode():
            ref.unlink()
    if snapshot.is_dir():
        shutil.rmtree(gone, ignore_errors=True)
        snapshot.rename(gone)
        sync_directory(snapshot.parent)
    for path in (folder.listing_of_the_client(commit), folder.used(commit)):
        path.unlink(missing_ok=True)
    all_gone = _unlink(folder, _noted(note))
    shutil.rmtree(gone, ignore_errors=True)
    if all_gone:
        note.unlink(missing_ok=True)


def _noted(note: Path) -> list[str]:
    try:
        return msgspec.json.decode(note.read_bytes(), type=list[str])
    except msgspec.DecodeError:
        return []


def _unlink(folder: ModelFolder, names: Iterable[str]) -> bool:
    """False where another program is at one of them; that one stays."""
    busy, all_names = False, sorted(names)
    for start in range(0, len(all_names), _BLOBS_AT_ONCE):
        with ExitStack() as locks:
            some = all_names[start : start + _BLOBS_AT_ONCE]
            free = [name for name in some if _nobody_brings(folder, name, locks)]
            busy = busy or len(free) < len(some)
            for name in set(free) - _needed(folder):
                folder.blob(name).unlink(missing_ok=True)
    sync_directory(folder.blobs)
    return not busy


def _nobody_brings(folder: ModelFolder, blob: str, locks: ExitStack) -> bool:
    path = folder.lock_of_the_client(blob)
    return not path.exists() or locks.enter_context(locked(path))


def _needed(folder: ModelFolder) -> set[str]:
    """Names of the blobs that a snapshot or a manifest has."""
    links = (path for path in (folder.root / "snapshots").rglob("*") if path.is_symlink())
    linked = {os.path.basename(os.readlink(link)) for link in links}
    manifests = (read_manifest(folder, path.stem) for path in folder.private.glob("*.json"))
    return linked.union(*(manifest.blobs for manifest in manifests if manifest is not None))


def _remove_empty(folder: ModelFolder) -> None:
    """A repository of which nothing is left leaves no folder behind: readers of the cache would call it broken."""
    if any(any(part.rglob("*")) for part in (folder.blobs, folder.root / "snapshots") if part.is_dir()):
        return
    if any(folder.private.glob("*.json")) or any(folder.private.glob("*.going")):
        return
    for directory in (folder.root / "refs", folder.private):
        shutil.rmtree(directory, ignore_errors=True)
    for name in ("blobs", "snapshots", "trees", ".no_exist", "."):
        with suppress(OSError):  # what others left in it keeps it
            (folder.root / name).rmdir()
