"""The image, built here by the steps of its recipe."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hack.containers.image import ROOT, Builder, Image, copy
from hack.containers.mounts import Bind, Process, why_not
from hack.uv import uv_program
from tests.fakes.programs import missing

NOBODY = 65532
_IMPORT_ALL = """
import importlib, os, pkgutil
import agent
names = [one.name for one in pkgutil.walk_packages(agent.__path__, "agent.") if not one.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names), os.getuid())
"""


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Builder:
    if why := why_not():
        missing(why)
    return _builder(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def image(builder: Builder) -> Image:
    return builder.build()


def _builder(folder: Path) -> Builder:
    return Builder(ROOT, folder / "built", uv_program(), lambda _: None)


def _run(image: Image, folder: Path, *arguments: str) -> str:
    """Without a privilege, on a root that is read only, with a /tmp of its own; options go to the entry point."""
    copy(image, folder / "layer", is_read_only=True)
    for name in ("work", "root"):
        (folder / name).mkdir()
    scratch = folder / "scratch"
    scratch.mkdir()
    scratch.chmod(0o777)
    process = Process(
        arguments=(*image.entrypoint, *arguments) if arguments[0].startswith("-") else arguments,
        environment=image.environment,
        layer=str(folder / "layer"),
        work=str(folder / "work"),
        root=str(folder / "root"),
        binds=(Bind(str(scratch), "/tmp"),),
        user=int(image.user),
        keeps=(),
        may_gain=False,
        is_root_read_only=True,
    )
    command = process.command(folder / "process.json")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_nobody_can_start_the_agent_and_import_every_module_of_it(image: Image, tmp_path: Path) -> None:
    modules = [path for path in (ROOT / "agent").rglob("*.py") if path.name not in ("__main__.py", "__init__.py")]
    assert _run(image, tmp_path / "version", "--version").startswith("warmslice ")
    imported, user = map(int, _run(image, tmp_path / "imports", "python", "-c", _IMPORT_ALL).split())
    assert imported >= len(modules)
    assert user == (NOBODY if os.geteuid() == 0 else 0)  # a user namespace has no other user


def test_it_has_what_the_lock_file_has_and_the_bill_of_materials_says_so(builder: Builder, image: Image) -> None:
    listed = json.loads(builder.build("sbom").inside("/warmslice.cdx.json").read_text())
    installed = {_normal(path.name.split("-")[0]) for path in image.inside("/opt/warmslice").rglob("*.dist-info")}
    components = {_normal(one["name"]) for one in listed["components"]}
    assert installed - {"warmslice"} <= components
    assert {"kubernetes", "nvidia-ml-py", "huggingface-hub"} <= installed
    assert not installed & {"pytest", "mypy", "playwright"}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_image_for_clusters_without_gpus_has_some_and_what_advertises_them(
    builder: Builder, tmp_path: Path
) -> None:
    """As root, which its containers are."""
    script = (
        "simgpu init --gpu H100-80GB-SXM:2 && nvidia-smi -L && python -m hack.dev_device_plugin --help | head -1 "
        "&& warmslice plan --here --to 7x1g.10gb --json | head -1"
    )
    dev = replace(builder.build("dev"), user="0")
    dev.environment["SIMGPU_STATE"] = "/tmp/gpus.state"
    said = _run(dev, tmp_path / "dev", "sh", "-c", script)
    assert said.count("NVIDIA H100 80GB HBM3") == 2
    assert "usage: python -m hack.dev_device_plugin" in said


def test_two_builds_of_one_lock_file_have_the_same_bytes(image: Image, tmp_path: Path) -> None:
    assert list(_digests(image)) == list(_digests(_builder(tmp_path).build()))


def _digests(image: Image) -> Iterator[tuple[str, str]]:
    root = image.inside("/")
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            yield str(path.relative_to(root)), hashlib.sha256(path.read_bytes()).hexdigest()
