"""Reads the model catalog (YAML) and says which of its models a node is asked to hold. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from agent.model.catalog import Catalog, CatalogModel, CatalogRefusal, derived_name
from agent.model.errors import BadInputError
from agent.model.labels import MODEL_SET
from agent.model.text import read_yaml

_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
_REVISION = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)
_MISTAKE_PATH = re.compile(r"^(?P<what>.*?)(?: - at `\$(?P<path>.*)`)?$", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
_PLAIN_WORDS = {"`array`": "a list", "`int`": "a whole number", "`str`": "text", "`object`": "a mapping"}


class _Entry(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    repository: str
    name: str | None = None
    revision: str = "main"
    allow_patterns: tuple[str, ...] | None = None
    ignore_patterns: tuple[str, ...] | None = None
    priority: int = 0
    endpoint: str | None = None
    bytes_per_second: int | None = None


class _Document(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    models: tuple[_Entry, ...] = ()
    sets: dict[str, Any] = {}  # checked by hand: msgspec does not say under which key a mistake is


class _MistakeError(Exception):
    """A sentence about one field of the catalog."""


def read_catalog(text: str) -> Catalog | CatalogRefusal:
    """The catalog, or one sentence that names the field, its value and what would be right. An empty file has no
    models."""
    try:
        return _catalog(_document(text))
    except _MistakeError as mistake:
        return CatalogRefusal(f"model catalog: {mistake}")


def wanted_models(catalog: Catalog, node_labels: Mapping[str, str]) -> tuple[CatalogModel, ...] | CatalogRefusal:
    """All models, or those of the set that the node's label names; highest priority first, then by name."""
    chosen = node_labels.get(MODEL_SET)
    if chosen is not None and chosen not in catalog.sets:
        known = ", ".join(sorted(catalog.sets)) or "none"
        return CatalogRefusal(
            f"label {MODEL_SET} is {chosen!r}, a model set that the catalog does not have (it has: {known})"
        )
    names = catalog.models.keys() if chosen is None else catalog.sets[chosen]
    return tuple(sorted((catalog.models[name] for name in names), key=lambda m: (-m.priority, m.name)))


def _document(text: str) -> _Document:
    try:
        document = read_yaml(text)
    except BadInputError as error:
        raise _MistakeError(str(error)) from error
    if document is None:
        return _Document()
    if not isinstance(document, dict):
        raise _MistakeError(f"is {document!r}, expected a mapping with `models` and `sets`")
    try:
        return msgspec.convert(document, _Document)
    except msgspec.ValidationError as error:
        raise _MistakeError(_explained(str(error), document)) from error


def _explained(mistake: str, document: Any) -> str:
    """msgspec names the path and the type; a person also wants the value that stands there."""
    parts = _MISTAKE_PATH.match(mistake)
    assert parts is not None  # every part of the pattern is optional
    path, what, value = (parts["path"] or "").lstrip("."), parts["what"], document
    for key, index in _STEP.findall(parts["path"] or ""):
        value = value[key] if key else value[int(index)]
    for technical, plain in _PLAIN_WORDS.items():
        what = what.replace(technical, plain)
    if "unknown field" in what:
        known = _Entry.__struct_fields__ if path else _Document.__struct_fields__
        what = f"{what} (known: {', '.join(known)})"
    shown = "" if isinstance(value, dict | list) else f" is {value!r}"
    return f"{path or 'the document'}{shown}: {what[0].lower() + what[1:]}"


def _catalog(document: _Document) -> Catalog:
    models: dict[str, CatalogModel] = {}
    for index, entry in enumerate(document.models):
        model = _model(entry, f"models[{index}]")
        if model.name in models:
            raise _MistakeError(f"models[{index}].name is {model.name!r}, which an earlier model has: give it another")
        models[model.name] = model
    sets = {name: _set(name, members, models) for name, members in document.sets.items()}
    return Catalog(models, sets)


def _model(entry: _Entry, field: str) -> CatalogModel:
    _check_repository(entry.repository, f"{field}.repository")
    if not _REVISION.fullmatch(entry.revision) or ".." in entry.revision:
        raise _MistakeError(f"{field}.revision is {entry.revision!r}, expected a branch, a tag or a commit id")
    if entry.endpoint is not None and not re.match(r"https?://[^/\s]+", entry.endpoint):
        raise _MistakeError(f"{field}.endpoint is {entry.endpoint!r}, expected a URL such as https://hub.example.com")
    if entry.bytes_per_second is not None and entry.bytes_per_second < 1:
        raise _MistakeError(
            f"{field}.bytes_per_second is {entry.bytes_per_second}, expected 1 or more, or none for no limit"
        )
    return CatalogModel(
        name=_name(entry, field),
        repository=entry.repository,
        revision=entry.revision,
        allow_patterns=entry.allow_patterns,
        ignore_patterns=entry.ignore_patterns,
        priority=entry.priority,
        endpoint=entry.endpoint,
        bytes_per_second=entry.bytes_per_second,
    )


def _check_repository(repository: str, field: str) -> None:
    parts = repository.split("/")
    odd = any(part != part.strip("-.") or "--" in part or ".." in part for part in parts)
    if odd or not _REPOSITORY.fullmatch(repository):
        raise _MistakeError(
            f"{field} is {repository!r}, expected org/name as the hub writes it (letters, digits, `-`, `_`, `.`)"
        )


def _name(entry: _Entry, field: str) -> str:
    if entry.name is None:
        name = derived_name(entry.repository)
        if not name:
            raise _MistakeError(f"{field}.name is missing, and none can be made from {entry.repository!r}: give it one")
        return name
    if not _NAME.fullmatch(entry.name):
        raise _MistakeError(
            f"{field}.name is {entry.name!r}, expected at most 63 letters, digits, `-`, `_`, `.`, "
            "with a letter or digit at both ends"
        )
    return entry.name


def _set(name: str, members: Any, models: Mapping[str, CatalogModel]) -> frozenset[str]:
    if not isinstance(members, list):
        raise _MistakeError(f"sets.{name} is {members!r}, expected a list of names of models")
    for index, member in enumerate(members):
        if not isinstance(member, str) or member not in models:
            known = ", ".join(sorted(models)) or "none"
            raise _MistakeError(f"sets.{name}[{index}] is {member!r}, expected the name of a model (known: {known})")
    return frozenset(members)
