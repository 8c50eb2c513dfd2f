"""The wheel, built and installed beside nothing but what the lock file has for production."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from hack.uv import uv_program
from tests.fakes.programs import missing
from tests.manifests.sources import ROOT

MEGABYTE = 1 << 20


def uv() -> str:
    """Path of uv; skips the test where there is none, fails it where tools are required."""
    try:
        return str(uv_program())
    except FileNotFoundError as error:
        return str(missing(str(error)))


def run(*command: str, environment: Path | None = None) -> str:
    """Standard output; the test fails with what the command said."""
    variables = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    if environment is not None:
        variables["UV_PROJECT_ENVIRONMENT"] = str(environment)
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_small_wheel_brings_the_agent_its_tables_and_the_command(tmp_path: Path) -> None:
    run(uv(), "build", "--quiet", "--wheel", "--out-dir", str(tmp_path))
    (wheel,) = tmp_path.glob("warmslice-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    assert wheel.stat().st_size < MEGABYTE
    assert "agent/data/mig_geometry.json" in names
    assert not [name for name in names if name.startswith(("hack/", "tests/", "agent/data/share/"))]

    clean = tmp_path / "clean"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    locked = ("--frozen", "--no-dev", "--no-install-project", "--quiet", "--python", sys.executable)
    run(uv(), "sync", *locked, environment=clean)
    run(uv(), "pip", "install", "--quiet", "--no-deps", "--python", str(clean / "bin" / "python"), str(wheel))
    assert (clean / "lib" / f"python{python}" / "site-packages" / "agent").is_dir()
    assert run(str(clean / "bin" / "warmslice"), "--version").startswith("warmslice ")
    for page in ("man/man1/warmslice.1", "bash-completion/completions/warmslice", "zsh/site-functions/_warmslice"):
        assert (clean / "share" / page).is_file()
    planned = run(
        str(clean / "bin" / "warmslice"), "plan", "--gpu", "H100-80GB-SXM", "--to", "1x3g.40gb_4x1g.10gb", "--json"
    )
    assert '"create"' in planned
