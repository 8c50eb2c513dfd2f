"""README's table of metrics, from the list in the code: ``python -m hack.metrics_table`` writes it where it stands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from agent.report import families

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- metrics: written by python -m hack.metrics_table -->", "<!-- end of metrics -->"


def table() -> str:
    """Labels of slices and of models are said once."""
    return "\n".join(_rows())


def _rows() -> Iterator[str]:
    yield "| metric | type | labels | what it says |"
    yield "|---|---|---|---|"
    for family in families.ALL:
        labels = ", ".join(f"`{name}`" for name in family.labels)
        if family.labels == families.SLICE:
            labels = "those of a slice"
        yield f"| `{family.exposed}` | {family.kind} | {labels} | {family.text} |"


def written(readme: str) -> str:
    """The same README with the table of now."""
    before, found, rest = readme.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise SystemExit(f"README.md has no place for the table: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    """Exit code 0."""
    README.write_text(written(README.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
