"""What a layout may say of sharing, what that means on a node, and what NVIDIA's device plugin cannot do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.desired.layout_file import parse_layouts, read_layouts
from agent.desired.resolve import Sources, resolve
from agent.desired.sharing import sharings
from agent.model.desired import Desired, Refusal, Wish
from agent.model.labels import CONFIG, PLUGIN_CONFIG, STRATEGY
from agent.model.mig import Gpu
from agent.model.sharing import Sharing, named_by
from agent.observe.paper import gpu_on_paper
from agent.plan.geometry import feasible
from tests.fakes.world import h100

SHARED = (Path(__file__).parents[1] / "data" / "shared_layouts.yaml").read_text("utf-8")
H100 = gpu_on_paper("H100-80GB-SXM")
SECOND = gpu_on_paper("H100-80GB-SXM", index=1)
WITHOUT_MIG = replace(
    gpu_on_paper("H100-80GB-SXM", index=2), mig_enabled=None, mig_pending=None, profiles=(), name="L40S"
)


def asked(entries: str, *gpus: Gpu, labels: dict[str, str] | None = None) -> Wish:
    layouts = parse_layouts(f"version: v1\nmig-configs:\n  mine:\n{entries}", "layouts.yaml")
    return resolve(Sources(CONFIG, {CONFIG: "mine", **(labels or {})}, layouts), gpus or (H100,), feasible)


def entry(profiles: str, sharing: str = "", devices: str = "all") -> str:
    enabled = "true" if profiles != "{}" else "false"
    shared = f", sharing: {sharing}" if sharing else ""
    return f"  - {{devices: {devices}, mig-enabled: {enabled}, mig-devices: {profiles}{shared}}}\n"


def time_sliced(replicas: str) -> str:
    return f"{{strategy: time-slicing, replicas: {{{replicas}}}}}"


def mps(replicas: str) -> str:
    return f"{{strategy: mps, replicas: {{{replicas}}}}}"


def sharing_of(wish: Wish) -> Sharing | None:
    assert isinstance(wish, Desired), wish
    return wish.sharing


def refused(wish: Wish, reason: str = "sharing-unsupported") -> str:
    assert isinstance(wish, Refusal), wish
    assert wish.reason == reason
    assert wish.message.startswith("layout 'mine'")
    return wish.message


@pytest.mark.parametrize(
    ("entries", "labels", "config"),
    [
        (entry("{1g.10gb: 7}", time_sliced("1g.10gb: 4")), {}, "warmslice-time-slicing_1g.10gb-4"),
        (entry("{1g.10gb+me: 1}", time_sliced("1g.10gb+me: 4")), {}, "warmslice-time-slicing_1g.10gb.me-4"),
        (entry("{1c.2g.20gb: 2}", time_sliced("1c.2g.20gb: 4")), {}, "warmslice-time-slicing_1c.2g.20gb-4"),
        (
            entry("{3g.40gb: 1, 1g.10gb: 4}", time_sliced("3g.40gb: 2, 1g.10gb: 4")),
            {},
            "warmslice-time-slicing_1g.10gb-4_3g.40gb-2",
        ),
        (entry("{}", mps("gpu: 48")), {}, "warmslice-mps_gpu-48"),
        (entry("{1g.10gb: 7}", time_sliced("1g.10gb: 4")), {STRATEGY: "mixed"}, "warmslice-time-slicing_1g.10gb-4"),
        (entry("{1g.10gb: 7}", time_sliced("1g.10gb: 4")), {STRATEGY: "single"}, "warmslice-single-time-slicing_gpu-4"),
        (entry("{}", time_sliced("gpu: 2")), {STRATEGY: "none"}, "warmslice-none-time-slicing_gpu-2"),
        (
            entry("{1g.10gb: 7}", time_sliced("1g.10gb: 4")),
            {PLUGIN_CONFIG: "warmslice-mps_gpu-2"},
            "warmslice-time-slicing_1g.10gb-4",
        ),
    ],
)
def test_a_sharing_has_an_entry_whose_name_says_all_of_it(entries: str, labels: dict[str, str], config: str) -> None:
    sharing = sharing_of(asked(entries, labels=labels))
    assert sharing is not None
    assert sharing.entry == config
    assert named_by(config) == sharing


@given(
    st.sampled_from(["time-slicing", "mps"]),
    st.sampled_from(["mixed", "single", "none"]),
    st.dictionaries(
        st.sampled_from(["gpu", "1g.10gb", "1g.10gb.me", "1g.24gb.me.all", "2g.24gb-me", "1c.3g.40gb"]),
        st.integers(2, 999),
        min_size=1,
    ),
)
def test_a_name_can_always_be_read_back(means: str, strategy: str, replicas: dict[str, int]) -> None:
    sharing = Sharing(means, tuple(sorted(replicas.items())), strategy)  # type: ignore[arg-type]
    assert named_by(sharing.entry) == sharing


@pytest.mark.parametrize(
    "value", ["", "default", "team-a", "warmslice-", "warmslice-time-slicing", "warmslice-x_gpu-4"]
)
def test_other_names_promise_nothing(value: str) -> None:
    assert named_by(value) is None


def test_gpus_without_mig_are_shared_too() -> None:
    sharing = sharing_of(asked(entry("{}", time_sliced("gpu: 4")), WITHOUT_MIG))
    assert sharing is not None
    assert sharing.resources == {"nvidia.com/gpu": 4}


def test_sharing_alone_makes_another_revision() -> None:
    revisions = set()
    for sharing in ("", time_sliced("1g.10gb: 4"), time_sliced("1g.10gb: 3")):
        wish = asked(entry("{1g.10gb: 7}", sharing))
        assert isinstance(wish, Desired)
        revisions.add(wish.revision)
    assert len(revisions) == 3


def test_gpus_that_no_sharing_entry_names_need_no_configuration() -> None:
    """A layout for many boards asks on each node for what its own GPUs have."""
    entries = entry("{1g.10gb: 7}", time_sliced("1g.10gb: 4"), "[1]") + entry("{3g.40gb: 2}", devices="[0]")
    assert sharing_of(asked(entries, H100)) is None
    assert sharing_of(asked(entries, H100, SECOND)) is not None


@pytest.mark.parametrize(
    ("entries", "gpus", "part"),
    [
        (entry("{1g.10gb: 7}", mps("1g.10gb: 4")), (H100,), "NVIDIA's device plugin refuses MPS with MIG"),
        (
            entry("{}", mps("gpu: 4"), "[0]") + entry("{1g.10gb: 7}", devices="[1]"),
            (H100, SECOND),
            "GPU 1 would have slices, and NVIDIA's device plugin refuses MPS on a node with MIG",
        ),
        (entry("{}", mps("gpu: 4"), "[0]"), (H100, h100("7g.80gb@0:8", index=1)), "GPU 1 would have slices"),
        (entry("{}", mps("gpu: 49")), (H100,), "a GPU has at most 48 MPS clients"),
        (
            entry("{1g.10gb: 7}", time_sliced("1g.10gb: 4"), "[0]")
            + entry("{1g.10gb: 7}", time_sliced("1g.10gb: 2"), "[1]"),
            (H100, SECOND),
            "1g.10gb has 4 replicas in one entry and 2 in another",
        ),
        (
            entry("{1g.10gb: 7}", time_sliced("1g.10gb: 4"), "[0]")
            + entry("{1g.10gb: 4, 3g.40gb: 1}", time_sliced("3g.40gb: 2"), "[1]"),
            (H100, SECOND),
            "1g.10gb has 4 replicas, but GPU 1 has 1g.10gb that nobody asked to share",
        ),
        (
            entry("{1g.10gb: 7}", time_sliced("1g.10gb: 4"), "[0]"),
            (H100, h100("1g.10gb@3:1", index=1)),
            "1g.10gb has 4 replicas, but GPU 1 has 1g.10gb that nobody asked to share",
        ),
        (entry("{}", time_sliced("gpu: 4"), "[0]"), (H100, WITHOUT_MIG), "gpu has 4 replicas, but GPU 2 has gpu"),
        (
            entry("{}", mps("gpu: 4"), "[0]") + entry("{}", time_sliced("gpu: 4"), "[1]"),
            (H100, SECOND),
            "the device plugin shares a node in one way",
        ),
        (
            entry(
                "{1g.10gb: 1, 1g.20gb: 1, 2g.20gb: 1, 1g.10gb+me: 1}",
                time_sliced("1g.10gb: 100, 1g.20gb: 100, 2g.20gb: 100, 1g.10gb+me: 100"),
            ),
            (H100,),
            "and Kubernetes allows 63; share fewer",
        ),
    ],
)
def test_what_the_device_plugin_cannot_do_is_refused_in_one_sentence(
    entries: str, gpus: tuple[Gpu, ...], part: str
) -> None:
    message = refused(asked(entries, *gpus))
    assert part in message
    assert "\n" not in message


def test_a_gpu_with_a_layout_of_its_own_may_disagree() -> None:
    entries = entry("{1g.10gb: 7}", time_sliced("1g.10gb: 4"))
    key = f"warmslice.dev/gpu-{SECOND.short}.layout"
    assert sharing_of(asked(entries, H100, SECOND, labels={key: "2x3g.40gb"})) is not None
    assert "GPU 1 has 1g.10gb" in refused(asked(entries, H100, SECOND, labels={key: "4x1g.10gb"}))


def test_a_configuration_of_somebody_else_is_theirs() -> None:
    entries = entry("{1g.10gb: 7}", time_sliced("1g.10gb: 4"))
    assert "=team-a is somebody else's" in refused(
        asked(entries, labels={PLUGIN_CONFIG: "team-a"}), "sharing-config-taken"
    )
    assert sharing_of(asked(entry("{1g.10gb: 7}"), labels={PLUGIN_CONFIG: "team-a"})) is None


def test_slices_are_not_shared_where_the_plugin_does_not_advertise_them() -> None:
    entries = entry("{1g.10gb: 7}", time_sliced("1g.10gb: 4"))
    assert "advertises no slices" in refused(asked(entries, labels={STRATEGY: "none"}))


@pytest.mark.parametrize(
    ("entries", "gpus", "part"),
    [
        (entry("{3g.40gb: 1, 1g.10gb: 4}"), (H100,), "slices of more than one kind (1g.10gb, 3g.40gb)"),
        (entry("{1g.10gb: 4, 1g.10gb+me: 1}"), (H100,), "slices of more than one kind (1g.10gb, 1g.10gb.me)"),
        (
            entry("{1g.10gb: 7}", devices="[0]") + entry("{3g.40gb: 2}", devices="[1]"),
            (H100, SECOND),
            "slices of more than one kind",
        ),
        (
            "  - {devices: all, mig-enabled: true, mig-devices: {}}\n",
            (H100,),
            "GPU 0 would be in MIG mode without a slice",
        ),
        (entry("{1g.10gb: 7}", devices="[0]"), (H100, SECOND), "GPU 1 would be in MIG mode without a slice"),
        (entry("{1g.10gb: 7}", devices="[0]") + entry("{}", devices="[1]"), (H100, SECOND), "GPU 1 would be whole"),
        (entry("{1g.10gb: 7}"), (H100, WITHOUT_MIG), "GPU 2 would be whole beside slices"),
    ],
)
def test_what_single_cannot_express_is_refused_and_mixed_can(entries: str, gpus: tuple[Gpu, ...], part: str) -> None:
    message = refused(asked(entries, *gpus, labels={STRATEGY: "single"}), "single-strategy")
    assert part in message
    assert "the device plugin does not start then" in message
    assert isinstance(asked(entries, *gpus, labels={STRATEGY: "mixed"}), Desired)


@pytest.mark.parametrize("layout", ["7x1g.10gb", "all-3g.40gb", "all-disabled", "2x1g.10gb"])
def test_layouts_of_one_kind_are_no_trouble_to_single(layout: str) -> None:
    sources = Sources(CONFIG, {CONFIG: layout, STRATEGY: "single"}, {})
    assert isinstance(resolve(sources, (H100, SECOND), feasible), Desired)


@pytest.mark.parametrize("layout", ["4x1g.10gb_1x3g.40gb", "all-enabled", "all-balanced"])
def test_single_is_asked_of_layouts_without_a_file_too(layout: str) -> None:
    wish = resolve(Sources(CONFIG, {CONFIG: layout, STRATEGY: "single"}, {}), (H100,), feasible)
    assert isinstance(wish, Refusal)
    assert wish.reason == "single-strategy"


@pytest.mark.parametrize(
    ("field", "place", "sentence"),
    [
        ("sharing: mps", "sharing", "it must be a mapping with strategy and replicas"),
        ("sharing: {strategy: mps}", "sharing", "replicas is missing; sharing has strategy and replicas"),
        ("sharing: {strategy: vgpu, replicas: {gpu: 2}}", "vgpu", "is 'vgpu'; it must be time-slicing or mps"),
        ("sharing: {strategy: mps, replicas: 4}", "4}", "it must map profiles (or gpu) to counts"),
        ("sharing: {strategy: mps, replicas: {}}", "{}", "it must map profiles (or gpu) to counts"),
        ("sharing: {strategy: mps, replicas: {gpu: 1}}", "1}", "is 1; replicas are a whole number, 2 or more"),
        ("sharing: {strategy: mps, replicas: {gpu: two}}", "two", "is 'two'; replicas are a whole number, 2 or more"),
        ("sharing: {strategy: mps, replicas: {gpu: true}}", "true", "is True; replicas are a whole number, 2 or more"),
        ("sharing: {strategy: mps, replicas: {g.1: 4}}", "g.1", "'g.1' is not a MIG profile"),
        (
            "sharing: {strategy: mps, replicas: {1g.10gb: 4}}",
            "1g.10gb",
            "the entry makes no 1g.10gb; it makes whole GPUs",
        ),
        ("sharing: {strategy: mps, replicas: {gpu: 4}, rename: x}", "rename", "unknown field 'rename'"),
    ],
)
def test_a_bad_field_is_one_sentence_with_its_place(field: str, place: str, sentence: str) -> None:
    line = f"  - {{devices: all, mig-enabled: false, {field}}}"
    mistakes = read_layouts(f"version: v1\nmig-configs:\n  mine:\n{line}\n").mistakes
    assert [(mistake.line, mistake.column) for mistake in mistakes] == [(4, _column(line, field, place))]
    assert "mig-configs.mine[0].sharing" in mistakes[0].sentence
    assert sentence in mistakes[0].sentence


def _column(line: str, field: str, place: str) -> int:
    """Of the value, or of the key where that is wrong; of the mapping where something is missing in it."""
    if place == "sharing":
        return line.index(field) + len("sharing: ") + 1
    return line.index(place, line.index(field)) + 1


def test_a_whole_gpu_is_not_shared_where_mig_is_on() -> None:
    text = entry("{1g.10gb: 7}", time_sliced("gpu: 4"))
    mistakes = read_layouts(f"version: v1\nmig-configs:\n  mine:\n{text}").mistakes
    assert "with mig-enabled: true no GPU is whole; name the profiles" in mistakes[0].sentence


def test_equal_sharings_have_one_entry_and_each_strategy_its_own() -> None:
    found = [sharing.entry for sharing in sharings(parse_layouts(SHARED, "f"))]
    assert found == sorted(set(found))
    assert [one for one in found if "1g.10gb-4" in one] == ["warmslice-time-slicing_1g.10gb-4"]
    assert {"warmslice-single-time-slicing_gpu-4", "warmslice-none-time-slicing_gpu-4"} <= set(found)


@pytest.mark.parametrize("strategy", ["", "none", "single", "mixed"])
@pytest.mark.parametrize("gpus", [(H100,), (H100, SECOND), (WITHOUT_MIG,)], ids=["one", "two", "without MIG"])
def test_what_any_node_asks_for_is_among_the_entries(gpus: tuple[Gpu, ...], strategy: str) -> None:
    layouts = parse_layouts(SHARED, "f")
    entries = {sharing.entry for sharing in sharings(layouts)}
    wanted = 0
    for name in layouts:
        wish = resolve(Sources(CONFIG, {CONFIG: name, STRATEGY: strategy}, layouts), gpus, feasible)
        if isinstance(wish, Desired) and wish.sharing is not None:
            wanted += 1
            assert wish.sharing.entry in entries
    assert wanted
