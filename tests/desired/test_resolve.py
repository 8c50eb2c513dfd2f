"""From what people write to what is asked of each GPU, or one sentence why not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.desired.inline import parse_inline
from agent.desired.layout_file import parse_layouts
from agent.desired.resolve import Sources, resolve
from agent.model.desired import Desired, Refusal, Unasked, Wish
from agent.model.labels import CONFIG
from agent.model.mig import NAMELESS, Gpu, GpuWish, Shape
from agent.observe.paper import gpu_on_paper, with_other_names
from agent.plan.geometry import feasible

FILE = """
version: v1
mig-configs:
  all-disabled:
  - devices: all
    mig-enabled: false
  halves:
  - devices: all
    mig-enabled: true
    mig-devices: {3g.40gb: 2}
  first-only:
  - devices: [0]
    mig-enabled: true
    mig-devices: {1g.10gb: 7, 2g.20gb: 0}
  overlapping:
  - devices: all
    mig-enabled: true
    mig-devices: {7g.80gb: 1}
  - devices: [1]
    mig-enabled: true
    mig-devices: {1g.10gb+me: 1}
  by-board:
  - device-filter: ["0x233010DE"]
    devices: all
    mig-enabled: true
    mig-devices: {7g.80gb: 1}
  - device-filter: "0x20B710DE"
    devices: all
    mig-enabled: true
    mig-devices: {4g.24gb: 1}
"""


def asked(
    value: str, *gpus: Gpu, text: str = FILE, before: int | None = None, labels: dict[str, str] | None = None
) -> Wish:
    sources = Sources(
        CONFIG, {CONFIG: value, **(labels or {})}, parse_layouts(text, "layouts.yaml"), gpus_before=before
    )
    return resolve(sources, gpus or (gpu_on_paper("H100-80GB-SXM"),), feasible)


def wishes(wish: Wish) -> list[GpuWish]:
    assert isinstance(wish, Desired), wish
    return list(wish.wishes.values())


def refused(wish: Wish) -> Refusal:
    assert isinstance(wish, Refusal), wish
    return wish


@pytest.mark.parametrize(
    ("value", "shapes"),
    [
        ("4x1g.10gb_1x3g.40gb", ["3g.40gb"] + ["1g.10gb"] * 4),
        ("1x1g.10gb.me_2x1g.10gb", ["1g.10gb", "1g.10gb", "1g.10gb+me"]),
        ("2x1c.2g.20gb", ["1c+1c.2g.20gb"]),
        ("3x1c.2g.20gb", ["1c+1c.2g.20gb", "1c.2g.20gb"]),
        ("1x2c.2g.20gb", ["2g.20gb"]),
        ("all-2g.20gb", ["2g.20gb"] * 3),
        ("all-1g.10gb.me", ["1g.10gb+me"]),
        ("all-balanced", ["3g.40gb", "2g.20gb", "1g.10gb", "1g.10gb"]),
        ("halves", ["3g.40gb", "3g.40gb"]),
        ("enabled", []),
    ],
)
def test_layouts_people_write(value: str, shapes: list[str]) -> None:
    assert sorted(str(shape) for shape in wishes(asked(value))[0].shapes) == sorted(shapes)


@pytest.mark.parametrize(
    ("value", "reason", "part"),
    [
        ("2x3g.40gb_1x2g.20gb", "no-placement", "no legal placement"),
        ("1x3g.71gb", "unknown-profile", "has no profile 3g.71gb; it has 1g.10gb"),
        ("half-and-half", "unknown-layout", "neither in the layouts file (it has: all-disabled"),
        ("4x1g10gb", "unparsable-layout", "'1g10gb' is not a MIG profile"),
        ("4y1g.10gb", "unparsable-layout", "'4y1g.10gb' is not <count>x<profile>"),
        ("0x1g.10gb", "unparsable-layout", "is not <count>x<profile>"),
        ("2x3c.4g.40gb", "unknown-profile", "has no 3c compute instance, only 1c, 2c, 4c"),
    ],
)
def test_a_wish_that_cannot_be_is_refused_in_one_sentence(value: str, reason: str, part: str) -> None:
    refusal = refused(asked(value))
    assert refusal.reason == reason
    assert part in refusal.message
    assert "\n" not in refusal.message


def test_a_missing_or_empty_label_asks_for_nothing() -> None:
    assert asked("") == Unasked()


@pytest.mark.parametrize("value", ["7x1g.10gb", "1x3g.71gb", "all-1g.10gb", "all-balanced", "halves", "enabled"])
def test_while_the_driver_lists_no_profiles_mig_mode_is_all_that_is_asked(value: str) -> None:
    """What cannot be is refused once MIG is on: who does not know the profiles refuses none."""
    off = replace(gpu_on_paper("H100-80GB-SXM"), mig_enabled=False, profiles=(), profiles_unknown=True)
    assert wishes(asked(value, off)) == [GpuWish(True)]
    assert refused(asked("4x1g10gb", off)).reason == "unparsable-layout"
    assert refused(asked("all-1g10gb", off)).reason == "unknown-profile"


def test_gpus_that_no_entry_names_are_left_alone() -> None:
    first, second = gpu_on_paper("H100-80GB-SXM", index=0), gpu_on_paper("H100-80GB-SXM", index=1)
    wish = asked("first-only", first, second)
    assert isinstance(wish, Desired)
    assert list(wish.wishes) == [first.uuid]
    assert len(wish.wishes[first.uuid].shapes) == 7


def test_later_entries_override_earlier_ones() -> None:
    first, second = gpu_on_paper("H100-80GB-SXM", index=0), gpu_on_paper("H100-80GB-SXM", index=1)
    assert [w.shapes for w in wishes(asked("overlapping", first, second))] == [
        (Shape("7g.80gb"),),
        (Shape("1g.10gb+me"),),
    ]


def test_device_filters_choose_by_board() -> None:
    big, small = gpu_on_paper("H100-80GB-SXM", index=0), gpu_on_paper("A30", index=1)
    assert [w.shapes[0].profile for w in wishes(asked("by-board", big, small))] == ["7g.80gb", "4g.24gb"]


def test_gpus_without_mig_are_left_alone_and_a_capable_one_that_cannot_refuses_for_the_node() -> None:
    capable = gpu_on_paper("H100-80GB-SXM", index=0)
    plain = replace(gpu_on_paper("H100-80GB-SXM", index=1), mig_enabled=None, mig_pending=None, profiles=())
    assert len(wishes(asked("7x1g.10gb", capable, plain))) == 1
    assert refused(asked("7x1g.10gb", capable, gpu_on_paper("A30", index=1))).reason == "unknown-profile"
    assert refused(asked("7x1g.10gb", plain)).reason == "no-mig"


def test_one_gpus_own_label_wins_over_the_nodes() -> None:
    first, second = gpu_on_paper("H100-80GB-SXM", index=0), gpu_on_paper("H100-80GB-SXM", index=1)
    label = {f"warmslice.dev/gpu-{second.short}.layout": "1x7g.80gb"}
    wish = asked("7x1g.10gb", first, second, labels=label)
    assert [len(w.shapes) for w in wishes(wish)] == [7, 1]
    other = gpu_on_paper("A30", index=1)
    mixed = asked("7x1g.10gb", first, other, labels={f"warmslice.dev/gpu-{other.short}.layout": "1x4g.24gb"})
    assert [len(w.shapes) for w in wishes(mixed)] == [7, 1]
    nobody = {"warmslice.dev/gpu-deadbeef.layout": "1x7g.80gb"}
    assert refused(asked("7x1g.10gb", first, second, labels=nobody)).reason == "unknown-gpu"


def test_an_index_is_refused_once_the_node_has_lost_a_gpu() -> None:
    gpu = gpu_on_paper("H100-80GB-SXM")
    assert wishes(asked("first-only", gpu, before=1))
    assert refused(asked("first-only", gpu, before=2)).reason == "gpu-count-changed"
    assert (
        refused(asked("", gpu, before=2, labels={"warmslice.dev/gpu-0.layout": "1x7g.80gb"})).reason
        == "gpu-count-changed"
    )


def test_an_edit_under_the_same_name_is_another_wish() -> None:
    before, after = asked("halves"), asked("halves", text=FILE.replace("{3g.40gb: 2}", "{3g.40gb: 1}"))
    assert isinstance(before, Desired)
    assert isinstance(after, Desired)
    assert before.revision != after.revision


def test_attributes_are_written_with_a_dot_and_read_with_a_plus() -> None:
    assert [ask.profile for ask in parse_inline("1x1g.24gb.me.all_1x1g.24gb.gfx_2x2g.48gb-me")] == [
        "1g.24gb+me.all",
        "1g.24gb+gfx",
        "2g.48gb-me",
    ]


@pytest.mark.parametrize("wish", ["7x1g.23gb", "7x1g.24gb"])
def test_a_profile_answers_to_the_names_of_older_and_newer_drivers(wish: str) -> None:
    """GB200's 1g has two names, by the driver; a board of another model is not asked for by either."""
    older = gpu_on_paper("GB200-186GB")
    newer = with_other_names(
        replace(
            older,
            profiles=tuple(replace(p, name=p.name.replace("1g.23gb", "1g.24gb"), also=()) for p in older.profiles),
        )
    )
    assert [str(shape) for shape in wishes(asked(wish, older))[0].shapes] == ["1g.23gb"] * 7
    assert [str(shape) for shape in wishes(asked(wish, newer))[0].shapes] == ["1g.24gb"] * 7
    assert refused(asked("1x1g.24gb", gpu_on_paper("B200-180GB"))).reason == "unknown-profile"


