"""The whole page: one document that brings all it needs, and may load nothing else."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from importlib.resources import files

from agent.model.overview import Overview
from agent.report.page.html import Html, joined, tag
from agent.report.page.sections import sections

_MOST_MEMORY_SLICES = 16
_REFRESH_SECONDS = 10


def _grid() -> str:
    """Classes instead of inline styles, which the policy forbids: ``of8`` has eight columns, ``at4 by2`` lies in two of them."""
    rows = []
    for number in range(_MOST_MEMORY_SLICES + 1):
        rows.append(f".of{number}{{grid-template-columns:repeat({max(number, 1)},1fr)}}")
        rows.append(
            f".at{number}{{grid-column-start:{number + 1}}}.by{number}{{grid-column-end:span {max(number, 1)}}}"
        )
    return "".join(rows)


_STYLE = files(__package__).joinpath("style.css").read_text("utf-8") + _grid()
_SCRIPT = files(__package__).joinpath("script.js").read_text("utf-8")


def _hash(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            f"style-src {_hash(_STYLE)}",
            f"script-src {_hash(_SCRIPT)}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Only what is in the document runs and styles it, whatever a stranger's pod is called."""


def document(overview: Overview) -> str:
    """UTF-8 text."""
    inner = sections(overview)
    body = tag(
        "body",
        tag(
            "header",
            tag("h1", overview.node),
            tag("p", f"WarmSlice {overview.version} · "),
            tag("p", "as of ", _stamp(overview.at), " ", tag("span", "", id="link", role="status")),
        ),
        tag("main", *(tag("section", Html(markup), id=name) for name, markup in inner.items())),
        tag(
            "footer",
            "The same for programs: ",
            tag("a", "api/v1/status", href="api/v1/status"),
            ", ",
            tag("a", "metrics", href="metrics"),
            ".",
        ),
        tag("script", Html(_SCRIPT)),
        data_now=_iso(overview.at),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("title", f"{overview.node} · WarmSlice"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        # An icon of its own keeps browsers from asking for one.
        Html('<link rel="icon" href="data:,">'),
        tag("noscript", tag("meta", http_equiv="refresh", content=str(_REFRESH_SECONDS))),
        tag("style", Html(_STYLE)),
    )
    return joined(Html("<!DOCTYPE html>"), tag("html", head, body, lang="en"))


def _stamp(seconds: float) -> Html:
    return tag("time", f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}Z", datetime=_iso(seconds))


def _iso(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
