"""The status page as a whole, and its parts as they are sent to those who look on. Pure.

# Note [Nothing from elsewhere]
# The page asks nobody but its agent: style and script stand in it, and the policy that goes with it lets nothing else in. Both
# are named by their hash, so that one rendering serves all. Inline ``style`` attributes are not let in either: widths of bars
# are attributes of SVG, and places of slices are classes.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files

from agent.model.overview import Overview
from agent.report.page.cache import models
from agent.report.page.events import events
from agent.report.page.gpus import MOST_SLICES, gpus
from agent.report.page.markup import Html, joined, tag
from agent.report.page.parts import moment
from agent.report.page.status import change, status

_PLACES = "".join(
    f".at{n}{{--at:{n + 1}}}.of{n + 1}{{--of:{n + 1}}}.n{n + 1}{{--n:{n + 1}}}" for n in range(MOST_SLICES)
)
_STYLE = (files("agent.report.page") / "page.css").read_text("utf-8") + _PLACES
_SCRIPT = (files("agent.report.page") / "page.js").read_text("utf-8")
_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='4' "
    "fill='%230f766e'/%3E%3Cpath d='M3 4h4v8H3zM9 4h4v3H9zM9 9h4v3H9z' fill='%23fff'/%3E%3C/svg%3E"
)
_REFRESH_SECONDS = 5
_LINKS = (("status as JSON", "api/v1/status"), ("its schema", "api/v1/schema"), ("metrics", "metrics"))


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


POLICY = "; ".join(
    [
        "default-src 'none'",
        "connect-src 'self'",
        f"script-src {_hash(_SCRIPT)}",
        f"style-src {_hash(_STYLE)}",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Content-Security-Policy. See Note [Nothing from elsewhere]."""

EDITION = hashlib.sha256((_STYLE + _SCRIPT).encode()).hexdigest()[:12]
"""Of style and script: a page of another edition has to be loaded anew."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the page: what it is made of, the time aside, and how."""

    made_of: Callable[[Overview], object]
    draw: Callable[[Overview], Html]


PARTS: Mapping[str, Part] = {
    "status": Part(
        lambda o: (o.partition and (o.partition.layout, o.partition.wait, o.partition.error), _life(o)), status
    ),
    "change": Part(lambda o: o.partition and o.partition.change, change),
    "gpus": Part(lambda o: o.partition and (o.partition.gpus, o.partition.unsampled, o.partition.error), gpus),
    "models": Part(lambda o: (o.cache and replace(o.cache, looked=0.0), o.containers), models),
    "events": Part(lambda o: o.events, events),
}


def part(name: str, overview: Overview) -> Html:
    """One part, as it stands in the page and is sent to those who look on."""
    return tag("div", PARTS[name].draw(overview), id=name, class_="part")


def _life(overview: Overview) -> object:
    cache, partition = overview.cache, overview.partition
    looks = (cache and cache.looked, partition and partition.looked)
    cutting = partition and partition.change and bool(partition.change.steps)
    return overview.containers, overview.cordoned, overview.gate, looks, cutting


def page(overview: Overview) -> str:
    """The document."""
    parts = {name: part(name, overview) for name in PARTS}
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{overview.node} · WarmSlice"),
        tag("link", rel="icon", href=_ICON),
        tag("noscript", tag("meta", http_equiv="refresh", content=_REFRESH_SECONDS)),
        tag("style", Html(_STYLE)),
    )
    below = tag("div", parts["models"], parts["events"], class_="columns")
    main = tag("main", parts["status"], parts["change"], parts["gpus"], below)
    body = tag("body", _banner(overview), main, _footer(overview), tag("script", Html(_SCRIPT)))
    document = tag("html", head, body, lang="en", data_edition=EDITION, data_now=f"{overview.at:.3f}")
    return f"<!doctype html>\n{document}\n"


def _banner(overview: Overview) -> Html:
    words = joined("as of ", moment(overview.at, overview.at), f", reloads every {_REFRESH_SECONDS} s")
    name = joined(tag("p", "WarmSlice", class_="mark"), tag("h1", overview.node))
    return tag("header", tag("div", name), tag("p", words, id="live", role="status"), class_="banner")


def _footer(overview: Overview) -> Html:
    links = [tag("a", words, href=address) for words, address in _LINKS]
    version = next((one.version for one in overview.containers if one.state == "here"), "")
    return tag("footer", tag("p", *(joined(link, " ") for link in links)), tag("p", f"WarmSlice {version}"))
