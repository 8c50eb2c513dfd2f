"""Reads what the page cache has of a model's weights, and how much memory there is."""

from __future__ import annotations

from pathlib import Path

from agent.adapters.hub_cache import ModelFolder
from agent.adapters.memory import Memory
from agent.adapters.page_cache import cached_bytes
from agent.model.catalog import CatalogModel, mapped_weights
from agent.model.page_cache import MemoryRoom, Weights, WeightsFile
from agent.observe.cache import files_here


def observe_room(memory: Memory) -> MemoryRoom:
    return MemoryRoom(memory.available_bytes(), memory.waiting_per_cent(), memory.limits())


def observe_weights(cache: Path, model: CatalogModel) -> Weights | None:
    """Of the commit that is here; None where one of its files is not, or cannot be asked about."""
    folder = ModelFolder(cache, model.repository)
    paths = [folder.blob(file.blob) for file in mapped_weights(files_here(cache, model))]
    try:
        return Weights(model.name, model.revision, tuple(map(_file, paths)))
    except (OSError, ValueError):  # it has gone, or become shorter, in this moment
        return None


def _file(path: Path) -> WeightsFile:
    size = path.stat().st_size
    return WeightsFile(path, size, min(size, cached_bytes(path)))
