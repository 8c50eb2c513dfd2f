"""When the start-up gate opens: with all three in place, or after its deadline, and at no other time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model import labels
from agent.model.cache import ModelState
from agent.model.gate import ForgetGate, Gate, GateOutcome, NoteGate, OpenGate
from agent.model.node import Node, Taint
from agent.model.report import NodeStatus, ScheduleNow
from agent.plan.gate import GateRules, GateSeen, decide_gate

RULES = GateRules(labels.CONFIG, 900.0)
NOW = 1_000_000.0
APPLIED = NodeStatus(
    "success",
    "applied",
    "'small' applied",
    NOW,
    "small",
    gpus=2,
    placements={"GPU-a": ["3g.40gb@0:4", "1c+1c.2g.20gb@4:2", "1g.10gb+me@6:1"], "GPU-b": ["1g.10gb@0:1"]},
    boot_id="boot-1",
)
MIXED = {
    "nvidia.com/mig-3g.40gb": 1,
    "nvidia.com/mig-1c.2g.20gb": 2,
    "nvidia.com/mig-1g.10gb.me": 1,
    "nvidia.com/mig-1g.10gb": 1,
}


def taint(key: str = labels.WARMING, effect: str = labels.WARMING_EFFECT, **more: str) -> Taint:
    return Taint(key, effect, {"key": key, "effect": effect, **more})


def node(
    status: NodeStatus | None = APPLIED,
    shown: dict[str, int] = MIXED,
    gate: Gate | str | None = None,
    taints: tuple[Taint, ...] = (taint(),),
    boot: str = "boot-1",
    **known: str,
) -> Node:
    found = {labels.CONFIG: "small"} | {key.replace("__", "/"): value for key, value in known.items()}
    annotations = {} if status is None else {labels.STATUS: status.to_json()}
    if gate is not None:
        annotations[labels.GATE] = gate if isinstance(gate, str) else gate.to_json()
    return Node("gpu-1", "u", "7", found, annotations, False, shown, shown, boot, taints=taints)


def look(here: Node, *, now: float = NOW, driver: bool = False, refusal: str = "", **gated: ModelState) -> GateOutcome:
    return decide_gate(GateSeen(now, here, driver, gated, refusal), RULES)


def reasons(outcome: GateOutcome) -> list[str]:
    return [lack.reason for lack in outcome.lacks]


READY, FETCHING = ModelState.READY, ModelState.FETCHING


# -- the laws ---------------------------------------------------------------------------------------------------------


@st.composite
def _sights(draw: st.DrawFn) -> tuple[GateSeen, bool, bool, bool]:
    """A gate, and whether layout, allocatable and models are in place: each drawn on purpose, in one of several ways."""
    wrong: list[dict[str, Any]] = [
        {"status": None},
        {"status": replace(APPLIED, state="pending")},
        {"status": replace(APPLIED, state="failed")},
        {"status": replace(APPLIED, layout="large")},
        {"status": replace(APPLIED, boot_id="boot-0")},
    ]
    applied, shown, ready = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    how: dict[str, Any] = {} if applied else draw(st.sampled_from(wrong))
    short = [{}, MIXED | {"nvidia.com/mig-1c.2g.20gb": 1}, MIXED | {"nvidia.com/mig-3g.40gb": 0}]
    enough = [MIXED, MIXED | {"nvidia.com/mig-1g.10gb": 4, "nvidia.com/gpu": 1}, {"nvidia.com/gpu": 5}]
    how["shown"] = draw(st.sampled_from(enough if shown else short))
    names = draw(st.lists(st.sampled_from("abc"), unique=True))
    gated = dict.fromkeys(names, READY)
    refusal = ""
    if not ready and (not names or draw(st.booleans())):
        refusal = "model catalog: cannot be read"
    elif not ready:
        gated[names[0]] = draw(st.sampled_from([s for s in ModelState if s is not READY]))
    since = draw(st.none() | st.floats(NOW - 2000, NOW + 100))
    how["gate"] = None if since is None else draw(st.sampled_from([Gate(since, "layout", "x"), "no JSON {"]))
    others = draw(
        st.lists(st.sampled_from([taint("a"), taint(effect="NoExecute"), taint("b", value="c")]), unique_by=str)
    )
    how["taints"] = tuple(draw(st.permutations([*others, taint()])))
    return GateSeen(NOW, node(**how), False, gated, refusal), applied, shown, ready


@given(_sights())
def test_it_opens_with_all_three_or_after_the_deadline_and_at_no_other_time(
    sight: tuple[GateSeen, bool, bool, bool],
) -> None:
    seen, applied, shown, ready = sight
    outcome = decide_gate(seen, RULES)
    record = Gate.from_json(seen.node.annotations.get(labels.GATE, "null"))
    since = record.since if record is not None and record.since <= NOW else NOW
    if applied and shown and ready:
        assert isinstance(outcome.step, OpenGate)
        assert outcome.step.outcome == "ready"
    elif NOW - since >= RULES.seconds:
        assert isinstance(outcome.step, OpenGate)
        assert outcome.step.outcome == "deadline"
    else:
        assert not isinstance(outcome.step, OpenGate | ForgetGate)
        assert outcome.lacks
        assert outcome.due_seconds == RULES.seconds - (NOW - since)
        first = "layout" if not applied else "allocatable" if not shown else outcome.lacks[0].reason
        assert outcome.lacks[0].reason == first


@given(_sights())
def test_what_is_written_down_is_not_written_again(sight: tuple[GateSeen, bool, bool, bool]) -> None:
    """The node goes to everyone who watches nodes: one write for each reason, and none for looking again."""
    seen, *_ = sight
    outcome = decide_gate(seen, RULES)
    if not isinstance(outcome.step, NoteGate):
        return
    written = {**seen.node.annotations, labels.GATE: outcome.step.gate.to_json()}
    again = decide_gate(replace(seen, now=NOW + 1, node=replace(seen.node, annotations=written)), RULES)
    assert again.lacks == outcome.lacks
    assert again.step is None or isinstance(again.step, OpenGate)


@given(_sights())
def test_without_our_taint_there_is_nothing_to_do_but_to_forget(sight: tuple[GateSeen, bool, bool, bool]) -> None:
    seen, *_ = sight
    here = replace(seen.node, taints=tuple(one for one in seen.node.taints if not one.is_gate))
    there = labels.GATE in here.annotations
    assert decide_gate(replace(seen, node=here), RULES) == GateOutcome(ForgetGate() if there else None)


# -- the layout -------------------------------------------------------------------------------------------------------


def test_a_node_that_asks_for_no_layout_waits_for_none() -> None:
    bare = replace(node(status=None, shown={}), labels={})
    assert look(bare).step == OpenGate("ready", "nothing is asked of this node; pods may come, after 0 s", NOW)
    assert reasons(look(bare, big=FETCHING)) == ["models"]


def test_layouts_of_single_gpus_are_asked_for_as_well() -> None:
    own = {f"{labels.GPU_LAYOUT_PREFIX}5c2b1f36{labels.GPU_LAYOUT_SUFFIX}": "7x1g.10gb"}
    asks = replace(node(), labels=own)
    assert reasons(look(asks)) == ["layout"]
    done = replace(APPLIED, layout="gpu-5c2b1f36=7x1g.10gb")
    assert isinstance(look(replace(node(status=done), labels=own)).step, OpenGate)


def test_of_a_schedule_its_name_is_asked_for_and_its_layout_is_applied() -> None:
    of_the_day = replace(APPLIED, layout="large", schedule=ScheduleNow("small", "day", NOW + 60))
    assert isinstance(look(node(of_the_day)).step, OpenGate)
    other = replace(APPLIED, layout="small", schedule=ScheduleNow("office", "day", NOW + 60))
    assert reasons(look(node(other))) == ["layout"]


def test_a_node_that_does_not_say_which_boot_it_is_in_has_applied_nothing() -> None:
    assert reasons(look(node(replace(APPLIED, boot_id=""), boot=""))) == ["layout"]


# -- what the node shows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "shown", "reason"),
    [
        ("mixed", MIXED, []),
        ("mixed", {"nvidia.com/gpu": 5}, ["allocatable"]),
        ("single", {"nvidia.com/gpu": 5}, []),
        ("single", {"nvidia.com/gpu": 4}, ["allocatable"]),
        ("single", MIXED, ["allocatable"]),
        ("none", {"nvidia.com/gpu": 2}, []),
        ("none", {"nvidia.com/gpu": 1}, ["allocatable"]),
    ],
)
def test_the_strategy_says_under_which_name_slices_are_shown(
    strategy: str, shown: dict[str, int], reason: list[str]
) -> None:
    here = node(shown=shown)
    here = replace(here, labels={**here.labels, labels.STRATEGY: strategy})
    assert reasons(look(here)) == reason


def test_shared_slices_are_more_and_may_have_another_name() -> None:
    assert isinstance(look(node(shown={f"{name}.shared": 4 * n for name, n in MIXED.items()})).step, OpenGate)


def test_a_layout_without_slices_is_shown_as_whole_gpus() -> None:
    off = replace(APPLIED, placements={})
    assert reasons(look(node(off, shown={"nvidia.com/gpu": 0}))) == ["allocatable"]
    assert isinstance(look(node(off, shown={"nvidia.com/gpu": 2})).step, OpenGate)


def test_where_a_dra_driver_runs_the_status_is_the_word() -> None:
    assert isinstance(look(node(shown={}), driver=True).step, OpenGate)
    assert reasons(look(node(status=None, shown={}), driver=True)) == ["layout"]


# -- the record -------------------------------------------------------------------------------------------------------


def test_the_deadline_names_all_that_is_missing() -> None:
    pending = replace(APPLIED, state="pending", reason="blocked")
    here = node(pending, gate=Gate(NOW - 900, "layout", "x"))
    outcome = look(here, big=FETCHING, small=READY)
    assert outcome == GateOutcome(
        OpenGate(
            "deadline",
            "pods may come after 900 s, although layout 'small' is not applied in this boot: pending, blocked; "
            "gated model big is fetching",
            NOW - 900,
        )
    )


def test_a_record_from_the_future_or_of_somebody_else_begins_anew() -> None:
    for odd in (Gate(NOW + 5, "layout", "x"), "{}", '{"since": "soon"}'):
        outcome = look(node(status=None, gate=odd))
        assert isinstance(outcome.step, NoteGate)
        assert (outcome.step.gate.since, outcome.due_seconds) == (NOW, 900.0)
