"""A diagnosis as text for people: by place, the gravest first, wrapped; a command is never broken. Pure."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator

from agent.model.doctor import Diagnosis, Finding

_WIDTH = 110
_INDENT = " " * 9
_GLUE = "\u2007"
"""Stands for a space within a command while lines are broken."""


def diagnosis_drawn(diagnosis: Diagnosis) -> str:
    """What was found, what was not looked at, and what was."""
    rows: list[str] = []
    for place, findings in _by_place(diagnosis.findings):
        rows += [place, *(row for one in findings for row in _finding(one, place)), ""]
    for gap in diagnosis.gaps:
        rows += _wrapped(f"not looked at: {gap.what}, because {gap.because}", "", "  ")
    rows += [""] if diagnosis.gaps else []
    return "\n".join([*rows, _summary(diagnosis)])


def _by_place(findings: tuple[Finding, ...]) -> Iterator[tuple[str, list[Finding]]]:
    """In the order of their gravest finding; what is no node's alone comes first among equals."""
    groups: dict[str, list[Finding]] = {}
    for one in findings:
        groups.setdefault(one.node, []).append(one)
    for node, found in sorted(groups.items(), key=lambda item: (item[1][0].code.severity.rank, item[0])):
        yield (f"node {node}" if node else "cluster"), found


def _finding(one: Finding, place: str) -> Iterator[str]:
    yield f"{one.code.severity.value:<8} {one.code.word}"
    subject = "" if one.where in (place, "cluster") else f"{one.where}: "
    yield from _wrapped(f"{subject}{one.what}", _INDENT, _INDENT)
    yield from _wrapped(f"fix: {one.fix}", _INDENT, _INDENT + "     ")


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    glued = re.sub(r"(^fix: )?`[^`]*`", lambda match: match[0].replace(" ", _GLUE), text)
    lines = textwrap.wrap(
        glued,
        _WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(_GLUE, " ") for line in lines]


def _summary(diagnosis: Diagnosis) -> str:
    looked = ", ".join(f"{count} {what}" for what, count in diagnosis.looked.items())
    counts: dict[str, int] = {}
    for one in diagnosis.findings:
        counts[one.code.severity.value] = counts.get(one.code.severity.value, 0) + 1
    found = ", ".join(f"{count} {word}{'s' if count > 1 else ''}" for word, count in counts.items()) or "nothing found"
    return f"looked at {looked}: {found}"