def test_a_name_of_another_driver_keeps_its_attributes() -> None:
    gpu = gpu_on_paper("GB200-186GB")
    assert [str(shape) for shape in wishes(asked("1x1g.24gb.me", gpu))[0].shapes] == ["1g.23gb+me"]


@pytest.mark.parametrize("count", ["0", "100", "9" * 5000])
def test_a_count_that_nobody_means_is_a_mistake(count: str) -> None:
    """And costs nothing: the items are not made before they are counted."""
    assert refused(asked(f"{count}x1g.10gb")).reason == "unparsable-layout"
    assert isinstance(asked("99x1g.10gb"), Refusal)


@pytest.mark.parametrize("value", ["2x3g.40gb", "disabled", "halves", "by-board"])
@pytest.mark.parametrize("uuid", ["GPU-00000000-0000-0000-0000-00000000beef", f"{NAMELESS}0"])
def test_a_gpu_that_was_never_read_is_asked_for_by_every_wish_that_may_mean_it(value: str, uuid: str) -> None:
    """It may be of any model, so it does not count as one without MIG: the wish is not done without it."""
    silent = Gpu(uuid, 0, "unknown", "", 0, None, None, False, unknown="a call has not come back")
    read = gpu_on_paper("H100-80GB-SXM", index=1)
    wish = asked(value, silent, read)
    assert isinstance(wish, Desired)
    assert (set(wish.unread), list(wish.wishes)) == ({uuid}, [read.uuid])
