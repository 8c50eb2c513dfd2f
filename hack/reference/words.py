"""Markdown that every reference page needs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence


def made_by(title: str, *paragraphs: str) -> list[str]:
    """The head of a page."""
    note = "<!-- written by python -m hack.reference -->"
    return [note, "", f"# {title}", "", *(line for text in paragraphs for line in (text, ""))]


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table's lines; a bar inside of a cell is escaped."""
    yield f"| {' | '.join(heads)} |"
    yield "|" + "---|" * len(heads)
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def code(text: str) -> str:
    """A word as it is typed."""
    return f"`{text}`"
