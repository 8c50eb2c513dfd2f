"""A day of changes in virtual time leaves the agent as large as it was."""

from __future__ import annotations

import gc
import itertools
import logging
import sys
import tracemalloc

from tests.fakes.world import NodeWorld, h100
from tests.scenario.story import SEVEN, Story

CHANGES = 24 * 12
"""One every five minutes."""
MOST_BYTES = 10_000


def _forget(story: Story) -> None:
    """What the fakes have written down."""
    world = story.world
    for notes in (
        world.effects.names,
        world.counts.seen,
        world.node_writes,
        world.events,
        world.reports,
        world.gpus.log,
        story.hands.taken,
    ):
        notes.clear()


def _agents_bytes() -> int:
    gc.collect()
    # Of each class pattern that is matched Python 3.11 keeps a string there: up to 4,096 that nobody can leave behind.
    sys._clear_type_cache()
    snapshot = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, "*/agent/*")])
    return sum(one.size for one in snapshot.statistics("filename"))


async def test_a_change_every_five_minutes_for_a_day_leaves_nothing_behind() -> None:
    story = Story(NodeWorld(*(h100(SEVEN, index=index) for index in range(2))))
    wishes = itertools.cycle(["2x3g.40gb", "4x1g.10gb_1x3g.40gb", "no-such-layout", "7x1g.10gb"])
    sizes = []
    tracemalloc.start()
    # pytest keeps what is logged.
    logging.disable(logging.CRITICAL)
    try:
        for number, wish in enumerate(itertools.islice(wishes, CHANGES)):
            pod = story.world.add_pod(f"pod-{number}", story.world.device(0, 0))
            story.world.label(value=wish)
            await story.settled()
            story.world.pods.pop(pod, None)
            story.world.devices.pop(pod, None)
            story.world.tick(300.0)
            await story.turns(1)
            _forget(story)
            if number in (CHANGES // 4, CHANGES - 1):
                sizes.append(_agents_bytes())
    finally:
        logging.disable(logging.NOTSET)
        tracemalloc.stop()
    assert sizes[1] - sizes[0] < MOST_BYTES, sizes
