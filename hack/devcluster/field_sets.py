"""Which fields an object has, as ``managedFields`` names them: sets of paths, and their ``FieldsV1`` form.

A path is a tuple of FieldsV1 keys: ``f:name`` for a field, ``k:{"type":"Ready"}`` for an element of a keyed list,
``v:"x"`` for an element of a set; a list or map that is atomic, and every plain value, is a leaf.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from sys import intern
from typing import Any

from hack.devcluster.objects import Object
from hack.devcluster.patch import is_set, list_key

Path = tuple[str, ...]
Fields = dict[Path, Any]

_ATOMIC_MAPS = frozenset(
    {"nodeSelector", "selector", "labelSelector", "namespaceSelector", "fieldRef", "secretKeyRef", "configMapKeyRef",
     "resourceFieldRef", "roleRef", "fieldsV1", "scopeSelector"}
)  # fmt: skip
_SERVER_OWNED = frozenset(
    {"name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp", "deletionTimestamp",
     "deletionGracePeriodSeconds", "managedFields", "selfLink"}
)  # fmt: skip


def fields_of(obj: Object) -> Fields:
    """Every path somebody can own, with its value; an element of a keyed list has a path of its own (value None)."""
    found: Fields = {}
    for name, value in obj.items():
        if name in ("apiVersion", "kind"):
            continue
        if name == "metadata":
            value = {key: inner for key, inner in value.items() if key not in _SERVER_OWNED}
            if not value:
                continue
        _walk(name, value, (intern(f"f:{name}"),), found)
    return found


def _walk(field: str, value: Any, path: Path, found: Fields) -> None:
    if isinstance(value, dict) and value and field not in _ATOMIC_MAPS:
        for name, inner in value.items():
            _walk(name, inner, (*path, intern(f"f:{name}")), found)
    elif isinstance(value, list) and is_set(field):
        for item in value:
            found[(*path, f"v:{json.dumps(item)}")] = item
    elif isinstance(value, list) and value and (key := list_key(field, value)):
        for item in value:
            place = (*path, element_key(key, item))
            found[place] = None
            for name, inner in item.items():
                _walk(name, inner, (*place, intern(f"f:{name}")), found)
    else:
        found[path] = value


def element_key(key: str, item: Object) -> str:
    return intern(f"k:{json.dumps({key: item.get(key)}, separators=(',', ':'))}")


def to_fields_v1(paths: set[Path]) -> Object:
    tree: Object = {}
    for path in sorted(paths):
        here = tree
        for part in path:
            here = here.setdefault(part, {})
        if path[-1].startswith("k:"):
            here["."] = {}
    return tree


def from_fields_v1(tree: Object) -> set[Path]:
    """Inner nodes of maps are nobody's, with or without their ``.``."""
    return set(_paths(tree, ()))


def _paths(tree: Object, at: Path) -> Iterator[Path]:
    inner = {key: value for key, value in tree.items() if key != "."}
    if at and (not inner or ("." in tree and at[-1].startswith("k:"))):
        yield at
    for key, value in inner.items():
        yield from _paths(value, (*at, intern(key)))


def remove_path(obj: Any, path: Path) -> None:
    """In place; a path that is not there is passed over. Maps that become empty stay behind only at the top."""
    head, rest = path[0], path[1:]
    if head.startswith("f:"):
        _remove_field(obj, head[2:], rest)
    elif isinstance(obj, list):
        _remove_element(obj, head, rest)


def _remove_field(obj: Any, name: str, rest: Path) -> None:
    if not isinstance(obj, dict) or name not in obj:
        return
    if rest:
        remove_path(obj[name], rest)
    if not rest or obj[name] in ({}, []):
        del obj[name]


def _remove_element(items: list[Any], head: str, rest: Path) -> None:
    wanted = json.loads(head[2:])
    for position, item in enumerate(items):
        same = item == wanted if head.startswith("v:") else wanted.items() <= item.items()
        if same and rest:
            remove_path(item, rest)
        elif same:
            del items[position]
        if same:
            return


def dotted(path: Path) -> str:
    """As conflicts name it: ``.spec.template.spec.containers[name="main"].image``."""
    text = ""
    for part in path:
        if part.startswith("f:"):
            text += f".{part[2:]}"
        elif part.startswith("v:"):
            text += f"[={part[2:]}]"
        else:
            text += "[" + ",".join(f"{k}={json.dumps(v)}" for k, v in json.loads(part[2:]).items()) + "]"
    return text
