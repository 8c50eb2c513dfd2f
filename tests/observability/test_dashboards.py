"""The dashboards as files: what Grafana imports, made from the list in hack/dashboards, and asking for what there is."""

from __future__ import annotations

import json
import re
from itertools import combinations
from typing import Any

import pytest

from agent.report import families
from hack.check_dashboards import substituted
from hack.dashboards.__main__ import FOLDER, files
from tests.observability.rules import groups, records
from tests.observability.test_recorded import mentioned

Json = dict[str, Any]
NAMES = sorted(files())
KNOWN = (
    {family.exposed for family in families.ALL}
    | {f"{f.exposed}_{part}" for f in families.ALL if f.kind == "histogram" for part in ("bucket", "sum", "count")}
    | set(records())
)


def dashboard(name: str) -> Json:
    found: Json = json.loads((FOLDER / name).read_text("utf-8"))
    return found


def panels(name: str) -> list[Json]:
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_file_is_the_one_that_is_made(name: str) -> None:
    """Otherwise: python -m hack.dashboards"""
    assert (FOLDER / name).read_text("utf-8") == files()[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_can_be_imported_anywhere(name: str) -> None:
    """Its source is chosen by a variable, and it has no id of some Grafana."""
    found = dashboard(name)
    assert "id" not in found
    assert found["schemaVersion"] >= 38
    assert found["templating"]["list"][0] | {"current": {}} == {
        "type": "datasource",
        "name": "datasource",
        "label": "Prometheus",
        "query": "prometheus",
        "current": {},
    }
    sources = [target["datasource"] for panel in panels(name) for target in panel["targets"]]
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


@pytest.mark.parametrize("name", NAMES)
def test_panels_have_a_place_of_their_own(name: str) -> None:
    found = dashboard(name)["panels"]
    assert len({panel["id"] for panel in found}) == len(found)
    places = [panel["gridPos"] for panel in found]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not [(a, b) for a, b in combinations(places, 2) if overlap(a, b)]


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    return across and one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_says_what_it_shows_and_in_which_unit(name: str) -> None:
    for panel in panels(name):
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]


@pytest.mark.parametrize("name", NAMES)
def test_queries_ask_for_metrics_and_variables_that_there_are(name: str) -> None:
    variables = {one["name"] for one in dashboard(name)["templating"]["list"]} | {"__range", "__rate_interval"}
    for panel in panels(name):
        for target in panel["targets"]:
            assert mentioned(target["expr"]) <= KNOWN, panel["title"]
            assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables, panel["title"]


def test_every_metric_is_on_a_dashboard_or_in_a_rule_or_has_its_reason() -> None:
    """What is measured and never shown is not seen."""
    rules = set().union(*(mentioned(rule["expr"]) for group in groups() for rule in group["rules"]))
    shown = rules.union(
        *(mentioned(target["expr"]) for name in NAMES for panel in panels(name) for target in panel["targets"])
    )
    exposed = {family.exposed for family in families.ALL}
    unseen = {name for name in exposed if not any(one.startswith(name) for one in shown)}
    # How full the published demand is: for who looks into it, not for who looks on.
    assert unseen == {"warmslice_demand_size_bytes", "warmslice_demand_wishes"}


def test_a_variable_that_nobody_offers_is_no_query() -> None:
    assert substituted('up{node=~"$node"}', {"node": "a|b"}) == 'up{node=~"a|b"}'
    with pytest.raises(ValueError, match="not known"):
        substituted('up{node=~"$other"}', {"node": "a"})
