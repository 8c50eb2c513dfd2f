"""The law of the loop: whatever the hardware, the wishes, the holders and the faults, and wherever the agent dies, a wish that
can be had is reached, one that cannot is refused, what is not ours is never touched, and the node is given back as found.
"""

from __future__ import annotations

import asyncio

from hypothesis import HealthCheck, event, given, note, settings

from tests.scenario.laws.story import Story, stories, told


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(stories())
def test_every_story_ends_right(story: Story) -> None:
    """How many stories have which end: ``--hypothesis-show-statistics``."""
    note(story.in_words())
    event(asyncio.run(told(story)))
