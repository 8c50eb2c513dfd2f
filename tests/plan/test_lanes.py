"""Batches and lanes of a plan's steps: different GPUs are cut side by side, and nothing else changes its order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.model.mig import Placement, Shape
from agent.model.steps import Create, Destroy, Prepare, Refresh, SetMode, Step, Trim
from agent.plan.lanes import Batch, batches, gpu_of

GPUS = st.sampled_from(["GPU-a", "GPU-b", "GPU-c"])
ONE = Placement(0, 1)
STEPS = st.lists(
    st.one_of(
        st.builds(Destroy, GPUS, st.just(ONE), st.just("1g.10gb")),
        st.builds(Trim, GPUS, st.just(ONE), st.just("1g.10gb"), st.just((ONE,))),
        st.builds(Create, GPUS, st.just(ONE), st.just(Shape("1g.10gb"))),
        st.builds(SetMode, GPUS, st.booleans()),
        st.builds(Prepare),
        st.builds(Refresh),
    ),
    max_size=14,
)


def cuts(step: Step) -> bool:
    return isinstance(step, Destroy | Trim | Create)


def _may_be_beside(steps: list[Step], one: int, other: int) -> bool:
    """Two steps of different GPUs, with nothing but cutting from the one to the other."""
    return gpu_of(steps[one]) != gpu_of(steps[other]) and all(map(cuts, steps[one : other + 1]))


@given(STEPS)
def test_two_steps_are_side_by_side_exactly_where_they_cut_different_gpus_and_nothing_else_lies_between(
    steps: list[Step],
) -> None:
    found = batches(steps)
    where = {number: (b, a) for b, batch in enumerate(found) for a, lane in enumerate(batch) for number in lane}
    assert sorted(number for batch in found for lane in batch for number in lane) == list(range(len(steps)))
    for one in range(len(steps)):
        for other in range(one + 1, len(steps)):
            (batch, lane), (later, other_lane) = where[one], where[other]
            beside = batch == later and lane != other_lane
            assert beside == _may_be_beside(steps, one, other)
            if not beside:
                assert _taken_before(found, one, other)


def _taken_before(found: tuple[Batch, ...], one: int, other: int) -> bool:
    order = [number for batch in found for lane in batch for number in lane]
    return order.index(one) < order.index(other)
