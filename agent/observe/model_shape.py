"""Reads what a cached model's files say of the memory that it needs. Reads only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.adapters.hub_cache import ModelFolder, read_manifest
from agent.model.catalog import RepositoryFile
from agent.model.fit import ModelShape, shape_of

_INDEX = "model.safetensors.index.json"
_MOST_BYTES = 16 * 2**20


def read_shape(cache: Path, repository: str, commit: str) -> ModelShape | None:
    """None while that commit is not here, has no safetensors, or its configuration cannot be read."""
    folder = ModelFolder(cache, repository)
    manifest = read_manifest(folder, commit)
    if manifest is None:
        return None
    here = frozenset(manifest.verified)
    files = tuple(file for file in manifest.files if file.path in here)
    snapshot = folder.snapshot(commit)
    weights = _weights(files, _document(snapshot / _INDEX))
    config = _document(snapshot / "config.json")
    return shape_of(config, weights, _document(snapshot / "tokenizer_config.json")) if weights and config else None


def _weights(files: tuple[RepositoryFile, ...], index: Mapping[str, Any]) -> int | None:
    """Those that the index names, or the one file that needs none; a repository may hold the same weights more than once."""
    sizes = {file.path: file.size_bytes for file in files}
    named = index.get("weight_map")
    if isinstance(named, Mapping):
        shards = {str(path) for path in named.values()}
        return sum(sizes[path] for path in shards) if shards <= sizes.keys() else None
    return sizes.get("model.safetensors")


def _document(path: Path) -> Mapping[str, Any]:
    """Nothing where it is not there, is too large, or is no JSON object."""
    try:
        found = json.loads(path.read_bytes()) if path.stat().st_size <= _MOST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
