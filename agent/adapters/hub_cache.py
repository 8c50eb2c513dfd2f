"""The hub's cache on disk: where it keeps a repository, what we add to that, and what lies there."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.adapters.files import existing_parent, free_bytes, total_bytes
from agent.model.cache import MANIFEST_FORMAT, DiskUse, Manifest
from agent.model.catalog import RepositoryFile, folder_name, unusable_path
from agent.model.errors import RetryError

_FOLDER = re.compile(r"models--((?:(?!--).)+)--((?:(?!--).)+)")


def disk_use(cache: Path) -> DiskUse:
    """Blocks allocated to blobs (unfinished ones too) below ``cache``; zero used where it does not exist yet. A folder
    that cannot be listed, since it is another user's or goes away meanwhile, counts as empty. RetryError where the disk
    does not answer."""
    try:
        if not cache.is_dir():
            parent = existing_parent(cache)
            return DiskUse(0, free_bytes(parent), total_bytes(parent))
        return DiskUse(sum(_allocated_bytes(cache)), free_bytes(cache), total_bytes(cache))
    except OSError as error:
        raise RetryError(f"the cache cannot be read: {error}") from error


def _allocated_bytes(cache: Path) -> Iterator[int]:
    for blobs in cache.glob("models--*/blobs"):
        try:
            listed = os.scandir(blobs)
        except OSError:
            continue
        with listed as entries:
            for entry in entries:
                try:
                    yield entry.stat(follow_symlinks=False).st_blocks * 512
                except FileNotFoundError:  # a fetch finished it in this moment
                    continue


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where the classic hub cache keeps one repository: ``models--org--name`` below ``cache``.

    ``private`` is ours: manifests, drafts, the lock of a running fetch, when a commit was last used. Nothing else reads it.
    """

    cache: Path
    repository: str

    @property
    def root(self) -> Path:
        return self.cache / folder_name(self.repository)

    @property
    def blobs(self) -> Path:
        return self.root / "blobs"

    @property
    def private(self) -> Path:
        return self.root / ".warmslice"

    def blob(self, name: str) -> Path:
        return self.blobs / name

    def snapshot(self, commit: str) -> Path:
        return self.root / "snapshots" / commit

    def ref(self, revision: str) -> Path:
        return self.root / "refs" / revision

    def listing_of_the_client(self, commit: str) -> Path:
        return self.root / "trees" / f"{commit}.json"

    def manifest(self, commit: str) -> Path:
        return self.private / f"{commit}.json"

    def used(self, commit: str) -> Path:
        """Its time is when the commit was last seen in use."""
        return self.private / f"{commit}.used"

    def going(self, commit: str) -> Path:
        """There while the commit is being removed."""
        return self.private / f"{commit}.going"

    @property
    def checked(self) -> Path:
        """When each blob was last read again, and right."""
        return self.private / "checked"

    @property
    def lock(self) -> Path:
        """Held by whoever fetches into the repository or removes from it."""
        return self.private / "lock"

    def lock_of_the_client(self, blob: str) -> Path:
        """The hub's own client holds it while it brings the blob."""
        return self.cache / ".locks" / self.root.name / f"{blob}.lock"


def model_folders(cache: Path) -> list[ModelFolder]:
    """Every repository that has a folder in the cache. Raises RetryError where the disk does not answer."""
    try:
        names = sorted(entry.name for entry in os.scandir(cache) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RetryError(f"the cache cannot be read: {error}") from error
    found = [_FOLDER.fullmatch(name) for name in names]
    return [ModelFolder(cache, f"{match[1]}/{match[2]}") for match in found if match is not None]


def read_manifest(folder: ModelFolder, commit: str) -> Manifest | None:
    """Our record of the commit. None where there is none that we can read: the commit then counts as never checked."""
    try:
        manifest = msgspec.json.decode(folder.manifest(commit).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None
    return manifest if manifest.format == MANIFEST_FORMAT else None


class _TreeEntry(msgspec.Struct, frozen=True):
    size: int
    blob_id: str
    lfs_sha256: str | None = None
    lfs_size: int | None = None


class _Tree(msgspec.Struct, frozen=True):
    """What the hub's client writes to ``trees/<commit>.json``, format 1 (huggingface_hub 1.22 and later)."""

    files: dict[str, _TreeEntry]


def read_listing_of_the_client(folder: ModelFolder, commit: str) -> tuple[RepositoryFile, ...]:
    """Every file that the commit has, as the hub told its client; names that cannot be are left out. Raises OSError and
    msgspec.DecodeError."""
    tree = msgspec.json.decode(folder.listing_of_the_client(commit).read_bytes(), type=_Tree)
    return tuple(_listed(path, entry) for path, entry in tree.files.items() if unusable_path(path) is None)


def _listed(path: str, entry: _TreeEntry) -> RepositoryFile:
    size = entry.lfs_size if entry.lfs_size is not None else entry.size
    return RepositoryFile(path, size, entry.lfs_sha256 or entry.blob_id)
