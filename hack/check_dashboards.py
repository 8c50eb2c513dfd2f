"""Whether a Prometheus has an answer for everything that is shipped: ``python -m hack.check_dashboards URL``.

Every query of every panel, with what its variables offer there; every recording rule; every query in README. One line for
each that fails or answers nothing, and exit code 1.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.prometheus import ROOT, Prometheus

DASHBOARDS = ROOT / "manifests" / "observability" / "dashboards"
README = ROOT / "README.md"
RANGE = "1m"
_OFFERED = re.compile(r"label_values\((?P<metric>.+), (?P<label>\w+)\)")


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, and where it stands."""

    where: str
    query: str


def complaints(url: str) -> list[str]:
    """A line for each query that cannot be, or answers nothing; empty when all is well."""
    server = Prometheus(url)
    return [*without_answer(server, everything(server)), *_broken_rules(server)]


def everything(server: Prometheus) -> Iterator[Asked]:
    """Panels, recorded series and README's questions."""
    for file in sorted(DASHBOARDS.glob("*.json")):
        yield from panels(json.loads(file.read_text("utf-8")), file.name, server)
    for rule in server.rules():
        if rule["type"] == "recording":
            yield Asked("recording rule", rule["name"])
    yield from questions(README)


def panels(dashboard: dict[str, Any], name: str, server: Prometheus) -> Iterator[Asked]:
    """Variables stand for all that they offer, as in Grafana with everything chosen."""
    chosen = {
        "__range": RANGE,
        "__rate_interval": RANGE,
        **{one["name"]: offered(one, server) for one in dashboard["templating"]["list"] if one["type"] == "query"},
    }
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield Asked(f"{name}: {panel['title']!r} {target['refId']}", substituted(target["expr"], chosen))


def offered(variable: dict[str, Any], server: Prometheus) -> str:
    """What the variable's own query answers, joined as for a regular expression."""
    query = _OFFERED.fullmatch(variable["query"]["query"])
    if query is None:
        raise ValueError(
            f"variable {variable['name']}: {variable['query']['query']!r} is not label_values(metric, label)"
        )
    values = server.values(query["label"], query["metric"])
    return "|".join(values) if variable["multi"] else next(iter(values), "")


def substituted(query: str, chosen: dict[str, str]) -> str:
    """ValueError for a variable that nobody offers."""
    for name, value in chosen.items():
        query = query.replace(f"${name}", value)
    if "$" in query:
        raise ValueError(f"a variable is not known: {query}")
    return query


def questions(readme: Path) -> Iterator[Asked]:
    """Queries in blocks marked ``promql``, apart by empty lines; lines with # say what is asked."""
    for block in re.findall(r"^```promql\n(.*?)^```$", readme.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL):
        for query in block.strip().split("\n\n"):
            yield Asked("README.md", query)


def without_answer(server: Prometheus, asked: Iterable[Asked]) -> Iterator[str]:
    """A line for each that fails or answers nothing."""
    for one in asked:
        try:
            found = server.ask(one.query)
        except ValueError as error:
            yield f"{one.where}: {error}: {one.query}"
        else:
            if not found:
                yield f"{one.where}: no data: {one.query}"


def _broken_rules(server: Prometheus) -> Iterator[str]:
    for rule in server.rules():
        if rule["health"] != "ok":
            yield f"rule {rule['name']}: {rule['health']}: {rule.get('lastError', '')}"


def main() -> int:
    """Exit code 1 where anything has no answer."""
    if len(sys.argv) != 2:
        print("usage: python -m hack.check_dashboards http://PROMETHEUS:9090", file=sys.stderr)
        return 2
    found = complaints(sys.argv[1])
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
