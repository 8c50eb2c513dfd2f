"""Every NVML call of a change fails once, with each code that it may fail with, and hangs; every change is the agent's last act;
a GPU falls off the bus at each pass; and faults last longer than the agent's patience.

A fault that passes: the end is the old geometry or the new one, whole; the node is given back as it was found, and says which
and why. One that lasts: the node is given back all the same, no other GPU suffers, and the wish comes true when it is over. The
calls are those that a recording of each story makes, so a new call is in the matrix the day it is made. Of calls that
change nothing, and of what lasts, some cells are played here; `python -m tests.faults list FOLDER` prints them all, and
`play FOLDER` plays those that it reads.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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
    listed: Cells = json.loads(_run("list", tmp_path_factory.mktemp("list"), environment))
    return listed


def _run(verb: str, folder: Path, environment: dict[str, str], given: str = "") -> str:
    process = _start(verb, folder, environment)
    return process.communicate(given)[0]


def _start(verb: str, folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.faults", verb, str(folder)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdin=pipe, stdout=pipe, text=True)


def _play(cells: Cells, folder: Path, environment: dict[str, str]) -> Cells:
    """In as many processes as there are processors here, unless they have other tests to run."""
    count = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1
    shares = [(cells[number::count], _start("play", folder / str(number), environment)) for number in range(count)]
    with ThreadPoolExecutor(count) as threads:
        texts = threads.map(lambda share: share[1].communicate(json.dumps(share[0]))[0], shares)
        return [json.loads(line) for text in texts for line in text.splitlines()]


KINDS = {
    "fails once": (("once",), 1, 8),
    "is the last act": (("killed before", "killed after"), 1, 1),
    "hangs": (("hang",), 1, 3),
    "loses its GPU": (("lost",), 1, 3),
    "has a fault that lasts": (("lasting", "hang for ever"), 24, 48),
}
"""Names of disturbances, which cells they are, and every which is played: of those of a change, and of the others."""
CHANGES = re.compile("Create|Destroy|SetMig")
NAMES = [story.name for story in STORIES]


@pytest.mark.parametrize("story", NAMES)
@pytest.mark.parametrize("disturbance", KINDS)
def test_it_ends_right_and_told(
    story: str, disturbance: str, cells: Cells, environment: dict[str, str], tmp_path: Path
) -> None:
    kinds, *every = KINDS[disturbance]
    of_story = [cell for cell in cells if cell["story"] == story and cell["kind"] in kinds]
    changes = [cell for cell in of_story if CHANGES.search(cell["function"])]
    others = [cell for cell in of_story if cell not in changes]
    asked = [
        cell
        for some, nth in zip((changes, others), every, strict=True)
        for cell in some[NAMES.index(story) % nth :: nth]
    ]
    played = _play(asked, tmp_path, environment)
    sys.stdout.write(f"{story}: {len(played)} of {len(of_story)} cells\n")
    assert len(played) == len(asked) > 0
    assert [cell for cell in played if cell["wrong"]] == []
