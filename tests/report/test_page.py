"""The document itself: what it says of each state, and that nothing of a stranger's becomes markup."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.cache import ModelState
from agent.model.overview import Away, Overview
from agent.report.overview import Known, overview_of
from agent.report.page.document import PARTS, POLICY, page, part
from agent.report.page.markup import Html, joined, tag
from agent.report.page.parts import moment, of_disk, per_cent, relative
from tests.report import world
from tests.report.test_overview import HOME, NOW, known, whole

_VOID = {"meta", "link"}
_ELEMENTS = frozenset(
    """html head meta title link noscript style body header div p h1 h2 h3 main section article span strong code ul ol li dl dt dd
    time svg path rect table thead tbody tr th td footer a script""".split()  # noqa: SIM905
)
_WORDS_OF_OURS = frozenset({"state", "role", "mig", "fate", "stage", "mode_after"})
"""Fields that have one of a few words; every other text may come from a stranger."""


class Reader(HTMLParser):
    """Keeps the elements that are open, and all that were seen."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(document)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


def read(overview: Overview) -> Reader:
    reader = Reader(page(overview))
    assert reader.open == []
    return reader


_TEXTS = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["<script>x()</script>", '"><img src=x onerror=x()>', "]]>", "&lt;", "--><b>", "\ud800", "\0"]),
)


def rewritten(value: Any, text: Callable[[], str], field: str = "") -> Any:
    """The same with other texts wherever a stranger could write one."""
    match value:
        case str():
            return value if field in _WORDS_OF_OURS else text()
        case dict():
            return {key: rewritten(one, text, key) for key, one in value.items()}
        case list() | tuple():
            return [rewritten(one, text, field) for one in value]
        case _:
            return value


@given(st.data())
def test_whatever_strangers_write_stays_text(data: st.DataObject) -> None:
    values = rewritten(msgspec.to_builtins(whole()), lambda: data.draw(_TEXTS))
    reader = read(msgspec.convert(values, Overview))
    assert {element for element, _ in reader.seen} <= _ELEMENTS
    assert [element for element, _ in reader.seen].count("script") == 1
    assert not {
        name for _, attributes in reader.seen for name in attributes if name.startswith("on") or name == "style"
    }


def test_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "<b>", tag("b", 'a"'), None, title='"<') == '<p title="&quot;&lt;">&lt;b&gt;<b>a&quot;</b></p>'
    assert joined(Html("<b>"), "<b>") == "<b>&lt;b&gt;"


def test_nothing_is_asked_of_anybody_else() -> None:
    document = page(whole())
    assert "default-src 'none'" in POLICY
    assert "unsafe" not in POLICY
    assert not re.findall(r"(?:src|href)=\"(?!api/|metrics|data:)", document)
    assert "http://" not in document.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in document


def test_a_slice_is_drawn_at_its_place_with_its_pod_and_numbers() -> None:
    overview = overview_of(known(telemetry=world.looked(world.small(), world.large())), HOME, None)
    document = page(overview)
    assert '<li class="slice held at0 of1">' in document
    assert '<li class="slice unheld at4 of4">' in document
    text = read(overview).text
    for words in ("1g.10gb", "ml/", "trainer", "50 %", "0.0 of 9.5 GiB", "room for 2g.20gb"):
        assert words in text


def test_a_lost_gpu_is_drawn_as_lost() -> None:
    overview = overview_of(known(partition=world.report(gpus=(world.gpu(unknown="GPU is lost"),))), HOME, None)
    assert 'class="gpu down"' in page(overview)
    assert "This GPU cannot be read. GPU is lost" in read(overview).text


def test_a_node_of_which_nothing_is_known_says_so() -> None:
    text = read(overview_of(Known(NOW), HOME, None)).text
    for words in ("No look at the node yet.", "Nobody has looked at them yet.", "Nobody has looked at the disk yet."):
        assert words in text


def test_a_driver_that_is_away_is_said_with_what_was_known() -> None:
    text = read(
        overview_of(known(partition=replace(world.report(), error="the driver is not loaded")), HOME, None)
    ).text
    assert "The last look failed. the driver is not loaded" in text
    assert "1g.10gb" in text


def test_the_cache_container_that_is_away_is_said_with_since_when() -> None:
    text = read(overview_of(known(), replace(HOME, role="partition"), Away("nobody listens", NOW - 90))).text
    assert "the cache container does not answer, since 2023-11-14 22:12:10 UTC 90s ago: nobody listens" in text.replace(
        "since 22:", "since 2023-11-14 22:"
    )


@pytest.mark.parametrize(
    ("state", "fetched", "words", "now"),
    [
        (ModelState.FETCHING, 25_000_000, "25 MB of 100 MB · 25 %", "25"),
        (ModelState.READY, 100_000_000, "100 MB", "100"),
        (ModelState.WAITING, 0, "0 B of 100 MB · 0 %", "0"),
    ],
)
def test_a_models_progress_is_a_number_too(state: ModelState, fetched: int, words: str, now: str) -> None:
    report = world.cached()
    model = replace(report.models[0], state=state, size_bytes=100_000_000, fetched_bytes=fetched)
    reader = read(overview_of(known(cache=replace(report, models=(model,))), HOME, None))
    assert words in reader.text
    bars = [attributes for _, attributes in reader.seen if attributes.get("role") == "progressbar"]
    assert [attributes["aria-valuenow"] for attributes in bars] == [now]


def test_what_the_layout_and_the_wait_say_alike_is_said_once() -> None:
    status = world.report().status
    assert status is not None
    same = replace(world.report(waits_for=status.reason), waits_message=status.message)
    other = replace(world.report(waits_for="fleet-slot"), waits_message="waits for its turn")
    assert read(overview_of(known(partition=same), HOME, None)).text.count(status.message) == 1
    assert "waits for its turn" in read(overview_of(known(partition=other), HOME, None)).text


def test_every_state_has_words_and_not_only_a_colour() -> None:
    reader = read(whole())
    pills = re.findall(r'<span class="pill [a-z]+">(?:<svg.*?</svg>)([^<]+)</span>', page(whole()))
    assert all(words.strip() for words in pills)
    assert "node is cordoned" in pills
    icons = [attributes for element, attributes in reader.seen if element == "svg"]
    assert all(attributes["aria-hidden"] == "true" for attributes in icons)


def test_headings_name_their_sections_and_the_language_is_told() -> None:
    reader = read(whole())
    ids = [attributes["id"] for _, attributes in reader.seen if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["aria-labelledby"] for element, attributes in reader.seen if element == "section"} <= set(ids)
    assert dict(reader.seen)["html"]["lang"] == "en"


def test_the_parts_that_are_sent_are_those_of_the_page() -> None:
    document = page(whole())
    assert all(part(name, whole()) in document for name in PARTS)


def test_times_are_absolute_and_relative() -> None:
    assert '>22:13:20 UTC</time> <span class="age" data-at="1700000000.000">20s ago</span>' in moment(
        1_700_000_000, NOW
    )
    assert ">2023-11-13 22:13:20 UTC<" in moment(1_700_000_000 - 86400, NOW)
    assert (relative(-180), relative(0.5)) == ("in 3m", "0s ago")
    assert "no time" in moment(1e30, NOW)


def test_numbers_are_short() -> None:
    assert [per_cent(x) for x in (0, 0.004, 0.5, 1)] == ["0 %", "0.4 %", "50 %", "100 %"]
    assert [of_disk(x) for x in (999, 25_166_584, 4 * 10**11)] == ["999 B", "25.17 MB", "400 GB"]
