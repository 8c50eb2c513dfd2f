"""The last Events that the agent wrote. Pure."""

from __future__ import annotations

from agent.model.overview import Overview, ShownEvent
from agent.report.page.markup import Html, joined, tag
from agent.report.page.parts import icon, moment, nothing, section


def events(overview: Overview) -> Html:
    """Newest first."""
    if not overview.events:
        return section("events", "Events", nothing("None since the agent started."))
    return section(
        "events", "Events", tag("ol", *(_event(event, overview.at) for event in overview.events), class_="events")
    )


def _event(event: ShownEvent, now: float) -> Html:
    count = tag("span", f"{event.count} times", class_="chip") if event.count > 1 else None
    about = tag("span", event.about, class_="chip") if event.about else None
    warning = joined(icon("wait"), tag("span", "Warning", class_="unseen")) if event.warning else None
    head = tag(
        "p",
        warning,
        tag("strong", event.reason),
        about,
        count,
        tag("span", moment(event.at, now), class_="when"),
        class_="head",
    )
    return tag("li", head, tag("p", event.message, class_="message"), class_="warning" if event.warning else None)
