"""Reads what a cached model's files say of the memory that it needs. Reads only."""

from __future__ import annotations

import json
from pathlib import Path

from agent.adapters.hub_cache import ModelFolder, read_manifest
from agent.model.catalog import RepositoryFile
from agent.model.fit import ModelShape, shape_of

_MOST_BYTES = 4 * 2**20


def read_shape(cache: Path, repository: str, commit: str) -> ModelShape | None:
    """None while that commit is not here, has no safetensors, or its configuration cannot be read."""
    folder = ModelFolder(cache, repository)
    manifest = read_manifest(folder, commit)
    if manifest is None:
        return None
    here = frozenset(manifest.verified)
    weights = _weights(tuple(file for file in manifest.files if file.path in here))
    path = folder.snapshot(commit) / "config.json"
    try:
        if not weights or path.stat().st_size > _MOST_BYTES:
            return None
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return shape_of(config, weights) if isinstance(config, dict) else None


def _weights(files: tuple[RepositoryFile, ...]) -> int:
    """At the top of the repository, and once where they are there consolidated and in shards."""
    top = [file for file in files if file.path.endswith(".safetensors") and "/" not in file.path]
    shards = [file for file in top if not file.path.startswith("consolidated")]
    return sum(file.size_bytes for file in shards or top)
