"""How long a server takes to read its weights, from disk and out of memory where the agent has put them.

    python -m hack.bench.cold_start [--gb 4] [--runs 3] [--folder DIRECTORY]

A model of random bytes lies in a hub cache, as after a fetch. A reading is what servers do with safetensors: the file is mapped,
and every page of it touched, each time by a new process. Cold: nothing of it was in memory before, by cachestat(2). Warm: then
the agent's own code has warmed it, with the machine's true limits; what its gauge says then is compared with mincore(2).
Cold and warm take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import mmap
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.adapters.files import write_durably
from agent.adapters.hub_cache import ModelFolder
from agent.adapters.memory import Memory
from agent.model.cache import MANIFEST_FORMAT, CacheReport, DiskUse, FetchTotals, Manifest
from agent.model.catalog import CatalogModel, RepositoryFile
from agent.model.page_cache import PageCacheReport
from agent.plan.page_cache import WarmRules
from agent.reconcile.page_cache import PageCache
from agent.report.metrics import Metrics
from hack.page_cache import cached_bytes, resident_bytes

MODEL = CatalogModel("bench", "bench/model", "c" * 40, page_cache=True)
OFF_AT_MOST = 0.05
_BLOCK = 4 * 1024 * 1024
_NAME = "b" * 64
_READ = """
import mmap, sys, time
with open(sys.argv[1], "rb") as file:
    began = time.perf_counter()
    with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped, memoryview(mapped) as view, view[::mmap.PAGESIZE] as pages:
        pages.tobytes()
    print(time.perf_counter() - began)
"""


@dataclass(frozen=True, slots=True)
class Run:
    """``gauge`` and ``truth``: bytes in memory after warming."""

    cold_seconds: float
    warming_seconds: float
    warm_seconds: float
    gauge: float
    truth: int


def main() -> int:
    """Print the table; exit code 1 where nothing could be warmed, or the gauge is wrong by more than 5 %."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=4.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the model goes (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cold-start-", dir=options.folder) as folder:
        blob = make_model(Path(folder), int(options.gb * 1e9))
        runs = [asyncio.run(_run(Path(folder), blob)) for _ in range(options.runs)]
        return _print(runs, blob.stat().st_size, _disk_rate(blob))


def make_model(cache: Path, size: int) -> Path:
    """A model of one file of safetensors in a hub cache, as after a fetch; its blob."""
    folder = ModelFolder(cache, MODEL.repository)
    snapshot, blob = folder.snapshot(MODEL.revision), folder.blob(_NAME)
    for made in (folder.blobs, folder.private, snapshot):
        made.mkdir(parents=True)
    tensor = {"weights": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}
    header = json.dumps(tensor).encode()
    with blob.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, size, _BLOCK):
            file.write(os.urandom(min(_BLOCK, size - start)))
    name = "model.safetensors"
    (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    listed = RepositoryFile(name, blob.stat().st_size, _NAME)
    manifest = Manifest(MANIFEST_FORMAT, MODEL.repository, MODEL.revision, (listed,), (name,))
    write_durably(folder.manifest(MODEL.revision), msgspec.json.encode(manifest))
    return blob


def drop(path: Path) -> None:
    """Out of memory, to the last page."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if left := cached_bytes(path):
        raise SystemExit(
            f"{left} bytes of {path} stay in memory: is the folder a file system in memory, or somebody reading?"
        )


async def _run(cache: Path, blob: Path) -> Run:
    drop(blob)
    cold = _read(blob)
    drop(blob)
    began = time.perf_counter()
    report = await _warm(cache)
    warming = time.perf_counter() - began
    gauge, truth = _gauge(report), resident_bytes(blob)
    return Run(cold, warming, _read(blob), gauge, truth)


async def _warm(cache: Path) -> PageCacheReport:
    memory = Memory(Path("/proc/meminfo"), Path("/proc/pressure/memory"))
    page_cache = PageCache(cache, memory, WarmRules(0.5), lambda: None, time.monotonic)
    page_cache.want([MODEL])
    await page_cache.step()
    report = page_cache.report()
    if why_not := next((model.why_not for model in report.models if model.why_not is not None), None):
        raise SystemExit(f"nothing can be warmed here: {why_not}")
    return report


def _read(path: Path) -> float:
    """Seconds, without the process's start."""
    done = subprocess.run([sys.executable, "-c", _READ, str(path)], check=True, capture_output=True, text=True)
    return float(done.stdout)


def _gauge(page_cache: PageCacheReport) -> float:
    """As Prometheus would get it."""
    metrics = Metrics("bench", time.time, {})
    metrics.cache(CacheReport(0.0, (), None, DiskUse(0, 0), None, FetchTotals(), (), {}, None, page_cache=page_cache))
    labels = {"model": MODEL.name, "revision": MODEL.revision}
    return metrics.registry.get_sample_value("warmslice_model_page_cache_bytes", labels) or 0.0


def _disk_rate(path: Path) -> float | None:
    """MB/s of the file read in order around the page cache; None where the file system cannot."""
    buffer = mmap.mmap(-1, _BLOCK)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return None
    try:
        began, count = time.perf_counter(), 0
        while part := os.preadv(descriptor, [buffer], count):
            count += part
            if part < _BLOCK:
                break
        return count / (time.perf_counter() - began) / 1e6
    finally:
        os.close(descriptor)


def _print(runs: list[Run], size: int, disk: float | None) -> int:
    cold, warming, warm = (
        statistics.median(seconds)
        for seconds in zip(*((run.cold_seconds, run.warming_seconds, run.warm_seconds) for run in runs), strict=True)
    )
    off = max(abs(run.gauge - run.truth) / run.truth for run in runs)
    there = min(run.truth for run in runs) / size
    print(f"{os.cpu_count()} processors; {size / 1e9:.1f} GB, {len(runs)} runs; the median, and all")
    print("reading | s | MB/s | all, s")
    for name, median, each in (
        ("cold", cold, [run.cold_seconds for run in runs]),
        ("warmed", warm, [run.warm_seconds for run in runs]),
        ("warming itself", warming, [run.warming_seconds for run in runs]),
    ):
        print(f"{name} | {median:.2f} | {size / median / 1e6:.0f} | {' '.join(f'{one:.2f}' for one in each)}")
    print(f"warmed is {cold / warm:.1f} times as fast as cold")
    print(f"the gauge is off by {off:.2%} of mincore at most; {there:.1%} of the file were in memory at least")
    rate = f"gives {disk:.0f} MB/s in order, around the page cache" if disk else "cannot be read directly"
    print(f"the disk {rate}")
    return int(off > OFF_AT_MOST or there < 1 - OFF_AT_MOST)


if __name__ == "__main__":
    sys.exit(main())
