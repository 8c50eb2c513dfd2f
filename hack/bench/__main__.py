"""Every benchmark in turn: what each is for, its tables, its limits, and this machine.

    ./hack/bench/run                     seeded samples and short runs, in less than a quarter of an hour on two processors
    ./hack/bench/run --full              all there is, and long enough for quiet numbers (some hours)
    ./hack/bench/run --only 'fetch|idle' some of them
    ./hack/bench/run --json FILE         also as data, to compare with another run
    python -m hack.bench --page FILE     docs/benchmarks.md out of such data

Exit code 1 where a benchmark passed one of its limits. The soak of ten minutes is apart: python -m hack.bench.soak.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hack.bench.page import page
from hack.bench.report import Report, Run, parsed

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Bench:
    """``quick`` and ``full`` are what is added to ``python -m hack.bench.NAME``. ``title``: what it shows."""

    name: str
    title: str
    quick: str = ""
    full: str = ""


BENCHES = (
    Bench(
        "disruption", "Slices destroyed by a change, beside wiping the GPU; time of a plan", "--sample 1500", "--full"
    ),
    Bench("latency", "From the label to success, by who has it in hand", "--rounds 6", "--rounds 30"),
    Bench("idle", "An agent that has nothing to do", "--minutes 1", "--minutes 12 --gpus 8"),
    Bench("fleet", "What a fleet costs its API server", full="--full"),
    Bench("egress", "What leaves the hub when many nodes want one model", full="--nodes 12 --megabytes 200"),
    Bench("startup", "A command that does nothing", "--runs 10", "--runs 30"),
    Bench("scrape", "Twenty scrapes at once, beside nvitop-exporter", "--seconds 8", "--seconds 60"),
    Bench("fetch", "Fetching a model, beside other clients", "--gigabytes 1 --runs 2 --single-gigabytes 1.5", ""),
    Bench("hub_faults", "A hub with faults, beside the hub's client", "--only 'reset|503|429|truncate|wrong'", ""),
    Bench("beside_fetch", "What a fetch does to its neighbours", "--gigabytes 2 --rounds 2", ""),
    Bench("cold_start", "Weights from disk and out of memory", "--gb 1 --runs 2", ""),
    Bench("apiserver", "The development API server itself", "--nodes 200 --patches 100", ""),
)


def machine() -> dict[str, Any]:
    """What the figures were made on."""
    cpu = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    memory = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())[0])
    return {
        "processors": os.cpu_count(),
        "processor": cpu[0] if cpu else platform.machine(),
        "memory_gb": round(memory / 1e6),
        "python": platform.python_version(),
    }


def run(bench: Bench, full: bool) -> Run:
    """Its lines go to standard output as they come."""
    words = bench.full if full else bench.quick
    command = f"python -m hack.bench.{bench.name} {words}".strip()
    print(f"\n## {bench.title}\n$ {command}", flush=True)
    began, lines = time.monotonic(), []
    shell = command.replace("python", sys.executable, 1)
    with subprocess.Popen(shell, shell=True, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    seconds = time.monotonic() - began
    print(f"({seconds:.0f} s, exit code {process.returncode})", flush=True)
    tables, said = parsed(lines)
    return Run(bench.name, bench.title, command, round(seconds, 1), process.returncode, tables, said)


def report(benches: Iterable[Bench], full: bool) -> Report:
    """Run them all."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    runs = [run(bench, full) for bench in benches]
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    return Report(day, commit.stdout.strip(), full, machine(), tuple(runs))


def main(argv: Sequence[str] | None = None) -> int:
    """See the module's text."""
    parser = argparse.ArgumentParser(
        prog="hack/bench/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="all there is")
    parser.add_argument("--only", default="", metavar="PATTERN", help="those whose name has this pattern")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables as data too; - for standard output")
    parser.add_argument("--page", type=Path, metavar="FILE", help="run nothing: write the page of docs from that file")
    options = parser.parse_args(argv)
    if options.page:
        PAGE.write_text(page(Report.from_json(options.page.read_text("utf-8"))), "utf-8")
        return 0
    chosen = [bench for bench in BENCHES if re.search(options.only, bench.name)]
    if not chosen:
        parser.error(f"--only is {options.only!r}; it must match one of {', '.join(bench.name for bench in BENCHES)}")
    found = report(chosen, options.full)
    print("\n## In short\nbenchmark | seconds | within its limits")
    for one in found.runs:
        print(f"{one.name} | {one.seconds:.0f} | {'yes' if one.exit_code == 0 else 'NO'}")
    print(f"all | {sum(one.seconds for one in found.runs):.0f} |")
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.machine.items()))
    if options.json:
        text = json.dumps(asdict(found), indent=1, ensure_ascii=False) + "\n"
        sys.stdout.write(text) if str(options.json) == "-" else options.json.write_text(text, "utf-8")
    return int(any(one.exit_code for one in found.runs))


if __name__ == "__main__":
    sys.exit(main())
