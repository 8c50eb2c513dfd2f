"""Reads which blobs the cache vouches for, and when each was last found right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from agent.adapters.hub_cache import ModelFolder, model_folders, read_manifest
from agent.model.scrub import BlobKey, StoredBlob


def stored_blobs(cache: Path, known: Mapping[BlobKey, float], now_seconds: float) -> tuple[StoredBlob, ...]:
    """Those that a manifest of ours says were checked. One that was never read again counts as checked when it came. ``known``:
    what was found out since, or was believed at the look before. Raises RetryError where the disk does not answer."""
    return tuple(blob for folder in model_folders(cache) for blob in _of_folder(folder, known, now_seconds))


def believable(times_seconds: Iterable[float], now_seconds: float) -> float:
    """The latest of the times at which a blob was found right. One that is yet to come was written while a clock was wrong, and
    says nothing; where each is such a one, the blob counts as found right now."""
    return max((at for at in times_seconds if at <= now_seconds), default=now_seconds)


def _of_folder(folder: ModelFolder, known: Mapping[BlobKey, float], now_seconds: float) -> Iterator[StoredBlob]:
    manifests = (read_manifest(folder, path.stem) for path in folder.private.glob("*.json"))
    names = frozenset[str]().union(*(manifest.blobs for manifest in manifests if manifest is not None))
    noted = _read_checked(folder)
    for name in sorted(names):
        try:
            status = folder.blob(name).stat()
        except OSError:
            continue
        # A blob that was fetched again is younger than the note of the one before it.
        times = (noted.get(name), known.get((folder.repository, name)), status.st_mtime)
        at = believable((time for time in times if time is not None), now_seconds)
        yield StoredBlob(folder.repository, name, status.st_size, at)


def _read_checked(folder: ModelFolder) -> dict[str, float]:
    """Unix times by blob, as they were noted; none where the note cannot be read."""
    try:
        return msgspec.json.decode(folder.checked.read_bytes(), type=dict[str, float])
    except (OSError, msgspec.DecodeError):
        return {}
