"""The table of what `warmslice doctor` can find, from the list in the code: ``python -m hack.doctor_table`` writes it where it
stands."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from agent.model.doctor import Code

PAGE = Path(__file__).resolve().parent.parent / "docs" / "doctor.md"
BEGIN, END = "<!-- codes: written by python -m hack.doctor_table -->", "<!-- end of codes -->"


def table() -> str:
    """In the order of the code, which goes from owners to hosts."""
    return "\n".join(_rows())


def _rows() -> Iterator[str]:
    yield "| code | severity | what is so |"
    yield "|---|---|---|"
    for code in Code:
        yield f"| `{code.word}` | {code.severity.value} | {code.meaning} |"


def written(page: str) -> str:
    """The same page with the table of now."""
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not found or not closed:
        raise SystemExit(f"{PAGE.name} has no place for the table: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def main() -> int:
    """Exit code 0."""
    PAGE.write_text(written(PAGE.read_text("utf-8")), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
