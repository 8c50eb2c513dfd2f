"""Reads which blobs the cache vouches for, and when each was last found right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from agent.adapters.hub_cache import ModelFolder, model_folders, read_manifest
from agent.model.scrub import StoredBlob


def stored_blobs(cache: Path) -> tuple[StoredBlob, ...]:
    """Those that a manifest of ours says were checked. One that was never read again counts as checked when it came. Raises
    RetryError where the disk does not answer."""
    return tuple(blob for folder in model_folders(cache) for blob in _of_folder(folder))


def read_checked(folder: ModelFolder) -> dict[str, float]:
    """Unix times by blob, as they were noted; none where the note cannot be read."""
    try:
        return msgspec.json.decode(folder.checked.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.DecodeError):
        return {}


def _of_folder(folder: ModelFolder) -> Iterator[StoredBlob]:
    manifests = (read_manifest(folder, path.stem) for path in folder.private.glob("*.json"))
    names = frozenset[str]().union(*(manifest.blobs for manifest in manifests if manifest is not None))
    checked = read_checked(folder)
    for name in sorted(names):
        try:
            status = folder.blob(name).stat()
        except OSError:
            continue
        # A blob that was fetched again is younger than the note of the one before it.
        yield StoredBlob(folder.repository, name, status.st_size, max(checked.get(name, 0.0), status.st_mtime))
