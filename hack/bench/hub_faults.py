"""Every fault of hack/hub/scenarios.py against `warmslice cache pull` and the hub client's `snapshot_download`, side by side.

    python -m hack.bench.hub_faults [--only PATTERN] [--minute 10] [--mirror] [--resume [--gigabytes 1]] [--many]

For each row and client a local hub is started and a cache is made; after a run that did not bring the model the fault is taken
away and the client runs once more. Each client is as its users have it: no option but the hub, the cache and the token. The
bytes are those that the hub sent in all runs, as a multiple of the model. `--mirror` puts olah between hub and clients (the
bytes are those that olah asked for); `--resume` kills a fetch of one large file halfway; `--many` times 10,000 small files.
"""

from __future__ import annotations

import argparse
import asyncio
import filecmp
import os
import re
import signal
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from hack.hub.mirror import front
from hack.hub.oddities import many_files_model
from hack.hub.playing import NoSmallDiskError, Run, play, small_disk, stage_of
from hack.hub.scenarios import (
    REPOSITORY,
    SCENARIOS,
    SMALL_DISK_BYTES,
    TOKEN,
    Midway,
    Scenario,
    write_model,
)

_PATIENCE_SECONDS = 180
_SNAPSHOT = """
import sys
from huggingface_hub import snapshot_download
snapshot_download(sys.argv[1], cache_dir=sys.argv[2])
"""
_ERROR = re.compile(r"(?:\w+\.)*(\w+Error)\b")  # the end of a traceback
_WIDTHS = (31, 62, 0)
_SENTENCE_CHARACTERS = 38
_MOST_AFTER_HALF = 0.55
_RESUME_RATES = (200e6, None)
_MANY = "odd/many"
_CHUNK_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class Program:
    """A client as a program of its own. ``said`` is the last line of each run that did not bring the model."""

    endpoint: str
    repository: str
    cache: Path
    source: Path
    token: str | None
    said: list[str] = field(default_factory=list)
    _process: Process | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        return {}

    async def run(self) -> bool:
        self._process = process = await asyncio.create_subprocess_exec(
            *self.command(), stdout=PIPE, stderr=STDOUT, env={**os.environ, **self.environment()}
        )
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                output, _ = await process.communicate()
        except TimeoutError:
            process.kill()
            await process.wait()
            output = b"it hangs"
        assert process.returncode is not None
        if process.returncode == 0 and self.has_all_right():
            return True
        self.said.append(self._last_words(process.returncode, output.decode(errors="replace")))
        return False

    def kill(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def has_something(self) -> bool:
        return True

    def has_all_right(self) -> bool:
        wanted = {path.relative_to(self.source) for path in self.source.rglob("*") if path.is_file()}
        return self._found().keys() == wanted and all(self._found().values())

    def has_wrong(self) -> bool:
        return not all(self._found().values())

    def _found(self) -> dict[Path, bool]:
        """Files that a reader would find, and whether they are as the hub has them."""
        snapshots = self.cache / f"models--{self.repository.replace('/', '--')}" / "snapshots"
        found = [path for path in snapshots.rglob("*") if path.is_file()]
        names = [Path(*path.relative_to(snapshots).parts[1:]) for path in found]
        pairs = zip(found, names, strict=True)
        return {name: filecmp.cmp(path, self.source / name, shallow=False) for path, name in pairs}

    def _last_words(self, code: int, output: str) -> str:
        if code < 0:
            return signal.Signals(-code).name
        if code == 0:
            return "says that it is done" + (", WRONG BYTES" if self.has_wrong() else "")
        lines = [line.removeprefix("model: ") for line in output.strip().splitlines()] or [""]
        errors = [found[1] for line in lines if (found := _ERROR.match(line))]
        return errors[-1] if errors else lines[-1]


class Warmslice(Program):
    def command(self) -> list[str]:
        catalog = self.cache.with_name("catalog.yaml")
        catalog.write_text(f"models: [{{repository: {self.repository}, name: model}}]\n", "utf-8")
        flags = [f"--catalog-file={catalog}", f"--cache-directory={self.cache}", f"--hub-endpoint={self.endpoint}"]
        if self.token is not None:
            token_file = self.cache.with_name("token")
            token_file.write_text(self.token, "utf-8")
            flags.append(f"--hub-token-file={token_file}")
        return [sys.executable, "-m", "agent", "cache", "pull", *flags, "--cache-reserve-ratio=0"]


class SnapshotDownload(Program):
    """Without Xet, which the local hub does not offer, and without progress bars, which would be its last words."""

    def command(self) -> list[str]:
        return [sys.executable, "-c", _SNAPSHOT, self.repository, str(self.cache)]

    def environment(self) -> dict[str, str]:
        quiet = {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {"HF_ENDPOINT": self.endpoint, **quiet} | ({"HF_TOKEN": self.token} if self.token else {})


CLIENTS: dict[type[Program], str] = {Warmslice: "warmslice", SnapshotDownload: "snapshot_download"}


def main() -> int:
    """Print the table asked for; 1 where ours kept a wrong byte, or did not bring the model in the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="rows whose name has this pattern")
    parser.add_argument("--minute", type=float, default=10.0, help="seconds for which the hub is away in the last row")
    parser.add_argument(
        "--mirror", action="store_true", help="with olah in front of the hub: rows that make sense there"
    )
    parser.add_argument("--resume", action="store_true", help="kill a fetch of one large file halfway, and go on")
    parser.add_argument("--gigabytes", type=float, default=1.0, help="size of that file")
    parser.add_argument("--many", action="store_true", help="fetch 10,000 small files")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hub-faults-") as scratch:
        if options.resume:
            return asyncio.run(_resume(Path(scratch), int(options.gigabytes * 1e9)))
        if options.many:
            return asyncio.run(_many(Path(scratch)))
        rows = [row for row in SCENARIOS if re.search(options.only, row.name)]
        rows = [row for row in rows if row.through_mirror or not options.mirror]
        return asyncio.run(_matrix(Path(scratch), rows, options.mirror, options.minute))


async def _matrix(top: Path, rows: Sequence[Scenario], mirror: bool, minute: float) -> int:
    source = top / "source"
    write_model(source)
    print("bytes: what the hub sent" + (" to the mirror" if mirror else "") + ", as a multiple of the model\n")
    _print_row("fault", *CLIENTS.values())
    failed = False
    for number, row in enumerate(rows):
        outcomes = []
        for client in CLIENTS:
            folder = top / f"{number}-{CLIENTS[client]}"
            folder.mkdir()
            try:
                said, right = await _cell(row, client, folder, source, mirror, minute)
            except NoSmallDiskError as error:
                said, right = f"not here: {error}", True
            outcomes.append(said)
            failed |= not right and client is Warmslice
        _print_row(row.name, *outcomes)
    return int(failed)


async def _cell(
    row: Scenario, kind: type[Program], folder: Path, source: Path, mirror: bool, minute: float
) -> tuple[str, bool]:
    """The words of one cell, and whether the model is there and right; where a mirror may have kept wrong bytes, whether none are
    here."""
    cache = folder / "cache"
    away = minute if "minute" in row.name else row.away_seconds
    with ExitStack() as stack:
        if row.midway is Midway.FILL_DISK:
            stack.enter_context(small_disk(cache, SMALL_DISK_BYTES))
        async with (
            _hub("--private" if row.private else "--model", f"{REPOSITORY}={source}", "--token", TOKEN) as hub,
            front(hub, folder, mirror) as endpoint,
            stage_of(hub) as stage,
        ):
            client = kind(endpoint, REPOSITORY, cache, source, TOKEN if row.private else None)
            runs = await play(row, stage, client, cache, away)
        return _outcome(runs, client), not client.has_wrong() and (mirror or runs[-1].ready)


@asynccontextmanager
async def _hub(*flags: str) -> AsyncIterator[str]:
    with tempfile.TemporaryFile() as log:  # clients that hang up make a hub wordy
        command = [sys.executable, "-m", "hack.hub", *flags]
        process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=log)
        try:
            assert process.stdout is not None
            words = (await process.stdout.readline()).decode().split()
            if not words:
                log.seek(0)
                raise SystemExit(f"the hub did not start: {log.read().decode(errors='replace')}")
            yield words[1]
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()


def _outcome(runs: Sequence[Run], client: Program) -> str:
    size = sum(path.stat().st_size for path in client.source.rglob("*") if path.is_file())
    times = sum(run.sent_bytes for run in runs) / size
    *before, last = [*client.said, *(["right"] if runs[-1].ready else [])]
    if client.has_wrong():
        last = "WRONG BYTES KEPT"
    words = f"{_brief(before[0])}; again: {_brief(last)}" if before else _brief(last)
    return f"{words}  {times:.2f}x" + (" (it never struck)" if runs[0].ready and not runs[0].struck else "")


def _brief(words: str) -> str:
    return words if len(words) <= _SENTENCE_CHARACTERS else words[: _SENTENCE_CHARACTERS - 2] + ".."


def _print_row(*cells: str) -> None:
    print(" | ".join(f"{cell:{width}}" for cell, width in zip(cells, _WIDTHS, strict=True)), flush=True)


async def _resume(top: Path, size: int) -> int:
    """One large file, killed when the hub had sent half of it: what the next run fetches. 1 where ours is over 55 %.

    What is lost was sent and was not in the journal yet, so the share grows with the rate of the hub: both rates are printed.
    """
    source = top / "source"
    source.mkdir()
    with (source / "model.safetensors").open("wb") as file:
        for start in range(0, size, _CHUNK_BYTES):
            file.write(os.urandom(min(_CHUNK_BYTES, size - start)))
    shares = []
    for rate in _RESUME_RATES:
        said = f"{size / 1e9:.1f} GB" + (f" at {rate / 1e6:.0f} MB/s" if rate else ", no limit")
        for kind, name in CLIENTS.items():
            folder = top / f"{rate}-{name}"
            folder.mkdir()
            runs = await _killed_halfway(kind, folder / "cache", source, size, rate)
            share = runs[1].sent_bytes / size if len(runs) > 1 and runs[1].ready else 0.0
            words = f"the next run fetches {share:.1%}" if share else "it was not killed, or did not get there"
            print(f"{name}: killed at {runs[0].sent_bytes / size:.0%} of {said}; {words}", flush=True)
            shares += [share] if kind is Warmslice else []
    return int(not all(0.0 < share <= _MOST_AFTER_HALF for share in shares))


async def _killed_halfway(kind: type[Program], cache: Path, source: Path, size: int, rate: float | None) -> list[Run]:
    row = Scenario("kill -9", settings={"address_bytes_per_second": rate}, midway=Midway.KILL)
    async with _hub("--model", f"{REPOSITORY}={source}") as hub, stage_of(hub, size) as stage:
        return await play(row, stage, kind(hub, REPOSITORY, cache, source, None), cache, 0.0)


async def _many(top: Path) -> int:
    """10,000 small files: how long each client takes. 1 where ours did not bring them."""
    source = top / "source"
    many_files_model(_MANY, source)
    ended = {}
    for kind in CLIENTS:
        cache = top / CLIENTS[kind] / "cache"
        cache.parent.mkdir()
        async with _hub("--model", f"{_MANY}={source}") as hub:
            client = kind(hub, _MANY, cache, source, None)
            began = time.monotonic()
            ended[kind] = await client.run()
        seconds = time.monotonic() - began
        print(f"{CLIENTS[kind]}: {'right' if ended[kind] else client.said[-1]} after {seconds:.1f} s")
    return int(not ended[Warmslice])


if __name__ == "__main__":
    sys.exit(main())
