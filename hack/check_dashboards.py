"""Whether a Prometheus has an answer for everything that is shipped.

    python -m hack.check_dashboards [--docs] http://prometheus:9090

Every query of every panel, with what its variables offer there, and every recording rule; with --docs the questions of
docs/observability.md too, some of which have an answer only where something is wrong. One line for each that fails or answers
nothing, and exit code 1.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.prometheus import ROOT, Prometheus

DASHBOARDS = ROOT / "manifests" / "observability" / "dashboards"
QUESTIONS = ROOT / "docs" / "observability.md"
RANGE = "1m"
_OFFERED = re.compile(r"label_values\((?P<metric>.+), (?P<label>\w+)\)")


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, and where it stands."""

    where: str
    query: str


def complaints(url: str, docs: bool = False) -> list[str]:
    """A line for each query that cannot be, or answers nothing; empty when all is well."""
    server = Prometheus(url)
    asked = [*of_dashboards(server), *of_rules(server), *(questions(QUESTIONS) if docs else ())]
    return [*without_answer(server, asked), *_broken_rules(server)]


def of_dashboards(server: Prometheus) -> Iterator[Asked]:
    """Every panel of every dashboard."""
    for file in sorted(DASHBOARDS.glob("*.json")):
        yield from panels(json.loads(file.read_text("utf-8")), file.name, server)


def of_rules(server: Prometheus) -> Iterator[Asked]:
    """Every series that is recorded."""
    for rule in server.rules():
        if rule["type"] == "recording":
            yield Asked("recording rule", rule["name"])


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


def questions(page: Path) -> Iterator[Asked]:
    """Queries in blocks marked ``promql``, apart by empty lines; lines with # say what is asked."""
    for block in re.findall(r"^```promql\n(.*?)^```$", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL):
        for query in block.strip().split("\n\n"):
            yield Asked(page.name, query)


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
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--docs", action="store_true", help="ask the questions of docs/observability.md too")
    parser.add_argument("url")
    options = parser.parse_args()
    found = complaints(options.url, options.docs)
    for line in found:
        print(line)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
