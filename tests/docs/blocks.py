"""What README, CONTRIBUTING and docs/ show: fenced blocks, and how each is to be read.

A mark in the line above a fence says what the block's language does not: ``<!-- needs: cluster -->`` (it cannot run here),
``<!-- run by: tests/e2e/test_apply.py -->`` (it runs there), ``<!-- file: layouts.yaml -->`` (the page's commands find it under
that name) and ``<!-- is: patch -->`` (how YAML is meant).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = frozenset({"sh", "console", "bash", "shell"})
NEEDS = frozenset({"cluster", "docker", "gpu", "internet", "node", "minutes"})
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>`{3,})(?P<language>[^`]*)$")
_MARK = re.compile(r"<!-- (?P<what>[a-z ]+): (?P<value>.+?) -->")
_EXIT_CODE = re.compile(r"\s+# exit code (\d+)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block; ``line`` is that of its fence."""

    file: Path
    line: int
    language: str
    text: str
    marks: tuple[tuple[str, str], ...]

    @property
    def where(self) -> str:
        """As an editor finds it."""
        return f"{self.file.relative_to(ROOT) if self.file.is_relative_to(ROOT) else self.file}:{self.line}"

    def mark(self, what: str) -> str:
        """The value of that mark; empty without it."""
        return dict(self.marks).get(what, "")

    @property
    def runs_here(self) -> bool:
        """Whether its commands are run as the page is tested."""
        return self.language in COMMANDS and not self.mark("needs") and not self.mark("run by")


@dataclass(frozen=True, slots=True)
class Command:
    """``shown`` is None where a page does not say what is printed."""

    text: str
    shown: str | None = None
    code: int = 0


def pages() -> list[Path]:
    """Everything that people read."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(file: Path) -> list[Block]:
    """ValueError for a fence that is never closed."""
    return list(_blocks(file, file.read_text("utf-8").splitlines()))


def _blocks(file: Path, lines: list[str]) -> Iterator[Block]:
    number = 0
    while number < len(lines):
        fence = _FENCE.match(lines[number])
        if fence is None:
            number += 1
            continue
        end = next((at for at in range(number + 1, len(lines)) if lines[at].strip() == fence["ticks"]), None)
        if end is None:
            raise ValueError(f"{file}:{number + 1}: the fence is never closed")
        above = lines[number - 1] if number else ""
        marks = tuple((found["what"], found["value"]) for found in _MARK.finditer(above))
        text = dedent("\n".join(lines[number + 1 : end]))
        yield Block(file, number + 1, fence["language"].strip(), f"{text}\n", marks)
        number = end + 1


def commands(block: Block) -> list[Command]:
    """Of ``console`` each line with a dollar, a backslash continues it; of the others the whole script."""
    if block.language != "console":
        return [Command(block.text)]
    parts = re.split(r"^\$ ", block.text, flags=re.MULTILINE)
    if parts[0].strip() or len(parts) == 1:
        raise ValueError(f"{block.where}: a console block begins with '$ command'")
    return [_command(part) for part in parts[1:]]


def _command(part: str) -> Command:
    typed = re.match(r"(?:.*\\\n)*.*\n?", part)
    assert typed is not None
    text = typed[0].rstrip("\n")
    code = _EXIT_CODE.search(text)
    shown = part[typed.end() :].strip("\n")
    return Command(_EXIT_CODE.sub("", text), shown or None, int(code[1]) if code else 0)


def shown(page: str, command: str) -> str:
    """What that page says that the command prints. LookupError where it does not show it."""
    for block in blocks(ROOT / page):
        for one in commands(block) if block.language == "console" else ():
            if one.text.startswith(command):
                return one.shown or ""
    raise LookupError(f"{page} does not show {command}")


def looks_like(shown: str, printed: str) -> bool:
    """As a doctest's ELLIPSIS: ``...`` stands for anything, a line of it alone for any lines. Space at a line's end is none."""
    lines = [line.rstrip() for line in shown.strip().splitlines()]
    pattern = "\n".join(r"(?:.*\n)*?.*" if line == "..." else _any_for_dots(line) for line in lines)
    tidied = "\n".join(line.rstrip() for line in printed.strip().splitlines())
    return re.fullmatch(pattern, tidied) is not None


def _any_for_dots(line: str) -> str:
    return ".*".join(map(re.escape, line.split("...")))
