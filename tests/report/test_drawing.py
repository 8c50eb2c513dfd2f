"""Answers as text: what a person reads before a node is changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.model.answer import Answer, GpuAnswer
from agent.model.mig import Shape
from agent.observe.paper import gpu_on_paper, models
from agent.plan.geometry import completions, maximal_geometries
from agent.report.drawing import drawn

H100 = GpuAnswer(
    gpu=1,
    uuid="GPU-1",
    name="NVIDIA H100 80GB HBM3",
    memory_slices=8,
    now=("1g.10gb@0:1", "1g.10gb+me@1:1", "2g.20gb@2:2", "1c+1c.2g.20gb@4:2"),
    keep=("1g.10gb@0:1", "1g.10gb+me@1:1"),
    destroy=("2g.20gb@2:2", "1c+1c.2g.20gb@4:2"),
    create=("4g.40gb@4:4",),
    holders={"1g.10gb@0:1": ("team/serve-1",), "2g.20gb@2:2": ("team/train-1", "team/train-2")},
)


def test_who_moves_and_what_holds_them_back_is_all_there() -> None:
    answer = Answer(
        "day",
        "change",
        "change",
        "",
        (H100,),
        pods=("team/train-1", "team/train-2"),
        budgets={"team/train-1": ("training",), "team/train-2": ()},
        held_back=("team/train-1",),
        exact=False,
    )
    assert drawn(answer).splitlines() == [
        "'day': would change",
        "GPU 1  NVIDIA H100 80GB HBM3: 2 kept, 2 destroyed, 1 created",
        "before |1g.10gb|-1g+me-|----2g.20gb----|-1c+1c.2g.20gb-|   .       .   |",
        "after  |1g.10gb|-1g+me-|   .       .   |------------4g.40gb------------|",
        "keep     1g.10gb@0:1  held by team/serve-1",
        "destroy  2g.20gb@2:2  held by team/train-1, team/train-2",
        "destroy  1c+1c.2g.20gb@4:2",
        "create   4g.40gb@4:4",
        "move     team/train-1  (budget training: lets none go now)",
        "move     team/train-2  (no budget)",
        "a way that moves fewer pods may exist: there were too many to look at all",
    ]


def test_what_is_waited_for_comes_before_the_drawing() -> None:
    answer = Answer("day", "wait", "blocked", "process 3 outside any pod on GPU 1", (H100,), unknown="Ask the node.")
    rows = drawn(answer).splitlines()
    assert rows[:2] == ["'day': has to wait", "blocked: process 3 outside any pod on GPU 1"]
    assert rows[-1] == "Ask the node."


def test_a_gpu_that_stays_has_one_bar() -> None:
    same = replace(H100, keep=H100.now, destroy=(), create=())
    rows = drawn(Answer("day", "nothing", "applied", "", (same,))).splitlines()
    assert rows[1] == "GPU 1  NVIDIA H100 80GB HBM3: unchanged"
    assert [row[:7] for row in rows[2:]] == ["now    ", "keep   ", "keep   "]


@pytest.mark.parametrize("model", models())
def test_every_layout_of_every_gpu_fits_a_terminal(model: str) -> None:
    """80 columns, every instance between its own bounds, and none without a name."""
    gpu = gpu_on_paper(model)
    slices = max(place.end for profile in gpu.profiles for place in profile.placements)
    for shapes in maximal_geometries(gpu):
        layout = next(completions(gpu, shapes))
        names = tuple(str(slot) for slot in layout)
        bar = drawn(Answer("x", "nothing", "", "", (GpuAnswer(0, "", "", slices, now=names),))).splitlines()[2]
        assert len(bar) == 7 + 1 + 64 // slices * slices
        drawn_names = [part.strip("-. ") for part in bar[8:].split("|")]
        assert all(_width(shape) in " ".join(drawn_names) for shape in shapes)
        assert sum(bool(name) for name in drawn_names) == len(shapes)


def _width(shape: Shape) -> str:
    return shape.profile.split(".")[0]
