"""Every NVML call of a change fails once, with each code that it may fail with; and every change is the agent's last act.

The end is the old geometry or the new one, whole; the node is given back as it was found, and says which and why. The calls
are those that a recording of each story makes, so a new call is in the matrix the day it is made. Calls that hang, and faults
that last, can be played too: ``kinds`` of ``play`` below; see README.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.simgpu import SimulatedGpus
from tests.faults.stories import STORIES

ROOT = Path(__file__).resolve().parents[2]
Cells = list[dict[str, Any]]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The simulated NVML and nvidia-smi; which node it shows is said by each story."""
    gpus = SimulatedGpus.create(tmp_path_factory.mktemp("gpus"))
    path = f"{gpus.paths.nvidia_smi.parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, **gpus.env(), "PATH": path}


@pytest.fixture(scope="module")
def cells(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Cells:
    """All cells of all stories."""
    listed: Cells = json.loads(_run("list", tmp_path_factory.mktemp("list"), environment, ""))
    return listed


def _run(verb: str, folder: Path, environment: dict[str, str], given: str) -> str:
    command = [sys.executable, "-m", "tests.faults", verb, str(folder)]
    done = subprocess.run(
        command, env=environment, cwd=ROOT, input=given, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


@pytest.mark.parametrize("story", [story.name for story in STORIES])
@pytest.mark.parametrize("kinds", [("once",), ("killed before", "killed after")], ids=["fails once", "is the last act"])
def test_old_or_new_whole_and_told(
    story: str, kinds: tuple[str, ...], cells: Cells, environment: dict[str, str], tmp_path: Path
) -> None:
    asked = [cell for cell in cells if cell["story"] == story and cell["kind"] in kinds]
    played = [json.loads(line) for line in _run("play", tmp_path, environment, json.dumps(asked)).splitlines()]
    sys.stdout.write(f"{story}: {len(played)} cells\n")
    assert len(played) == len(asked) > 0
    assert [cell for cell in played if cell["wrong"]] == []
