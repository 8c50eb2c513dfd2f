"""A few kinds of panels, and how they become Grafana's dashboard model (the classic one, which Grafana 10 and later import)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Json = dict[str, Any]

WIDTH = 24
SCHEMA = 39
SOURCE: Json = {"type": "prometheus", "uid": "${datasource}"}
GREEN, YELLOW, ORANGE, RED, BLUE, GREY = "green", "yellow", "orange", "red", "blue", "text"
STATE_COLOURS = {
    "used": "green",
    "idle": "yellow",
    "unmeasured": "blue",
    "free": "light-blue",
    "uncut": "purple",
    "lost": "red",
    "success": "green",
    "pending": "blue",
    "rebooting": "orange",
    "failed": "red",
}

Kind = Literal["stat", "timeseries", "bargauge", "table", "state-timeline"]


@dataclass(frozen=True, slots=True)
class Query:
    """``legend`` names a series; in a table it names the column of the values."""

    query: str
    legend: str = ""
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """``steps``: colours from values on, the first from the beginning. ``columns``: labels that a table shows, in order, by what
    stands above them; ``by``: the label by which its queries are joined, none where they have the same labels."""

    kind: Kind
    title: str
    says: str
    queries: Sequence[Query]
    unit: str = "short"
    width: int = 12
    height: int = 8
    steps: Sequence[tuple[float | None, str]] = ((None, GREEN),)
    stacked: bool = False
    names: bool = False
    most: float | None = None
    columns: dict[str, str] = field(default_factory=dict)
    by: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under a heading."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True)
class Variable:
    """What somebody may choose: the values of a label of a metric."""

    label: str
    metric: str
    several: bool


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One file."""

    uid: str
    title: str
    says: str
    variables: Sequence[Variable]
    rows: Sequence[Row]
    links: Sequence[tuple[str, str]] = ()


def model_of(dashboard: Dashboard) -> Json:
    """As Grafana has it."""
    return {
        "uid": dashboard.uid,
        "title": dashboard.title,
        "description": dashboard.says,
        "tags": ["warmslice", "gpu"],
        "schemaVersion": SCHEMA,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "1m",
        "time": {"from": "now-6h", "to": "now"},
        "timezone": "browser",
        "links": [_link(title, url) for title, url in dashboard.links],
        "annotations": {"list": []},
        "templating": {"list": [_source(), *(_variable(one) for one in dashboard.variables)]},
        "panels": list(_placed(dashboard.rows)),
    }


def _link(title: str, url: str) -> Json:
    return {"type": "link", "title": title, "url": url, "keepTime": True, "includeVars": True, "icon": "dashboard"}


def _source() -> Json:
    return {"type": "datasource", "name": "datasource", "label": "Prometheus", "query": "prometheus", "current": {}}


def _variable(one: Variable) -> Json:
    found: Json = {
        "type": "query",
        "name": one.label,
        "label": one.label.capitalize(),
        "datasource": SOURCE,
        "definition": f"label_values({one.metric}, {one.label})",
        "query": {"query": f"label_values({one.metric}, {one.label})", "refId": "variable"},
        "refresh": 2,
        "sort": 1,
        "multi": one.several,
        "includeAll": one.several,
    }
    if one.several:
        found |= {"allValue": ".*", "current": {"text": "All", "value": "$__all"}}
    return found


def _placed(rows: Iterable[Row]) -> Iterable[Json]:
    """From left to right, and from the top; each row of panels is as high as its highest."""
    number, y = 0, 0
    for row in rows:
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": row.title,
            "collapsed": False,
            "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            "panels": [],
        }
        x, y, height = 0, y + 1, 0
        for panel in row.panels:
            number += 1
            if x + panel.width > WIDTH:
                x, y, height = 0, y + height, 0
            yield _panel(number, panel, {"x": x, "y": y, "w": panel.width, "h": panel.height})
            x, height = x + panel.width, max(height, panel.height)
        y += height


def _panel(number: int, panel: Panel, place: Json) -> Json:
    found = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.says,
        "gridPos": place,
        "datasource": SOURCE,
        "targets": [_target(index, query, panel.kind) for index, query in enumerate(panel.queries)],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": list(_overrides(panel))},
        "options": _options(panel),
    }
    if panel.kind == "table":
        found["transformations"] = _table(panel)
    return found


def _letter(index: int) -> str:
    return chr(ord("A") + index)


def _target(index: int, query: Query, kind: Kind) -> Json:
    now = kind in ("stat", "bargauge", "table")
    found: Json = {
        "refId": _letter(index),
        "datasource": SOURCE,
        "expr": query.query,
        "editorMode": "code",
        "instant": now,
        "range": not now,
    }
    if kind == "table":
        return {**found, "format": "table"}
    return {**found, "legendFormat": query.legend or "__auto"}


def _defaults(panel: Panel) -> Json:
    steps = [{"color": colour, "value": value} for value, colour in panel.steps]
    found: Json = {
        "unit": panel.unit,
        "thresholds": {"mode": "absolute", "steps": steps},
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "noValue": "none",
    }
    if panel.most is not None:
        found |= {"min": 0, "max": panel.most}
    if panel.kind == "timeseries":
        found["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    return found


def _overrides(panel: Panel) -> Iterable[Json]:
    if panel.kind == "table":
        for index, query in enumerate(panel.queries):
            name = query.legend if query.legend else f"Value #{_letter(index)}"
            yield _override(name, "unit", query.unit or panel.unit)
        return
    legends = "".join(query.legend for query in panel.queries)
    if panel.kind == "timeseries" and "{{state}}" in legends:
        for state, colour in STATE_COLOURS.items():
            yield _override(state, "color", {"mode": "fixed", "fixedColor": colour})


def _override(name: str, what: str, value: Any) -> Json:
    return {"matcher": {"id": "byName", "options": name}, "properties": [{"id": what, "value": value}]}


def _options(panel: Panel) -> Json:
    reduced = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if panel.kind == "stat":
        text = "name" if panel.names else "auto"
        return {"reduceOptions": reduced, "colorMode": "background", "graphMode": "none", "textMode": text}
    if panel.kind == "bargauge":
        return {"reduceOptions": reduced, "orientation": "horizontal", "displayMode": "basic", "showUnfilled": True}
    if panel.kind == "timeseries":
        legend = {"displayMode": "table", "placement": "right", "showLegend": True, "calcs": ["lastNotNull", "max"]}
        return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "state-timeline":
        return {"showValue": "never", "mergeValues": True, "legend": {"showLegend": False}}
    return {"showHeader": True, "cellHeight": "sm"}


def _table(panel: Panel) -> list[Json]:
    """One line for each subject: the queries' answers beside each other, under names that people read."""
    labels = list(panel.columns)
    values = {f"Value #{_letter(index)}": query.legend for index, query in enumerate(panel.queries)}
    if len(panel.queries) == 1:
        values = {"Value": panel.queries[0].legend}
    shown = [*labels, *(name for name, legend in values.items() if legend)]
    hidden = ["Time", "__name__", *(name for name, legend in values.items() if not legend)]
    numbered = [f"Time {index + 1}" for index in range(len(panel.queries))]
    join = (
        {"id": "joinByField", "options": {"byField": panel.by, "mode": "outer"}}
        if panel.by
        else {"id": "merge", "options": {}}
    )
    organize = {
        "excludeByName": dict.fromkeys([*hidden, *numbered], True),
        "indexByName": {name: index for index, name in enumerate(shown)},
        "renameByName": {**panel.columns, **{name: legend for name, legend in values.items() if legend}},
    }
    return [join, {"id": "organize", "options": organize}]
