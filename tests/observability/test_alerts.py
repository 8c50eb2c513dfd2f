"""Every alert fires when it should, says what somebody has to know, and stays silent otherwise."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.rules import ROOT, alerts, promtool_says, write_rules

Story = dict[str, Any]

STORIES: list[Story] = yaml.safe_load((Path(__file__).parent / "alerts.yaml").read_text("utf-8"))
BY_ALERT = {story["alert"]: story for story in STORIES}
RUNBOOKS = (ROOT / "docs" / "runbooks.md").read_text("utf-8")


def test_every_alert_has_a_story_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    assert [story["alert"] for story in STORIES] == list(alerts())
    assert all({"alert", "fires", "silent"} <= set(story) <= {"alert", "every", "fires", "silent"} for story in STORIES)


@pytest.mark.parametrize("which", ["fires", "silent"])
@pytest.mark.parametrize("name", list(alerts()))
def test_an_alert(tmp_path: Path, name: str, which: str) -> None:
    """Those that ask nothing of what is recorded are tested without it, which is quicker."""
    story = BY_ALERT[name]
    every = story.get("every", "1m")
    alone = "warmslice:" not in alerts()[name]["expr"]
    order = write_rules(tmp_path / "rules.yml", "warmslice.alerts" if alone else "")
    settings = {"evaluation_interval": every, "group_eval_order": order}
    tests = [_test(name, one, every) for one in _several(story[which])]
    test = {"rule_files": ["rules.yml"], **settings, "tests": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test), "utf-8")
    done = promtool_says("test", "rules", str(tmp_path / "test.yml"))
    assert done.returncode == 0, done.stderr or done.stdout


def _several(stories: Story | list[Story]) -> list[Story]:
    return stories if isinstance(stories, list) else [stories]


def _test(name: str, story: Story, every: str) -> Story:
    expected = [_expected(alerts()[name], story)] if "says" in story else []
    assert all(isinstance(values, str) for values in story["series"].values())
    return {
        "interval": every,
        "input_series": [{"series": series, "values": values} for series, values in story["series"].items()],
        "alert_rule_test": [{"alertname": name, "eval_time": story["at"], "exp_alerts": expected}],
    }


def _expected(rule: Story, story: Story) -> Story:
    annotations = {**rule["annotations"], "description": story["says"]}
    return {"exp_labels": {**rule["labels"], **story["labels"]}, "exp_annotations": annotations}


@pytest.mark.parametrize("name", list(alerts()))
def test_an_alert_says_how_bad_it_is_and_where_to_read_on(name: str) -> None:
    rule = alerts()[name]
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    place = re.fullmatch(r"docs/runbooks\.md#(runbook-[a-z-]+)", rule["annotations"]["runbook_url"])
    assert place is not None
    heading = RUNBOOKS.partition(f'<a id="{place[1]}"></a>\n\n## ')[2].partition("\n")[0]
    assert name in heading.split(" and ")


def test_every_runbook_is_of_an_alert() -> None:
    wanted = {rule["annotations"]["runbook_url"].partition("#")[2] for rule in alerts().values()}
    assert set(re.findall(r'<a id="(runbook-[a-z-]+)">', RUNBOOKS)) == wanted
