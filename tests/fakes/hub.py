"""Small models for the local hub, a node that only has labels, and fetches without a process of their own."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.execute.fetch_messages import Instructions, Message
from agent.execute.fetcher import Fetch
from agent.model.cache import FetchLimits, FetchOrder
from agent.model.catalog import CatalogModel
from agent.model.errors import RetryError
from hack.hub.content import Access, ServedModel, read_model
from hack.hub.server import Hub

REPOSITORY = "acme/tiny"
TINY = CatalogModel("tiny", REPOSITORY)
WANTED_OF_TINY = ("1_Pooling/config.json", "config.json", "empty.txt", "model.safetensors")
WEIGHTS_BYTES = 5 * 1024 * 1024 + 321  # three grains, the last one short

QUICK = FetchLimits(connections=4, attempts=6, stall_seconds=5.0, longest_wait_seconds=2.0)


def write_files(folder: Path, sizes: Mapping[str, int]) -> None:
    """Files of the given sizes below ``folder``, with contents that follow from their names."""
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(name).randbytes(size))


def tiny_model(
    folder: Path, *, repository: str = REPOSITORY, weights_bytes: int = WEIGHTS_BYTES, access: Access = Access.PUBLIC
) -> ServedModel:
    """Weights, a configuration, a file in a folder, an empty one, and weights that the defaults leave out."""
    sizes = {
        "model.safetensors": weights_bytes,
        "config.json": 570,
        "1_Pooling/config.json": 190,
        "empty.txt": 0,
        "pytorch_model.bin": 1000,
    }
    write_files(folder, sizes)
    return read_model(repository, folder, access)


def order_for(hub: Hub, cache: Path, *, limits: FetchLimits = QUICK, repository: str = REPOSITORY) -> FetchOrder:
    return FetchOrder(
        repository=repository,
        revision="main",
        allow_patterns=None,
        ignore_patterns=None,
        endpoint=hub.url,
        cache_directory=str(cache),
        parent_pid=os.getpid(),
        limits=limits,
    )


async def fetch(order: FetchOrder, token: str | None = None) -> list[Message]:
    """What the fetching process does, on a thread of this one: the hub runs on this loop. Raises FetchError."""
    said: list[Message] = []
    await asyncio.to_thread(lambda: Fetch(Instructions(order, token), said.append).run())
    return said


def published_files(cache: Path, repository: str = REPOSITORY) -> dict[str, str]:
    """Path and sha256 of every file that a reader of any snapshot would find."""
    snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
    found = (p for p in snapshots.rglob("*") if p.is_file())
    return {p.relative_to(snapshots).as_posix().partition("/")[2]: _sha256(p) for p in found}


def served_files(model: ServedModel, paths: Iterable[str]) -> dict[str, str]:
    return {path: _sha256(model.files[path].source) for path in paths}


def texts_in(folder: Path) -> str:
    """Every JSON file below ``folder``, run together; empty where there is none, or no such folder."""
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*.json"))


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(slots=True)
class LabelledNode:
    """A node object's labels; every patch is kept. ``away``: the API server answers no write."""

    present: dict[str, str] = field(default_factory=dict)
    patches: list[dict[str, str | None]] = field(default_factory=list)
    away: bool = False

    def labels(self) -> Mapping[str, str]:
        return dict(self.present)

    async def patch_labels(self, labels: Mapping[str, str | None]) -> None:
        if self.away:
            raise RetryError("the API server is away")
        self.patches.append(dict(labels))
        for key, value in labels.items():
            if value is None:
                self.present.pop(key, None)
            else:
                self.present[key] = value


@dataclass(slots=True)
class WrittenCatalog:
    """A catalog whose text a test can change between passes."""

    text: str

    def read(self) -> str:
        return self.text
