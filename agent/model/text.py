"""Text that a person wrote, read as YAML, with the place of everything in it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import yaml

from agent.model.errors import BadInputError

_MERGE = "tag:yaml.org,2002:merge"

Path = tuple[Any, ...]
"""Keys of mappings and numbers of list items, from the top of the document."""


@dataclass(frozen=True, slots=True, order=True)
class Mistake:
    """One mistake of a person: line and column (from 1), and one sentence with the field, its value and what would be right."""

    line: int
    column: int
    sentence: str

    def at(self, source: str) -> str:
        """As compilers and editors write it."""
        return f"{source}:{self.line}:{self.column}: {self.sentence}"


class NotYamlError(BadInputError):
    """The text cannot be read at all; ``mistake`` is why, ``known`` whether the parser could say where."""

    def __init__(self, mistake: Mistake, known: bool = True) -> None:
        where = f" at line {mistake.line}, column {mistake.column}" if known else ""
        super().__init__(f"not YAML{where}: {mistake.sentence}")
        self.mistake = replace(mistake, sentence=f"not YAML: {mistake.sentence}")


@dataclass(frozen=True, slots=True)
class Marked:
    """What a text says, and where. ``repeated``: keys that a mapping has twice, of which YAML's readers take the last."""

    value: Any
    keys: Mapping[Path, tuple[int, int]]
    values: Mapping[Path, tuple[int, int]]
    repeated: tuple[Mistake, ...] = ()

    def mistake(self, path: Path, sentence: str, key: bool = False) -> Mistake:
        """A mistake of the value at ``path`` (or of its ``key``); of the nearest above it that is written out."""
        first, second = (self.keys, self.values) if key else (self.values, self.keys)
        for length in range(len(path), -1, -1):
            place = first.get(path[:length]) or second.get(path[:length])
            if place is not None:
                return Mistake(*place, sentence)
        return Mistake(1, 1, sentence)


def field_of(path: Path, keys: int = 1) -> str:
    """As people write it: ``models[0].name``. The first ``keys`` steps are keys of mappings, though they may be numbers."""
    parts = (f"[{step}]" if isinstance(step, int) and at >= keys else f".{step}" for at, step in enumerate(path))
    return "".join(parts).removeprefix(".")


def read_yaml(text: str) -> Any:
    """What the text says; None for an empty one. BadInputError for all that is no YAML, with the place where known."""
    return read_marked(text).value


def read_marked(text: str) -> Marked:
    """What the text says, with the places of it. NotYamlError for all that is no YAML.

    The parser has errors of other kinds too: ValueError for a date that no calendar has, RecursionError for brackets in
    brackets without end.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return Marked(None, {}, {})
        marks = _Marks(loader, node)
        value = loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or _one_line(error)
        line, column = (1, 1) if mark is None else (mark.line + 1, mark.column + 1)
        raise NotYamlError(Mistake(line, column, problem), mark is not None) from error
    except RecursionError as error:
        raise NotYamlError(Mistake(1, 1, "brackets are nested too deep"), known=False) from error
    return Marked(value, marks.keys, marks.values, tuple(marks.repeated))


class _Loader(yaml.SafeLoader):
    """The safe loader, which also says where a value is that it cannot make."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            problem = f"a value cannot be read: {_one_line(error)}; put it in quotes"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark) from error


class _Marks:
    """Walks a document once, before it is read: that puts merged keys (``<<``) among a mapping's own. A node that an alias
    repeats is walked at its anchor alone."""

    def __init__(self, loader: _Loader, node: yaml.Node) -> None:
        self.keys: dict[Path, tuple[int, int]] = {}
        self.values: dict[Path, tuple[int, int]] = {}
        self.repeated: list[Mistake] = []
        self._loader = loader
        self._seen: set[int] = set()
        self._walk((), node)

    def _walk(self, path: Path, node: yaml.Node) -> None:
        if id(node) in self._seen:
            return
        self._seen.add(id(node))
        self.values[path] = _place(node)
        for key, child in self._children(path, node):
            self._walk((*path, key), child)

    def _children(self, path: Path, node: yaml.Node) -> Iterator[tuple[Any, yaml.Node]]:
        match node:
            case yaml.SequenceNode():
                yield from enumerate(node.value)
            case yaml.MappingNode():
                first: dict[Any, int] = {}
                for key_node, child in node.value:
                    if not isinstance(key_node, yaml.ScalarNode) or key_node.tag == _MERGE:
                        continue
                    key, place = self._loader.construct_object(key_node), _place(key_node)
                    if key in first:
                        sentence = f"{key!r} is given twice, first in line {first[key]}: remove one"
                        self.repeated.append(Mistake(*place, sentence))
                    first.setdefault(key, place[0])
                    self.keys[(*path, key)] = place
                    yield key, child


def _place(node: yaml.Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
