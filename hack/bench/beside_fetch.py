"""What a fetch does to the rest of a node: to a file that a serving pod keeps reading, and to passes of the partition loop.

    python -m hack.bench.beside_fetch [--gigabytes 4] [--rounds 5] [--file-megabytes 512]

One agent of both roles on a node of two simulated GPUs. The reader and the agent, with the process that fetches, share a limited
memory: it has room for the file and a quarter of a GB. Without a control group for that the file is not in danger, and the table
says so. In the end the same bytes are copied as `cp` does, to show what the file is in danger of.

An answer is the time from a label's write until the node says what came of it. A wish that cannot be takes one pass and touches
nothing; a change of layout takes several, with destroying and creating slices. Each round measures both without a fetch, and then
for as long as one takes. The server of the bytes takes from the same processors.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.model import labels
from hack.bench.node import BenchNode, until
from hack.bench.served import REPOSITORY, served_model
from hack.page_cache import MemoryGroup, NoGroupError, cached_bytes, memory_group
from hack.processes import Children

SLOWER_AT_MOST = 1.5
OUT_AT_MOST, LEFT_AT_MOST = 0.01, 0.01
"""Some pages go and some stay by themselves; a copy pushes out nearly all, and leaves hundreds of megabytes."""
ROOM_BYTES = 256 * 1024 * 1024
READY = f"{labels.MODEL_PREFIX}{REPOSITORY.replace('/', '--')}"
CATALOG = f"models: [{{repository: {REPOSITORY}}}]\nsets: {{none: [], all: [{REPOSITORY.replace('/', '--')}]}}\n"
# Each is asked for in turn, over and over: a layout, what cannot be, another layout, what cannot be either.
WISHES = (
    ("change", "7x1g.10gb", "success"),
    ("refusal", "2x7g.80gb", "failed"),
    ("change", "4x1g.10gb_1x3g.40gb", "success"),
    ("refusal", "3x7g.80gb", "failed"),
)
_READ = """
import sys, time
block = bytearray(2**20)
while True:
    with open(sys.argv[1], "rb", buffering=0) as file:
        while file.readinto(block):
            pass
    time.sleep(0.5)
"""
Answers = dict[str, list[float]]


@dataclass(slots=True)
class Residency:
    """Looks four times a second, in a thread. ``lowest``: share of the file that was resident; ``most``: bytes of ``others``
    in the page cache."""

    file: Path
    others: Callable[[], list[Path]]
    lowest: float = 1.0
    most: int = 0

    @contextmanager
    def looking(self) -> Iterator[None]:
        ended = threading.Event()
        thread = threading.Thread(target=self._look, args=(ended,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _look(self, ended: threading.Event) -> None:
        size = self.file.stat().st_size
        while not ended.wait(0.25):
            self.lowest = min(self.lowest, cached_bytes(self.file) / size)
            self.most = max(self.most, sum(_cached(path) for path in self.others()))


def main() -> int:
    """Print both tables; exit code 1 where a limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=4.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--file-megabytes", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="where the bytes go (default: a temporary folder)")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="beside-", dir=options.folder)))
        group = _group(stack, options.file_megabytes * 2**20 + ROOM_BYTES)
        served = stack.enter_context(served_model(folder, [int(options.gigabytes * 1e9 / 4)] * 4))
        bench = _Bench(folder, stack.enter_context(Children(folder)), group, served.bytes)
        bench.start(served.hub, options.file_megabytes * 2**20)
        return bench.measure(options.rounds)


def _group(stack: ExitStack, limit: int) -> MemoryGroup | None:
    try:
        return stack.enter_context(memory_group(limit))
    except NoGroupError as error:
        print(f"memory is not limited, so the file is in no danger: {error}")
        return None


