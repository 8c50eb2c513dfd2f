"""All metrics, from the list in ``agent/report/families.py``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.report import families
from hack.reference.words import code, made_by, table

ABOUT = (
    "What `/metrics` of the two containers shows, on the ports 9470 (partition) and 9471 (cache). What can be asked of it: "
    "[Metrics, dashboards and costs](../observability.md)."
)


def page() -> str:
    """Labels of slices are said once."""
    of_a_slice = f"The labels of a slice are {', '.join(map(code, families.SLICE))}."
    lines = [*made_by("Metrics", ABOUT, of_a_slice), *table(("metric", "type", "labels", "what it says"), rows())]
    return "\n".join(lines) + "\n"


def rows() -> Iterator[Sequence[str]]:
    """One for each metric."""
    for family in families.ALL:
        names = ", ".join(map(code, family.labels))
        yield (
            code(family.exposed),
            family.kind,
            "those of a slice" if family.labels == families.SLICE else names,
            family.text,
        )
