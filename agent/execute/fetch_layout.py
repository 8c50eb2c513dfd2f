"""Publishes a finished commit: snapshot links, our manifest, and last the ref by which a branch finds it.

# Note [Layout by our own hand]
# huggingface_hub would lay the snapshot out too, after a HEAD request for each file whose answer's ETag names the
# blob. A mirror's ETag may be its own; the library would then download that file again and take it unchecked. So the
# links to the checked blobs are made here and the library only confirms, offline, that it finds them.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from agent.adapters.files import enterable_by_others, sync_directory, write_durably
from agent.adapters.hub_cache import ModelFolder, read_manifest
from agent.model.cache import MANIFEST_FORMAT, Manifest
from agent.model.catalog import Listing, RepositoryFile

_DIRECTORY_MODE = 0o755
_FILE_MODE = 0o644


def make_folders(folder: ModelFolder) -> None:
    """The folders of the repository, open to every reader whatever the umask was when they were made."""
    folder.cache.mkdir(parents=True, exist_ok=True)
    if not enterable_by_others(folder.cache.stat()):
        with suppress(PermissionError):  # another's: the model will not be called ready
            folder.cache.chmod(_DIRECTORY_MODE)
    for directory in (folder.root, folder.blobs, folder.private, folder.root / "snapshots", folder.root / "refs"):
        directory.mkdir(exist_ok=True)
        directory.chmod(_DIRECTORY_MODE)


def link_snapshot(folder: ModelFolder, commit: str, files: Sequence[RepositoryFile]) -> None:
    """Links from ``snapshots/<commit>`` to blobs. A snapshot that is new appears at once with all its files."""
    snapshot = folder.snapshot(commit)
    if snapshot.is_dir():
        snapshot.chmod(_DIRECTORY_MODE)  # another client may have made it, under another umask
        _link(snapshot, files)
    else:
        draft = folder.private / f"{commit}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        draft.chmod(_DIRECTORY_MODE)
        _link(draft, files)
        draft.rename(snapshot)
    sync_directory(snapshot.parent)


def write_manifest(folder: ModelFolder, listing: Listing, verified: Iterable[str]) -> None:
    """Record what was checked, beside what was checked before for this commit."""
    before, vouched = read_manifest(folder, listing.commit), vouched_blobs(folder)
    still = {file.path for file in before.files if file.blob in vouched} if before is not None else set()
    paths = sorted({*verified, *(still & set(before.verified) if before is not None else ())})
    manifest = Manifest(MANIFEST_FORMAT, listing.repository, listing.commit, listing.files, tuple(paths))
    write_durably(folder.manifest(listing.commit), msgspec.json.encode(manifest))


def vouched_blobs(folder: ModelFolder) -> frozenset[str]:
    """Those that a manifest says were checked and that nobody has put there or changed since. Whether their bytes are still
    what they were is for the scrub to find out, not for each fetch."""
    found: set[str] = set()
    for path in folder.private.glob("*.json"):
        manifest = read_manifest(folder, path.stem)
        if manifest is not None:
            checked_at = path.stat().st_mtime_ns
            found.update(name for name in manifest.blobs if _changed_at(folder.blob(name)) <= checked_at)
    return frozenset(found)


def _changed_at(path: Path) -> float:
    """By the inode's own time, which nobody sets; infinite where there is no such file."""
    try:
        return path.stat().st_ctime_ns
    except OSError:
        return math.inf


def write_ref(folder: ModelFolder, revision: str, commit: str) -> None:
    """Let a branch or tag point to the commit; a commit asked for by its id has no ref. It is written even where it says so
    already: its time is when the hub was last asked."""
    if revision == commit:
        return
    ref = folder.ref(revision)
    _make_parents(ref.parent, folder.root)
    write_durably(ref, commit.encode())


def settle_listing_of_the_client(folder: ModelFolder, listing: Listing, files: Sequence[RepositoryFile]) -> None:
    """huggingface_hub's own record of the commit: readable for others, and gone where we hold a part of the commit
    only, since offline readers would miss the rest."""
    record = folder.listing_of_the_client(listing.commit)
    if len(files) < len(listing.files):
        record.unlink(missing_ok=True)
    elif record.is_file():
        record.parent.chmod(_DIRECTORY_MODE)
        record.chmod(_FILE_MODE)


def _link(snapshot: Path, files: Sequence[RepositoryFile]) -> None:
    directories = {snapshot}
    for file in files:
        link = snapshot / file.path
        for directory in _make_parents(link.parent, snapshot):
            directories.add(directory)
        target = "../" * (2 + file.path.count("/")) + f"blobs/{file.blob}"
        if not link.is_symlink() or os.readlink(link) != target:
            draft = link.with_name(f".{file.blob}.link")
            draft.unlink(missing_ok=True)
            draft.symlink_to(target)
            draft.replace(link)
    for directory in directories:
        sync_directory(directory)


def _make_parents(directory: Path, top: Path) -> list[Path]:
    """Every folder from below ``top`` to ``directory``, made where missing. Never through a link."""
    inner = [directory, *directory.parents]
    made = inner[: inner.index(top)]
    for parent in reversed(made):
        if parent.is_symlink():
            parent.unlink()
        parent.mkdir(exist_ok=True)
        parent.chmod(_DIRECTORY_MODE)
    return made
