"""The image's recipe, as far as it can be judged without building it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.manifests.sources import ROOT

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COPIED = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, flags=re.MULTILINE)


def instructions(name: str) -> list[str]:
    return re.findall(rf"^{name} (.+)$", DOCKERFILE, flags=re.MULTILINE)


def test_a_linter_has_nothing_to_say_of_it() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, ROOT / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_every_base_image_has_a_tag_and_none_brings_cuda_or_musl() -> None:
    stages = {line.split(" AS ")[1] for line in instructions("FROM") if " AS " in line}
    for image in {line.split()[0] for line in instructions("FROM")} - stages - {"scratch"}:
        _, colon, tag = image.partition(":")
        assert colon, image
        assert tag != "latest"
        assert "alpine" not in image
        assert "cuda" not in image


def test_the_environment_is_the_locked_one_compiled_and_without_tools_for_development() -> None:
    syncs = [line for line in instructions("RUN") if line.startswith("uv sync")]
    assert len(syncs) == 2
    assert all("--frozen" in line and "--no-dev" in line for line in syncs)
    assert "UV_COMPILE_BYTECODE=1" in DOCKERFILE


def test_the_agent_starts_as_nobody_and_gets_its_signals() -> None:
    """The exec form: a shell in between would swallow SIGTERM."""
    assert instructions("ENTRYPOINT") == ['["warmslice"]']
    (user,) = instructions("USER")
    assert user.split(":")[0] != "0"


@pytest.mark.parametrize("source", [word for line in COPIED for word in line.split()])
def test_what_is_copied_exists_and_reaches_the_builder(source: str) -> None:
    assert (ROOT / source).exists()
    allowed = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert source in allowed


def test_uv_is_the_one_that_the_set_up_uses() -> None:
    (version,) = re.findall(r"UV_VERSION=(\S+)", (ROOT / "hack" / "lib" / "setup.sh").read_text())
    assert f"ghcr.io/astral-sh/uv:{version} AS uv" in instructions("FROM")
