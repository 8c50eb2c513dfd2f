"""Small pieces that every part of the page is made of. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal

from agent.model.overview import HoldingPod
from agent.report.fleet import age
from agent.report.page.markup import Child, Html, joined, tag

Tone = Literal["good", "busy", "wait", "bad", "quiet"]

_ICONS = {
    "good": "M3.5 8.5l3 3 6-7",
    "busy": "M8 2.5a5.5 5.5 0 1 1-5.5 5.5",
    "wait": "M8 2.5l6 11H2zM8 6.8v2.7M8 11.6v.01",
    "bad": "M4.5 4.5l7 7m0-7l-7 7",
    "quiet": "M5 8h6",
}


def icon(tone: Tone) -> Html:
    """Says by its form what colour says beside it."""
    return tag(
        "svg",
        tag("path", d=_ICONS[tone]),
        class_=f"icon {tone}",
        viewBox="0 0 16 16",
        aria_hidden="true",
        focusable="false",
    )


def pill(tone: Tone, words: str) -> Html:
    """A state: icon and words."""
    return tag("span", icon(tone), words, class_=f"pill {tone}")


def moment(at: float, now: float) -> Html:
    """When, without the date where it is today's, and how long that is ago (or ahead); the script keeps the age right."""
    try:
        when = datetime.fromtimestamp(at, UTC)
    except (OverflowError, OSError, ValueError):
        return tag("span", "at no time that a calendar has")
    full = when.strftime("%Y-%m-%d %H:%M:%S UTC")
    today = datetime.fromtimestamp(now, UTC).date() == when.date()
    return joined(
        tag("time", full[11:] if today else full, datetime=when.strftime("%Y-%m-%dT%H:%M:%SZ"), title=full),
        " ",
        tag("span", relative(now - at), class_="age", data_at=f"{at:.3f}"),
    )


def relative(seconds: float) -> str:
    """``12s ago``, or ``in 3m`` for what is to come."""
    return f"{age(seconds)} ago" if seconds > -1 else f"in {age(-seconds)}"


def bar(ratio: float, tone: str) -> Html:
    """A filled part of a line; what it says stands beside it in numbers."""
    width = round(100 * min(1.0, max(0.0, ratio)), 1)
    return tag(
        "svg",
        tag("rect", class_="track", width=100, height=4),
        tag("rect", class_="fill", width=width, height=4),
        class_=f"bar {tone}",
        viewBox="0 0 100 4",
        preserveAspectRatio="none",
        aria_hidden="true",
        focusable="false",
    )


def gauge(name: str, value: Child, ratio: float | None, tone: str, title: str = "") -> Html:
    """A measurement: its name, its value, and a bar where it has a whole."""
    return tag(
        "div",
        tag("span", name, class_="name"),
        tag("span", value, class_="value"),
        bar(ratio, tone) if ratio is not None else None,
        class_=f"gauge {tone}",
        title=title or None,
    )


def per_cent(ratio: float) -> str:
    """A whole number, but for the little that is not nothing."""
    shown = 100 * ratio
    return f"{shown:.1f} %" if 0 < shown < 1 else f"{shown:.0f} %"


def of_memory(used: int, total: int | None) -> str:
    """GPU memory, in the driver's units."""
    return f"{used / 2**30:.1f} GiB" if total is None else f"{used / 2**30:.1f} of {total / 2**30:.1f} GiB"


def of_disk(count: int) -> str:
    """Bytes as hubs and disks count them."""
    for unit, size in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.2f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{count} B"


def pods(holders: tuple[HoldingPod, ...]) -> Html:
    """A list of pods; who it belongs to in the title."""
    return tag("ul", *map(_pod, holders), class_="pods")


def _pod(holder: HoldingPod) -> Html:
    full = f"{holder.namespace}/{holder.pod}"
    belongs = f" ({holder.kind} {holder.workload})" if holder.kind and holder.kind != "Pod" else ""
    return tag("li", tag("span", f"{holder.namespace}/", class_="space"), holder.pod, title=full + belongs)


def section(name: str, title: str, *children: Child, aside: Child = None) -> Html:
    """A part of the page, with its heading."""
    heading = tag("header", tag("h2", title, id=f"{name}-title"), aside)
    return tag("section", heading, *children, class_="card", aria_labelledby=f"{name}-title")


def nothing(words: str) -> Html:
    """What is said where there is nothing to show."""
    return tag("p", words, class_="nothing")
