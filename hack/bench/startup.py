"""How long a command takes that does nothing: `warmslice --version`, out of the wheel in a clean environment, beside Python
alone and kubectl, in turn in the same run.

    python -m hack.bench.startup [--runs 20]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hack.containers.image import ROOT
from hack.kubectl import kubectl
from hack.uv import uv_program

LIMIT_SECONDS = 0.3


def main() -> None:
    """Print the table; exit code 1 where the limit is passed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="startup-") as folder:
        clean = _installed(Path(folder))
        commands: dict[str, list[str | Path]] = {
            "warmslice --version": [clean / "bin" / "warmslice", "--version"],
            "python -c pass": [clean / "bin" / "python", "-c", "pass"],
            "kubectl version --client": [kubectl(), "version", "--client"],
        }
        took: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.runs):
            for name, command in commands.items():
                took[name].append(_seconds(command))
    print("what | median, ms | from | to")
    for name, seconds in took.items():
        values = (statistics.median(seconds), min(seconds), max(seconds))
        print(" | ".join([name, *(f"{1000 * value:.0f}" for value in values)]))
    ours, peer = (statistics.median(took[name]) for name in list(commands)[:2])
    print(
        f"limit: {1000 * LIMIT_SECONDS:.0f} ms; warmslice took {ours / LIMIT_SECONDS:.2f} of that, {ours / peer:.1f} times Python"
    )
    sys.exit(ours > LIMIT_SECONDS)


def _installed(folder: Path) -> Path:
    """The wheel, with what the lock file has for it, compiled as an installer does."""
    uv, clean = str(uv_program()), folder / "clean"
    requirements = folder / "requirements.txt"
    _run(uv, "build", "--quiet", "--wheel", "--out-dir", str(folder))
    _run(uv, "export", "--quiet", "--frozen", "--no-dev", "--no-emit-project", "--output-file", str(requirements))
    _run(uv, "venv", "--quiet", "--python", sys.executable, str(clean))
    install = (uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", str(clean / "bin" / "python"))
    _run(*install, "--requirements", str(requirements))
    (wheel,) = folder.glob("*.whl")
    print(f"wheel: {wheel.stat().st_size / 1000:.0f} kB")
    _run(*install, "--no-deps", str(wheel))
    return clean


def _run(*command: str) -> None:
    subprocess.run(command, cwd=ROOT, check=True)


def _seconds(command: Sequence[str | Path]) -> float:
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
