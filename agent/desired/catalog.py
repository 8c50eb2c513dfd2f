"""Reads the model catalog (YAML) and says which of its models a node is asked to hold. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, get_type_hints

import msgspec

from agent.model.catalog import ENGINES, Catalog, CatalogModel, CatalogRefusal, derived_name, is_repository, is_revision
from agent.model.labels import MODEL_SET
from agent.model.text import Marked, NotYamlError, Path, field_of, read_marked

T = TypeVar("T")

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKEN_NAME = re.compile(r"[\w-][\w.-]*", re.ASCII)
_LEAST_FOLLOW_SECONDS = 60
_PLAIN_WORDS = {
    "`array`": "a list",
    "`int`": "a whole number",
    "`str`": "text",
    "`object`": "a mapping",
    "`bool`": "true or false",
}


class _Entry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    repository: str
    name: str | None = None
    revision: str = "main"
    allow_patterns: tuple[str, ...] | None = None
    ignore_patterns: tuple[str, ...] | None = None
    priority: int = 0
    endpoint: str | None = None
    bytes_per_second: int | None = None
    pin: bool = False
    follow_seconds: int | None = None
    nodes: dict[str, str] = {}
    token: str | None = None
    engine: str | None = None
    gate: bool = False
    page_cache: bool = False


_TYPES: dict[str, Any] = get_type_hints(_Entry)
_SECTIONS = ("models", "sets")


def read_catalog(text: str) -> Catalog | CatalogRefusal:
    """The catalog, or every mistake in it: each names the field, its value and what would be right. An empty file has no
    models."""
    try:
        marked = read_marked(text)
    except NotYamlError as error:
        return CatalogRefusal.of((error.mistake,))
    reader = _Reader(marked)
    catalog = reader.catalog()
    return CatalogRefusal.of(tuple(sorted(reader.mistakes))) if reader.mistakes else catalog


def wanted_models(catalog: Catalog, node_labels: Mapping[str, str]) -> tuple[CatalogModel, ...] | CatalogRefusal:
    """All models, or those of the set that the node's label names, that may be on a node with these labels; highest priority
    first, then by name."""
    chosen = node_labels.get(MODEL_SET)
    if chosen is not None and chosen not in catalog.sets:
        known = ", ".join(sorted(catalog.sets)) or "none"
        return CatalogRefusal(
            f"label {MODEL_SET} is {chosen!r}, a model set that the catalog does not have (it has: {known})"
        )
    names = catalog.models.keys() if chosen is None else catalog.sets[chosen]
    here = [
        m
        for m in map(catalog.models.__getitem__, names)
        if all(node_labels.get(key) == value for key, value in m.nodes)
    ]
    return tuple(sorted(here, key=lambda m: (-m.priority, m.name)))


class _Reader:
    """Walks the document and collects what is wrong with it. What it returns counts only where nothing is."""

    def __init__(self, marked: Marked) -> None:
        self._marked = marked
        self.mistakes = list(marked.repeated)
        self._names: set[str] = set()

    def catalog(self) -> Catalog:
        document = self._marked.value if self._marked.value is not None else {}
        if not isinstance(document, dict):
            self._wrong((), f"the document is {document!r}, expected a mapping with `models` and `sets`")
            return Catalog({}, {})
        self._known((), document, _SECTIONS)
        models: dict[str, CatalogModel] = {}
        for index, entry in enumerate(self._section(document, "models", list, "a list")):
            path = ("models", index)
            model = self._model(path, entry)
            if model is not None and model.name in models:
                self._wrong(
                    (*path, "name"),
                    f"{field_of(path)}.name is {model.name!r}, which an earlier model has: give it another",
                )
            elif model is not None:
                models[model.name] = model
        listed = self._section(document, "sets", dict, "a mapping")
        return Catalog(models, {str(name): self._set(name, members) for name, members in listed.items()})

    def _section(self, document: Mapping[Any, Any], name: str, kind: type[T], called: str) -> T:
        found = document.get(name, kind())
        if not isinstance(found, kind):
            self._wrong((name,), f"{name} is {found!r}: expected {called}")
            return kind()
        return found

    def _model(self, path: Path, raw: object) -> CatalogModel | None:
        if not isinstance(raw, dict):
            self._wrong(path, f"{field_of(path)} is {raw!r}: expected a mapping with `repository`")
            return None
        self._names.add(str(raw.get("name", derived_name(str(raw.get("repository", ""))))))
        before = len(self.mistakes)
        self._known(path, raw, tuple(_TYPES))
        if "repository" not in raw:
            self._wrong(path, f"{field_of(path)}.repository is missing: give it as org/name")
        values = {name: self._typed((*path, name), raw[name], _TYPES[name]) for name in _TYPES if name in raw}
        if len(self.mistakes) > before:
            return None
        entry = _Entry(**values)
        for name, sentence in _wrong_values(entry):
            self._wrong((*path, name), f"{field_of((*path, name))} {sentence}")
        if len(self.mistakes) > before:
            return None
        name = entry.name if entry.name is not None else derived_name(entry.repository)
        fields = {field: getattr(entry, field) for field in _TYPES if field not in {"name", "nodes"}}
        return CatalogModel(name=name, nodes=tuple(sorted(entry.nodes.items())), **fields)

    def _typed(self, path: Path, value: object, kind: Any) -> Any:
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError as error:
            what = str(error).partition(" - at ")[0]
            for technical, plain in _PLAIN_WORDS.items():
                what = what.replace(technical, plain)
            self._wrong(path, f"{field_of(path)} is {value!r}: {what[0].lower() + what[1:]}")
            return None

    def _set(self, name: object, members: object) -> frozenset[str]:
        """Names of models that have mistakes of their own count as known."""
        path = ("sets", name)
        if not isinstance(members, list):
            self._wrong(path, f"{field_of(path)} is {members!r}, expected a list of names of models")
            return frozenset()
        for index, member in enumerate(members):
            if not isinstance(member, str) or member not in self._names:
                known = ", ".join(sorted(self._names)) or "none"
                where = (*path, index)
                self._wrong(where, f"{field_of(where)} is {member!r}, expected the name of a model (known: {known})")
        return frozenset(str(member) for member in members)

    def _known(self, path: Path, raw: Mapping[Any, Any], names: Sequence[str]) -> None:
        for key in raw:
            if key not in names:
                where = field_of(path) or "the document"
                sentence = f"{where}: unknown field `{key}` (known: {', '.join(names)})"
                self._wrong((*path, key), sentence, key=True)

    def _wrong(self, path: Path, sentence: str, key: bool = False) -> None:
        self.mistakes.append(self._marked.mistake(path, sentence, key))


def _wrong_values(entry: _Entry) -> Iterator[tuple[str, str]]:
    """(field, what is wrong with its value) of an entry whose types are right."""
    if not is_repository(entry.repository):
        right = "expected org/name as the hub writes it (letters, digits, `-`, `_`, `.`)"
        yield "repository", f"is {entry.repository!r}, {right}"
    elif entry.name is None and not derived_name(entry.repository):
        yield "name", f"is missing, and none can be made from {entry.repository!r}: give it one"
    if entry.name is not None and not _NAME.fullmatch(entry.name):
        right = "expected at most 63 letters, digits, `-`, `_`, `.`, with a letter or digit at both ends"
        yield "name", f"is {entry.name!r}, {right}"
    if not is_revision(entry.revision):
        yield "revision", f"is {entry.revision!r}, expected a branch, a tag or a commit id"
    if entry.endpoint is not None and not re.match(r"https?://[^/\s]+|file:///", entry.endpoint):
        yield "endpoint", f"is {entry.endpoint!r}, expected a URL such as https://hub.example.com, or file:///mnt/hub"
    if entry.follow_seconds is not None and entry.follow_seconds < _LEAST_FOLLOW_SECONDS:
        right = f"expected {_LEAST_FOLLOW_SECONDS} or more, or none to stay at the commit that is here"
        yield "follow_seconds", f"is {entry.follow_seconds}, {right}"
    if entry.follow_seconds is not None and _COMMIT.fullmatch(entry.revision):
        yield "follow_seconds", f"is {entry.follow_seconds}, but revision {entry.revision} is a commit: name a branch"
    if entry.token is not None and not _TOKEN_NAME.fullmatch(entry.token):
        yield "token", f"is {entry.token!r}, expected the name of a file in hub_tokens_directory"
    if entry.engine is not None and entry.engine not in ENGINES:
        yield "engine", f"is {entry.engine!r}, expected one of {', '.join(ENGINES)}"
    if entry.bytes_per_second is not None and entry.bytes_per_second < 1:
        yield "bytes_per_second", f"is {entry.bytes_per_second}, expected 1 or more, or none for no limit"
