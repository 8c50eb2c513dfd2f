"""What the status page says, and that nobody but us says anything in it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from jsonschema import Draft202012Validator

from agent.model.mig import Placement, Shape
from agent.model.node import PodRef
from agent.model.operation import Operation
from agent.model.overview import Overview, Part
from agent.model.steps import (
    AnnounceReboot,
    Begin,
    Create,
    Destroy,
    End,
    Evict,
    Pause,
    Prepare,
    Reboot,
    Recordon,
    Refresh,
    RestartClient,
    Resume,
    SetMode,
    Step,
    Trim,
    Turn,
)
from agent.report.overview import overview_of
from agent.report.page import HEADERS, document, sections
from agent.report.step_words import in_words
from hack.status_schema import FILE, schema, text
from tests.report import overviews, world

OPERATION = Operation("1", "r", "mixed", "b", 0.0, True, {})
POD = PodRef("ml", "web-1", "u")
STEPS: tuple[Step, ...] = (
    Begin(OPERATION, ()),
    Recordon(OPERATION),
    Turn(OPERATION),
    Evict(POD),
    Pause(OPERATION),
    SetMode(world.GPU, True),
    Destroy(world.GPU, Placement(0, 1), "1g.10gb"),
    Trim(world.GPU, Placement(0, 4), "3g.40gb", (Placement(0, 1),)),
    Create(world.GPU, Placement(0, 4), Shape("3g.40gb")),
    AnnounceReboot(OPERATION, "x"),
    Reboot(),
    Prepare(),
    Refresh(),
    Resume(OPERATION, None),
    RestartClient(POD),
    End(OPERATION, "success", "applied", "x", True),
)
VOID = {"meta", "br", "hr", "link"}


class Page(HTMLParser):
    """``text`` is what people read; ``open`` are elements that were not closed."""

    def __init__(self, markup: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def read(overview: Overview) -> str:
    return Page(document(overview)).text


def test_a_slice_is_shown_with_its_place_its_pod_its_load_and_its_memory() -> None:
    shown = read(overviews.EVERYTHING)
    for words in ("1g.10gb@0:1", "ml/trainer", "50%", "0.0 of 9.5 GiB", "NVIDIA H100 80GB HBM3", "39 °C", "120 W"):
        assert words in shown


def test_a_whole_gpu_is_shown_like_a_slice_and_a_lost_one_as_lost() -> None:
    shown = read(overviews.EVERYTHING)
    assert "the whole GPU" in shown
    assert "lost or silent" in shown
    assert "GPU is lost" in shown
    assert "43 on GPU instance 9 (2 times)" in shown


def test_what_a_gpu_does_not_report_is_not_made_up() -> None:
    shown = read(overviews.overview(world.report(), world.looked(world.large(), gpus=(world.cut(),))))
    assert "not reported" in shown
    assert "0%" not in shown


def test_a_change_shows_its_steps_which_are_done_and_which_are_to_come() -> None:
    shown = read(overviews.EVERYTHING)
    assert "destroy 1g.10gb@4:1 on GPU 0 (done)" in shown
    assert "create 3g.40gb@4:4 on GPU 0 (doing)" in shown
    assert "ml/goes" in shown
    assert "Changing to mixed" in shown


def test_what_is_waited_for_is_named_with_budget_and_since_when() -> None:
    shown = read(overviews.overview(overviews.blocked()))
    for words in ("Waits for budget since", "2023-11-14 22:12:20Z", "ml/web-1", "ReplicaSet/web", "budget keep-web"):
        assert words in shown


def test_models_have_their_progress_and_events_are_told() -> None:
    shown = read(overviews.EVERYTHING)
    for words in ("ready-one", "100 B of 100 B", "size not known yet", "Drift", "changed by hand", "layout"):
        assert words in shown


def test_a_container_that_says_nothing_is_named_with_why_and_the_rest_is_shown() -> None:
    own = overviews.overview(world.report(), overviews.looked())
    silent = Part(missing="it does not answer", missing_since=overviews.NOW - 60)
    whole = overview_of("gpu-1", overviews.NOW, "1", Part(partition=own.partition), silent)
    shown = read(whole)
    assert "The container cache says nothing: it does not answer, since 2023-11-14 22:12:40Z" in shown
    assert "1g.10gb@0:1" in shown
    assert (whole.missing, whole.missing_since) == ({"cache": "it does not answer"}, {"cache": overviews.NOW - 60})


def test_before_the_first_look_the_page_says_so() -> None:
    assert "it has not looked yet" in read(overviews.overview())


@settings(deadline=None)
@given(overviews.strange())
def test_whatever_strangers_write_is_text_and_every_element_is_closed(overview: Overview) -> None:
    page = Page(document(overview))
    assert page.open == []
    assert [name for name, _ in page.elements if name in ("script", "img", "h1")] == ["h1", "script"]
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on") or key == "style"]


@settings(deadline=None)
@given(overviews.strange())
def test_the_status_holds_to_its_schema_whatever_it_says(overview: Overview) -> None:
    Draft202012Validator(schema()).validate(json.loads(msgspec.json.encode(overview)))


def test_the_schema_in_the_repository_is_the_one_of_the_code() -> None:
    """``python -m hack.status_schema`` writes it."""
    assert FILE.read_text("utf-8") == text()


def test_a_wrong_status_does_not_hold_to_the_schema() -> None:
    document = json.loads(msgspec.json.encode(overviews.EVERYTHING))
    document["partition"]["layout"]["state"] = "fine"
    assert not Draft202012Validator(schema()).is_valid(document)


def test_a_status_is_read_back_as_it_was() -> None:
    part = Part(overviews.EVERYTHING.partition, overviews.EVERYTHING.cache, overviews.EVERYTHING.events)
    assert msgspec.json.decode(msgspec.json.encode(part), type=Part) == part


@pytest.mark.parametrize("step", STEPS, ids=lambda step: type(step).__name__)
def test_every_step_has_words(step: Step) -> None:
    assert in_words(step, {world.GPU: 3})
    assert world.GPU not in in_words(step, {world.GPU: 3})


def test_no_step_is_left_out_above() -> None:
    assert {type(step) for step in STEPS} == set(get_args(Step))


def test_sections_stay_the_same_while_nothing_changes_but_the_time() -> None:
    """Else every viewer would get everything each second."""
    later = replace(overviews.EVERYTHING, at=overviews.NOW + 100)
    assert sections(later) == sections(overviews.EVERYTHING)


def test_the_policy_names_no_other_place_and_allows_nothing_inline_but_ours() -> None:
    policy = HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
