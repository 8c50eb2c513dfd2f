"""The layouts file: what NVIDIA's tools take is taken, and every mistake is named with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.desired.layout_file import parse_layouts, read_layouts
from agent.model.errors import BadInputError

DATA = Path(__file__).parents[1] / "data"

ALL_WRONG = """\
version: v2
mig-config: {}
mig-configs:
  empty: []
  none:
  small:
  - devices: all
    mig-enabled: true
    mig-devices: {1g.10gb: 7}
  small:
  - devices: [0, 1, 0, -1, two]
    mig-enabled: "yes"
    mig-devices: {1g10gb: 1, 2g.20gb: -1, 3g.40gb: "1", 1g.20gb: true}
    mig-profiles: {}
  - device-filter: ["0x233010DE", H100, 0x233010DE]
    mig-enabled: false
    mig-devices: {1g.10gb: 1}
  - all
  - devices: 0
    mig-devices: [1g.10gb]
    mig-devices: [1g.10gb]
"""


def test_every_mistake_is_named_once_from_the_top_to_the_end() -> None:
    layouts = "mig-configs.small"
    entry = "an entry has devices, mig-enabled, mig-devices, device-filter, sharing"
    expected = [
        "1:10: version is 'v2'; it must be v1",
        "2:1: unknown field 'mig-config'; a layouts file has 'version' and 'mig-configs', and may have 'schedules'",
        "4:10: mig-configs.empty is []; it must be a list with at least one entry",
        "5:8: mig-configs.none is None; it must be a list with at least one entry",
        "10:3: 'small' is given twice, first in line 6: remove one",
        f"11:21: {layouts}[0].devices[2] is 0; that index stands in the list before: remove one",
        f"11:24: {layouts}[0].devices[3] is -1; an index is a whole number, 0 or more",
        f"11:28: {layouts}[0].devices[4] is 'two'; an index is a whole number, 0 or more",
        f"12:18: {layouts}[0].mig-enabled is 'yes'; it must be true or false",
        f"13:19: {layouts}[0].mig-devices: '1g10gb' is not a MIG profile such as 1g.10gb, 1g.10gb.me or 1c.2g.20gb",
        f"13:39: {layouts}[0].mig-devices.2g.20gb is -1; a count is a whole number, 0 to 99",
        f"13:52: {layouts}[0].mig-devices.3g.40gb is '1'; a count is a whole number, 0 to 99",
        f"13:66: {layouts}[0].mig-devices.1g.20gb is True; a count is a whole number, 0 to 99",
        f"14:5: {layouts}[0]: unknown field 'mig-profiles'; {entry}",
        f"15:5: {layouts}[1]: devices is missing; {entry}",
        f"15:35: {layouts}[1].device-filter[1] is 'H100'; it must be 0x<device><vendor> such as 0x233010DE, in quotes",
        f"15:41: {layouts}[1].device-filter[2] is 590352606; it must be 0x<device><vendor> such as 0x233010DE, in quotes",
        f"17:5: {layouts}[1].mig-devices are asked for with mig-enabled: false; it must be true",
        f"18:5: {layouts}[2] is 'all'; it must be a mapping with devices and mig-enabled",
        f"19:5: {layouts}[3]: mig-enabled is missing; {entry}",
        f"19:14: {layouts}[3].devices is 0; it must be all or a list of indices such as [0, 1]",
        "21:5: 'mig-devices' is given twice, first in line 20: remove one",
        f"21:18: {layouts}[3].mig-devices is a list; it must map profiles to counts, such as {{1g.10gb: 7}}",
    ]
    assert [mistake.at("f").removeprefix("f:") for mistake in read_layouts(ALL_WRONG).mistakes] == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("version: v1\nmig-configs: [", "l.yaml:2:15: not YAML: expected the node content, but found '<stream end>'"),
        ("version: v1\nmig-configs: [1]", "l.yaml:2:14: mig-configs must map names to lists of entries"),
        ("version: v1\nnames: {}\nmig-configs: {}", "l.yaml:2:1: unknown field 'names'; a layouts file has"),
        ("mig-configs: {}", "l.yaml:1:1: version is missing; a layouts file has 'version' and 'mig-configs'"),
        ("", "l.yaml:1:1: expected a mapping with 'version' and 'mig-configs'"),
    ],
)
def test_the_agent_says_the_first_in_the_same_words(text: str, sentence: str) -> None:
    with pytest.raises(BadInputError) as refused:
        parse_layouts(text, "l.yaml")
    assert str(refused.value).startswith(sentence)
    assert str(refused.value) == read_layouts(text).mistakes[0].at("l.yaml")


def test_what_an_alias_repeats_is_named_where_a_person_can_change_it() -> None:
    text = "version: v1\nmig-configs:\n  a: &x [{devices: al, mig-enabled: true}]\n  b: *x\n"
    places = [(mistake.line, mistake.column) for mistake in read_layouts(text).mistakes]
    assert places == [(3, 20), (4, 3)]


def test_merged_keys_are_not_given_twice() -> None:
    text = "version: v1\nmig-configs:\n  a: [&x {devices: all, mig-enabled: true}]\n  b: [{<<: *x, devices: [1]}]\n"
    read = read_layouts(text)
    layouts, mistakes = read.layouts, read.mistakes
    assert mistakes == ()
    assert layouts["b"][0].devices == [1]


@pytest.mark.parametrize(("file", "count"), [("layouts_mig_parted.yaml", 10), ("layouts_gpu_operator.yaml", 36)])
def test_what_nvidias_tools_ship_is_taken_as_it_is(file: str, count: int) -> None:
    read = read_layouts((DATA / file).read_text("utf-8"))
    layouts, mistakes = read.layouts, read.mistakes
    assert mistakes == ()
    assert len(layouts) == count
