"""The process in which cells are played: ``list`` prints them as JSON, ``play`` reads them as JSON and prints what went wrong.

It runs with the simulated NVML on its library path, and has no threads: each cell is a fork of it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from tests.faults.cells import Cell, cells_of
from tests.faults.play import Stage, played, recorded, staged
from tests.faults.stories import STORIES

_HOLDERS = 4


def main(verb: str, folder: Path, every: bool) -> None:
    """``folder`` takes the nodes' state files."""
    # They end when their standard input does: with this process.
    pods = [subprocess.Popen(["cat"], stdin=subprocess.PIPE) for _ in range(_HOLDERS)]
    holders = tuple(pod.pid for pod in pods)
    if verb == "list":
        stages = [staged(story, folder / str(number), holders) for number, story in enumerate(STORIES)]
        cells = [cell for stage in stages for cell in cells_of(recorded(stage, folder), every)]
        sys.stdout.write(msgspec.json.encode(cells).decode())
        return
    asked: dict[str, Stage] = {}
    stories = {story.name: story for story in STORIES}
    for cell in msgspec.json.decode(sys.stdin.read(), type=list[Cell]):
        if cell.story not in asked:
            asked[cell.story] = staged(stories[cell.story], folder / f"story-{len(asked)}", holders)
        wrong = played(asked[cell.story], cell, folder)
        sys.stdout.write(msgspec.json.encode({"cell": cell.name, "wrong": wrong}).decode() + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), "--every" in sys.argv)
