"""A node whose label names a schedule: small slices by day, a large one by night, and all that an ordinary change has."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from agent.model import labels
from agent.model.errors import AgentError
from agent.model.report import ScheduleNow
from agent.model.steps import Begin
from tests.fakes.world import Kill, Killed, NodeWorld, agent_on, h100
from tests.scenario.story import SEVEN, Story

NIGHT = ["7g.80gb@0:8"]
MONDAY = datetime(2026, 11, 23, tzinfo=UTC)
FILE = """\
version: v1
mig-configs:
  one: [{devices: all, mig-enabled: true, mig-devices: {7g.80gb: 1}}]
schedules:
  office:
    time-zone: UTC
    periods:
      day: {from: '07:00', layout: 7x1g.10gb}
      night: {from: '19:00', layout: one}
"""


@pytest.fixture
def story(tmp_path: Path) -> Story:
    """Monday, noon."""
    file = tmp_path / "layouts.yaml"
    file.write_text(FILE, "utf-8")
    world = NodeWorld(h100(SEVEN))
    world.layouts_file = str(file)
    world.time = _at(12)
    world.label(value="office")
    return Story(world)


def _at(hour: float, day: int = 0) -> float:
    return (MONDAY + timedelta(days=day, hours=hour)).timestamp()


def _edit(story: Story, old: str, new: str) -> None:
    Path(story.world.layouts_file).write_text(FILE.replace(old, new), "utf-8")


async def _until(story: Story, moment: float) -> None:
    """As the agent's loop would have it: it sleeps as long as the pass says."""
    while story.world.time < moment:
        wait = await story.partition()
        story.world.tick(min(max(wait, 0.5), moment - story.world.time))


async def test_a_fleet_does_not_see_in_one_second_that_a_period_has_begun(story: Story) -> None:
    world = story.world
    await story.settled()
    world.time = _at(19) - 20
    waits = []
    for _ in range(100):
        partition, _ = agent_on(world, spread_seconds=10.0)
        waits.append(await partition() - (_at(19) - world.time))
    assert all(0.0 <= wait <= 10.0 for wait in waits)
    assert max(Counter(map(int, waits)).values()) < 30, "ten are to be expected in a second"


async def test_each_period_has_its_layout_from_its_first_minute_on(story: Story) -> None:
    world = story.world
    for day in range(2):
        await _until(story, _at(18.99, day))
        assert story.layout == [SEVEN.split()]
        assert story.status["schedule"] == {"name": "office", "period": "day", "until": _at(19, day)}
        await _until(story, _at(19.01, day))
        assert story.layout == [NIGHT]
        assert story.verdict == ("success", "applied")
        assert story.status["schedule"] == {"name": "office", "period": "night", "until": _at(7, day + 1)}
        await _until(story, _at(7.01, day + 1))
        assert story.layout == [SEVEN.split()]
    begun = [step for step in story.hands.taken if isinstance(step, Begin)]
    assert len(begun) == 4
    assert world.node["metadata"]["labels"][labels.CONFIG] == "office"
    assert ScheduleNow(**story.status["schedule"]).period == "day"


async def test_nobody_looks_every_minute_for_the_time(story: Story) -> None:
    await story.settled()
    assert await story.partition() == 300.0
    story.world.time = _at(18.99)
    assert await story.partition() == pytest.approx(36.0)


async def test_who_holds_a_slice_in_the_evening_is_moved_as_for_any_wish(story: Story) -> None:
    """With all its guards: a budget is waited for, into the night."""
    world = story.world
    await story.settled()
    world.add_pod("serve", world.device(0, 3), pod_labels={"app": "serve"})
    budget = {"metadata": {"name": "keep", "namespace": "default"}, "status": {"disruptionsAllowed": 0}}
    world.budgets_list = [{**budget, "spec": {"selector": {"matchLabels": {"app": "serve"}}}}]
    await _until(story, _at(19.1))
    assert world.reports[-1].waits_for == "budget"
    assert story.layout == [SEVEN.split()]
    world.budgets_list.clear()
    await _until(story, _at(19.2))
    assert (story.layout, story.verdict) == ([NIGHT], ("success", "applied"))


async def test_a_drain_that_lasts_until_the_morning_ends_without_a_change(story: Story) -> None:
    world = story.world
    await story.settled()
    stays = world.add_pod("serve", world.device(0, 3), pod_labels={"app": "serve"})
    budget = {"metadata": {"name": "keep", "namespace": "default"}, "status": {"disruptionsAllowed": 0}}
    world.budgets_list = [{**budget, "spec": {"selector": {"matchLabels": {"app": "serve"}}}}]
    await _until(story, _at(7.1, 1))
    assert (story.layout, story.verdict) == ([SEVEN.split()], ("success", "applied"))
    assert stays in world.pods
    assert not world.node["spec"].get("unschedulable")


async def test_an_agent_that_was_away_at_the_hour_makes_up_for_it(story: Story) -> None:
    await story.settled()
    story.world.time = _at(23)
    story.restart()
    await _until(story, _at(23.01))
    assert (story.layout, story.verdict) == ([NIGHT], ("success", "applied"))


async def test_killed_in_the_evening_and_back_in_the_morning_it_goes_back_to_the_day(story: Story) -> None:
    world = story.world
    await story.settled()
    world.effects.kill = Kill(len(world.effects.names) + 4, "after")
    with pytest.raises(Killed):
        await _until(story, _at(19.1))
    assert world.node["spec"]["unschedulable"] is True
    world.effects.kill = None
    world.time = _at(8, 1)
    story.restart()
    await _until(story, _at(8.1, 1))
    assert (story.layout, story.verdict) == ([SEVEN.split()], ("success", "applied"))
    assert not world.node["spec"].get("unschedulable")


async def test_a_period_whose_layout_this_gpu_cannot_be_is_refused_when_it_begins(story: Story) -> None:
    _edit(story, "layout: one", "layout: 8x1g.10gb")
    await _until(story, _at(19.1))
    assert story.verdict == ("failed", "no-placement")
    assert "'8x1g.10gb'" in story.status["message"]
    assert story.layout == [SEVEN.split()]


async def test_two_periods_of_one_layout_are_one_wish(story: Story) -> None:
    _edit(story, "layout: one", "layout: 7x1g.10gb")
    await _until(story, _at(12, 1))
    assert not any(isinstance(step, Begin) for step in story.hands.taken)
    assert story.status["schedule"]["period"] == "day"


async def test_a_label_that_names_a_layout_again_leaves_the_schedule(story: Story) -> None:
    await story.settled()
    story.world.label(value="one")
    await story.settled()
    assert (story.layout, story.status["schedule"]) == ([NIGHT], None)


async def test_a_file_that_is_broken_in_the_evening_keeps_the_day(story: Story) -> None:
    await story.settled()
    _edit(story, "'19:00'", "later")
    partition, hands = agent_on(story.world)
    for _ in range(5):
        try:
            await partition()
        except AgentError:
            raise AssertionError("a mistake in a file is no fault") from None
        story.world.tick(60.0)
    assert story.layout == [SEVEN.split()]
    assert story.verdict == ("failed", "layouts-unreadable")
    assert not hands.taken
