"""Fetching a model, beside other ways to bring the same bytes: how fast, with how much processor time and memory.

    python -m hack.bench.fetch [--gigabytes 4] [--shards 4] [--runs 5] [--single-gigabytes 2]
        [--connection-rate 50e6] [--connections 16]

Ours is `warmslice cache pull` as a user runs it, which alone checks what it got. The others: the hub client's
`snapshot_download`, curl with all files at once, aria2c with 16 connections a file. One static server on loopback sends the
bytes to all; the clients of the hub are sent there by the local hub. The runs are interleaved, each into an empty folder, and
the median counts. First shards with nothing in the way, then one file with a rate for each connection.
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.bench.served import REPOSITORY, served_model
from hack.hub.third_parties import aria2c

_BLOCK = 4 * 1024 * 1024
_SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
snapshot_download("bench/model", cache_dir=sys.argv[1])
"""


@dataclass(frozen=True, slots=True)
class Run:
    """One client once. ``cpu_seconds`` and ``peak_mb`` are of the client with all its processes; the peak is the largest's."""

    seconds: float
    cpu_seconds: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Scene:
    """Files, and the servers that offer them. ``names``: of the files as the static server knows them;
    ``connections``: of our client."""

    folder: Path
    bytes: int
    hub: str
    store: str
    names: Sequence[str]
    connections: int


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--single-gigabytes", type=float, default=2.0)
    parser.add_argument("--connection-rate", type=float, default=50e6)
    parser.add_argument("--connections", type=int, default=16, help="of ours (setting fetch_connections)")
    parser.add_argument("--folder", type=Path, help="where the bytes go (default: a temporary folder)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=options.folder) as scratch:
        top = Path(scratch)
        rate = _direct_write_rate(top)
        print(f"{os.cpu_count()} processors; the disk takes {rate / 1e6:.0f} MB/s of direct writes")
        size = int(options.gigabytes * 1e9 / options.shards)
        single = [int(options.single_gigabytes * 1e9)]
        for sizes, each in (([size] * options.shards, None), (single, options.connection_rate)):
            _table(top, sizes, each, options.runs, rate, options.connections)
    return 0


def _table(
    top: Path, sizes: Sequence[int], connection_rate: float | None, runs: int, disk_rate: float, ours: int
) -> None:
    each = f", {connection_rate / 1e6:.0f} MB/s a connection" if connection_rate else ""
    print(f"\n{len(sizes)} of {sizes[0] / 1e9:.2f} GB{each}; {runs} runs, interleaved")
    with served_model(top, sizes, connection_rate) as served:
        scene = Scene(top, served.bytes, served.hub, served.store, served.names, ours)
        _print(_measured(scene, runs), sum(sizes), disk_rate)


def _measured(scene: Scene, runs: int) -> dict[str, list[Run]]:
    clients: dict[str, Callable[[Scene, Path], Run]] = {
        "warmslice": _warmslice,
        "snapshot_download": _snapshot_download,
        "curl -Z": _curl,
        "aria2c -x16": _aria2c,
    }
    found: dict[str, list[Run]] = {name: [] for name in clients}
    for _ in range(runs):
        for name, client in clients.items():
            target = scene.folder / "target"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir()
            os.sync()
            found[name].append(client(scene, target))
            _check(target, scene.bytes)
    return found


def _print(found: dict[str, list[Run]], size: int, disk_rate: float) -> None:
    ours = statistics.median(run.seconds for run in found["warmslice"])
    print("client | MB/s | from, to | CPU s/GB | peak MB | we are so many times as fast")
    for name, runs in found.items():
        rates = sorted(size / run.seconds / 1e6 for run in runs)
        cpu = statistics.median(run.cpu_seconds for run in runs) / size * 1e9
        times = statistics.median(run.seconds for run in runs) / ours
        peak = max(run.peak_mb for run in runs)
        spread = f"{rates[0]:.0f} to {rates[-1]:.0f}"
        print(f"{name} | {statistics.median(rates):.0f} | {spread} | {cpu:.2f} | {peak:.0f} | {times:.1f}")
    print(f"of the disk's rate: {size / ours / disk_rate:.2f}")


def _warmslice(scene: Scene, target: Path) -> Run:
    catalog = scene.folder / "catalog.yaml"
    catalog.write_text(f"models: [{{repository: {REPOSITORY}}}]\n", "utf-8")
    flags = (f"--catalog-file={catalog}", f"--cache-directory={target}", f"--hub-endpoint={scene.hub}")
    rest = ("--cache-reserve-ratio=0", f"--fetch-connections={scene.connections}")
    return _run([sys.executable, "-m", "agent", "cache", "pull", *flags, *rest])


def _snapshot_download(scene: Scene, target: Path) -> Run:
    environment = {"HF_ENDPOINT": scene.hub, "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return _run([sys.executable, "-c", _SNAPSHOT, str(target)], environment)


def _curl(scene: Scene, target: Path) -> Run:
    wanted = [word for name in scene.names for word in ("-o", str(target / name), f"{scene.store}/{name}")]
    return _run(["curl", "--no-progress-meter", "--fail", "--parallel", "--parallel-immediate", *wanted])


def _aria2c(scene: Scene, target: Path) -> Run:
    wanted = target / "urls"
    wanted.write_text("".join(f"{scene.store}/{name}\n" for name in scene.names), "utf-8")
    flags = ("-x16", "-s16", "-k1M", f"-j{len(scene.names)}", "--file-allocation=falloc", "--quiet", "-d", str(target))
    return _run([str(aria2c()), *flags, "-i", str(wanted)])


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> Run:
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, **(environment or {})})
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command[0]} ended with {process.returncode}")
    return Run(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def _check(target: Path, size: int) -> None:
    """That the client did its work."""
    found = sum(path.stat().st_size for path in target.rglob("*") if path.is_file() and not path.is_symlink())
    if found < size:
        raise SystemExit(f"{found} of {size} bytes came")


def _direct_write_rate(folder: Path, size: int = 2**30) -> float:
    """Bytes per second of one writer that goes around the page cache."""
    path = folder / "direct"
    block = mmap.mmap(-1, _BLOCK)
    block.write(os.urandom(_BLOCK))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DIRECT, 0o644)
    try:
        os.posix_fallocate(descriptor, 0, size)
        began = time.monotonic()
        for start in range(0, size, _BLOCK):
            os.pwrite(descriptor, block, start)
        os.fsync(descriptor)
        return size / (time.monotonic() - began)
    finally:
        os.close(descriptor)
        path.unlink()


if __name__ == "__main__":
    sys.exit(main())
