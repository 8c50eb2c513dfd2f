"""A model of random bytes, and as processes what offers it: a static server, and the local hub that leads there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = "bench/model"
_BLOCK = 4 * 1024 * 1024
_SERVE_HUB = """
import asyncio, sys
from pathlib import Path
from hack.hub.content import read_model
from hack.hub.server import Hub
async def main(folder, store):
    async with Hub({"bench/model": read_model("bench/model", Path(folder))}, signed_url_seconds=3600) as hub:
        hub.cdn_url = store
        print(hub.url, flush=True)
        await asyncio.Event().wait()
asyncio.run(main(*sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True)
class Served:
    """``names``: of the weights as the static server knows them, by their sha256."""

    hub: str
    store: str
    names: Sequence[str]
    bytes: int


@contextmanager
def served_model(top: Path, sizes: Sequence[int], connection_rate: float | None = None) -> Iterator[Served]:
    """Weights of these sizes below ``top``, offered until the block is left."""
    source, store = top / "source", top / "store"
    for folder in (source, store):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for number, size in enumerate(sizes):
        _write(source / f"model-{number}.safetensors", size)
    (source / "config.json").write_text("{}\n", "utf-8")
    limit = [f"--connection-rate={connection_rate}"] if connection_rate else []
    server, store_url = _serve("-m", "hack.bench.static_server", str(store), *limit)
    hub, hub_url = _serve("-c", _SERVE_HUB, str(source), store_url)
    try:
        yield Served(hub_url, store_url, _by_content(source, store), sum(sizes))
    finally:
        for process in (hub, server):
            process.kill()
            process.wait()


def _serve(*command: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def _by_content(source: Path, store: Path) -> list[str]:
    """The weights as an object store has them: by their sha256."""
    names = []
    for path in sorted(source.glob("*.safetensors")):
        digest = subprocess.run(["sha256sum", str(path)], check=True, capture_output=True, text=True).stdout.split()[0]
        os.link(path, store / digest)
        names.append(digest)
    return names


def _write(path: Path, size: int) -> None:
    with path.open("wb") as file:
        for start in range(0, size, _BLOCK):
            file.write(os.urandom(min(_BLOCK, size - start)))
