"""Programs of others that the hub is tried with: aria2c from Debian's packages, olah (a mirror) from the package index.

``python -m hack.hub.third_parties`` puts both into build/tools, where they are found again without a network. Nothing is
installed: packages are unpacked, and olah gets an environment of its own, since its needs are not the project's.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

TOOLS = Path(__file__).parents[2] / "build" / "tools"

_OLAH_VERSION = "0.5.4"
# The program, its library, and what of that library's needs a small system lacks.
_ARIA2_PACKAGES = ("aria2", "libaria2-0", "libc-ares2", "libssh2-1")
_PATIENCE_SECONDS = 180


class NotToBeHadError(Exception):
    """A program is neither here nor to be got; the message says why."""


def aria2c(tools: Path = TOOLS) -> Path:
    """An installed aria2c, else the one in ``tools``, unpacked there if need be. Raises NotToBeHadError."""
    installed = shutil.which("aria2c")
    if installed is not None:
        return Path(installed)
    program = tools / "aria2c"
    if not program.exists():
        _unpack_aria2(tools)
    return program


def olah(tools: Path = TOOLS) -> Path:
    """olah's server, of the version that is pinned here. Raises NotToBeHadError."""
    environment = tools / f"olah-{_OLAH_VERSION}"
    program = environment / "bin" / "olah-cli"
    if not program.exists():
        shutil.rmtree(environment, ignore_errors=True)
        _run([sys.executable, "-m", "venv", str(environment)])
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"olah=={_OLAH_VERSION}"]
        _run([str(environment / "bin" / "python"), *install])
    return program


def _unpack_aria2(tools: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise NotToBeHadError(
            "aria2c is not installed, and without apt-get and dpkg-deb its package cannot be unpacked"
        )
    tools.mkdir(parents=True, exist_ok=True)
    unpacked = tools / "aria2"
    shutil.rmtree(unpacked, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=tools) as download:
        _download_packages(Path(download))
        for package in sorted(Path(download).glob("*.deb")):
            _run(["dpkg-deb", "-x", str(package), str(unpacked)])
    _write_launcher(tools, unpacked)


def _download_packages(folder: Path) -> None:
    download = ["apt-get", "download", "-q", *_ARIA2_PACKAGES]
    try:
        _run(download, folder)
    except NotToBeHadError:  # the lists of packages may be missing, or too old
        _run(["apt-get", "update", "-q"], folder)
        _run(download, folder)


def _write_launcher(tools: Path, unpacked: Path) -> None:
    """Only once the unpacked program is known to start: what exists is taken to work."""
    (library,) = {path.parent for path in unpacked.rglob("libaria2.so.0")}
    launcher = unpacked / "aria2c"
    launcher.write_text(
        f'#!/bin/sh\nLD_LIBRARY_PATH="{library}" exec "{unpacked / "usr" / "bin" / "aria2c"}" "$@"\n', "utf-8"
    )
    launcher.chmod(0o755)
    _run([str(launcher), "--version"])
    launcher.rename(tools / "aria2c")


def _run(command: Sequence[str], folder: Path | None = None) -> None:
    try:
        ended = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotToBeHadError(f"{command[0]}: {error}") from error
    if ended.returncode != 0:
        said = (ended.stderr.strip() or ended.stdout.strip() or "it said nothing").splitlines()[-1]
        raise NotToBeHadError(f"{' '.join(command[:4])} ended with {ended.returncode}: {said}")


def main() -> None:
    for name, find in (("aria2c", aria2c), ("olah", olah)):
        try:
            print(f"{name}: {find()}")
        except NotToBeHadError as error:
            print(f"{name}: {error}")


if __name__ == "__main__":
    main()