class _Bench:
    def __init__(self, folder: Path, children: Children, group: MemoryGroup | None, size: int) -> None:
        self._folder, self._children, self._group, self._size = folder, children, group, size
        self._node = BenchNode(folder, children)
        self._wishes = itertools.cycle(WISHES)
        self._file = folder / "serving.safetensors"
        self._model = folder / "hub" / f"models--{REPOSITORY.replace('/', '--')}"

    def start(self, hub: str, file_bytes: int) -> None:
        """Everything runs, and nothing is fetched."""
        self._file.write_bytes(os.urandom(file_bytes))
        os.sync()
        with self._file.open("rb") as file:  # whoever reads it first is charged for it
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        (self._folder / "catalog.yaml").write_text(CATALOG, "utf-8")
        # A change waits for the kubelet to tell what it advertises; the less of that, the more of it is ours.
        self._node.start_cluster("--status-interval=0.05", "--pod-start=0.05")
        self._node.label({labels.MODEL_SET: "none"})
        self._children.start("reader", [sys.executable, "-c", _READ, str(self._file)])
        self._take("reader")
        self._node.start_agent(f"--hub-endpoint={hub}", "--cache-reserve-ratio=0")
        self._take("agent")
        until(lambda: cached_bytes(self._file) >= file_bytes)

    def measure(self, rounds: int) -> int:
        """All rounds, the copy, and the tables; the exit code."""
        nothing, fetching = Residency(self._file, self._blobs), Residency(self._file, self._blobs)
        alone, beside = _no_answers(), _no_answers()
        seconds: list[float] = []
        left = 0
        self._answers(_no_answers(), lambda count: count < len(WISHES))  # the first of each is slower
        for _ in range(rounds):
            with nothing.looking():
                self._answers(alone, lambda count: count < 4 * len(WISHES))
            with fetching.looking():
                seconds.append(self._fetch(beside))
            left = max(left, sum(_cached(path) for path in self._blobs()))
            self._forget()
        rate = self._size / statistics.median(seconds) / 1e6
        print(
            f"{os.cpu_count()} processors; {rounds} fetches of {self._size / 1e9:.1f} GB, {rate:.0f} MB/s at the median"
        )
        print(f"in the page cache, of finished blobs: {left / 1e6:.0f} MB")
        _print_residency({"nothing": nothing, "fetch": fetching, "copy": self._copy()})
        slower = _print_answers(alone, beside)
        out = (nothing.lowest - fetching.lowest) / OUT_AT_MOST
        rest = left / self._size / LEFT_AT_MOST
        print(f"limit: {OUT_AT_MOST:.0%} of the file that is read pushed out by a fetch; {max(0.0, out):.2f} of that")
        print(f"limit: {LEFT_AT_MOST:.0%} of the model left in the page cache; {rest:.2f} of that")
        print(f"limit: {SLOWER_AT_MOST:g} times as long for an answer; {slower / SLOWER_AT_MOST:.2f} of that")
        return int(max(out, rest, slower / SLOWER_AT_MOST) > 1)

    def _answers(self, found: Answers, goes_on: Callable[[int], bool]) -> None:
        count = 0
        with self._node.watched() as events:
            while goes_on(count):
                kind, wish, state = next(self._wishes)
                found[kind].append(self._answer(events, wish, state))
                count += 1

    def _answer(self, events: Iterator[dict[str, Any]], wish: str, state: str) -> float:
        began = time.perf_counter()
        self._node.label({labels.CONFIG: wish})
        for event in events:
            if _says(event["object"], wish, state):
                return time.perf_counter() - began
        raise SystemExit("the API server ended the watch")

    def _fetch(self, found: Answers) -> float:
        """Answers for as long as the fetch runs; how long that was."""
        began = time.monotonic()
        self._node.label({labels.MODEL_SET: "all"})
        until(lambda: len(self._blobs()) > 1)
        self._answers(found, lambda _: self._fetching())
        return time.monotonic() - began

    def _fetching(self) -> bool:
        state = self._node.labels().get(READY)
        if state == "failed":
            raise SystemExit(f"the fetch failed: {self._children.log('agent')[-2000:]}")
        return state != "ready"

    def _forget(self) -> None:
        self._node.label({labels.MODEL_SET: "none"})
        until(lambda: READY not in self._node.labels())
        shutil.rmtree(self._model)
        os.sync()

    def _copy(self) -> Residency:
        """The same bytes, through the page cache."""
        target = self._folder / "copy"
        looking = Residency(self._file, lambda: list(target.glob("*")))
        with looking.looking():
            self._children.start("copy", ["cp", "-r", str(self._folder / "source"), str(target)])
            self._take("copy")
            until(lambda: self._children.ended() is not None, 600.0)
        return looking

    def _take(self, name: str) -> None:
        if self._group is not None:
            self._group.take(self._children.pid(name))

    def _blobs(self) -> list[Path]:
        """Of the model, finished or not."""
        return list((self._model / "blobs").glob("*"))


def _no_answers() -> Answers:
    return {"refusal": [], "change": []}


def _says(node: dict[str, Any], wish: str, state: str) -> bool:
    """Whether the node has come to this state for this wish, with nothing left to do."""
    annotations = node["metadata"].get("annotations") or {}
    said = json.loads(annotations.get(labels.STATUS, "{}")).get("layout"), node["metadata"]["labels"].get(labels.STATE)
    return said == (wish, state) and labels.OPERATION not in annotations


def _cached(path: Path) -> int:
    try:
        return cached_bytes(path)
    except FileNotFoundError:  # it has got another name in this moment
        return 0


def _print_residency(seen: dict[str, Residency]) -> None:
    print("\nin memory, beside | of the file that is read, at least | of what is written, at most")
    for name, residency in seen.items():
        print(f"{name} | {residency.lowest:.1%} | {residency.most / 1e6:.0f} MB")


def _print_answers(alone: Answers, beside: Answers) -> float:
    """The largest ratio of the medians."""
    print("\nanswer to a | alone, ms (p90; of) | during a fetch, ms | ratio")
    ratios = []
    for kind in alone:
        without, with_fetch = alone[kind], beside[kind]
        ratios.append(statistics.median(with_fetch) / statistics.median(without))
        print(f"{kind} | {_figures(without)} | {_figures(with_fetch)} | {ratios[-1]:.2f}")
    return max(ratios)


def _figures(seconds: list[float]) -> str:
    """The median, the ninth of ten, and of how many."""
    tenth = sorted(seconds)[int(len(seconds) * 0.9)]
    return f"{statistics.median(seconds) * 1000:.0f} ({tenth * 1000:.0f}; {len(seconds)})"


if __name__ == "__main__":
    sys.exit(main())
