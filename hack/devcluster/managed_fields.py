"""Server-side apply and the ``managedFields`` that every write leaves behind.

Types are known by the names of fields (``patch.py``), not from a schema: where a merge key differs between the two
kinds of patch in a real server (a container's ports go by port *and* protocol), the one of strategic merge holds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import yaml

from hack.devcluster.errors import ApiError, bad_request
from hack.devcluster.field_sets import Fields, Path, dotted, fields_of, from_fields_v1, remove_path, to_fields_v1
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object, clone, dig, now
from hack.devcluster.patch import strategic_merge

_ABSENT = object()


@dataclass(frozen=True, slots=True)
class Manager:
    """One entry: who, how (Apply or Update) and through which subresource, and the paths they own."""

    name: str
    operation: str
    subresource: str
    api_version: str
    time: str
    paths: frozenset[Path]

    def is_same(self, other: Manager) -> bool:
        mine = (self.name, self.operation, self.subresource)
        return mine == (other.name, other.operation, other.subresource)

    def without(self, paths: set[Path]) -> Manager:
        left = self.paths - paths
        return self if len(left) == len(self.paths) else replace(self, paths=left)

    def to_json(self) -> Object:
        entry = {
            "manager": self.name,
            "operation": self.operation,
            "apiVersion": self.api_version,
            "time": self.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields_v1(set(self.paths)),
        }
        return entry | ({"subresource": self.subresource} if self.subresource else {})


def managers_of(obj: Object) -> list[Manager]:
    return [
        Manager(
            str(entry.get("manager", "")),
            str(entry.get("operation", "")),
            str(entry.get("subresource", "")),
            str(entry.get("apiVersion", "")),
            str(entry.get("time", "")),
            frozenset(from_fields_v1(entry.get("fieldsV1") or {})),
        )
        for entry in dig(obj, "metadata.managedFields") or []
        if entry
    ]


def with_managers(obj: Object, managers: list[Manager]) -> Object:
    """A copy of the outer layers; entries that own nothing any more are left out."""
    kept = [manager.to_json() for manager in managers if manager.paths]
    metadata = {key: value for key, value in obj["metadata"].items() if key != "managedFields"}
    return {**obj, "metadata": metadata | ({"managedFields": kept} if kept else {})}


def after_update(kind: Kind, old: Object | None, new: Object, manager: str, subresource: str) -> Object:
    """``new`` with the ownership that a create, update or patch by ``manager`` leaves: what changed is now theirs."""
    before, after = fields_of(old) if old else {}, fields_of(new)
    changed = {path for path, value in after.items() if before.get(path, _ABSENT) != value}
    gone = before.keys() - after.keys()
    mine = Manager(manager, "Update", subresource, kind.api_version, now(), frozenset(changed))
    others = [entry.without(changed | gone) if not entry.is_same(mine) else entry for entry in managers_of(new)]
    return with_managers(new, _with(others, mine, gone))


def _with(managers: list[Manager], mine: Manager, gone: set[Path]) -> list[Manager]:
    """An entry's time moves only when what it owns does."""
    had = next((entry for entry in managers if entry.is_same(mine)), None)
    if had is None:
        return [*managers, mine]
    paths = (had.paths | mine.paths) - gone
    joined = replace(mine, paths=paths) if mine.paths or paths != had.paths else had
    return [joined if entry is had else entry for entry in managers]


@dataclass(frozen=True, slots=True)
class Application:
    """What one manager wants of an object, and whether it takes what others own."""

    wanted: Object
    manager: str
    force: bool
    subresource: str = ""


def apply(kind: Kind, live: Object | None, application: Application) -> Object:
    """The object after it. Raises 409 with a cause for each field of somebody else's that would change, and 400."""
    wanted = application.wanted
    if not application.manager:
        raise bad_request(
            "PatchOptions.meta.k8s.io is invalid: fieldManager: Required value: is required for apply patch"
        )
    if dig(wanted, "metadata.managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    fields = fields_of(wanted)
    mine = Manager(application.manager, "Apply", application.subresource, kind.api_version, now(), frozenset(fields))
    managers = managers_of(live) if live else []
    others = [entry for entry in managers if not entry.is_same(mine)]
    taken = _conflicts(fields_of(live) if live else {}, fields, others)
    if taken and not application.force:
        raise _conflict(kind, taken)
    lost = {path for _, path in taken}
    others = [entry.without(lost) for entry in others]
    had = next((entry for entry in managers if entry.is_same(mine)), None)
    merged = _merged(live, wanted)
    for path in _dropped(had, mine, others):
        remove_path(merged, path)
    if had is not None and had.paths == mine.paths and _same_values(live, merged):
        mine = had
    return with_managers(merged, [*others, mine])


def _merged(live: Object | None, wanted: Object) -> Object:
    metadata = {key: value for key, value in (wanted.get("metadata") or {}).items() if key != "managedFields"}
    return strategic_merge(clone(live or {}), {**clone(wanted), "metadata": clone(metadata)})


def _same_values(live: Object | None, merged: Object) -> bool:
    return live is not None and fields_of(live) == fields_of(merged)


def _dropped(had: Manager | None, mine: Manager, others: list[Manager]) -> list[Path]:
    """What this manager owned, applies no more, and nobody else owns; elements before what is in them. An element
    of a list goes whole only when nobody owns anything in it."""
    if had is None:
        return []
    owned: set[Path] = set().union(*(entry.paths for entry in others))
    gone = had.paths - mine.paths - owned
    return sorted(path for path in gone if not any(other[: len(path)] == path for other in owned | mine.paths))


def _conflicts(live: Fields, fields: Fields, others: list[Manager]) -> list[tuple[Manager, Path]]:
    differing = {path for path, value in fields.items() if live.get(path, _ABSENT) != value}
    return [(entry, path) for entry in others for path in sorted(entry.paths & differing)]


def _conflict(kind: Kind, taken: list[tuple[Manager, Path]]) -> ApiError:
    causes: list[Object] = []
    for entry, path in taken:
        how = f" with subresource {entry.subresource!r}" if entry.subresource else ""
        by = f'conflict with "{entry.name}"{how} using {entry.api_version or kind.api_version}'
        causes.append({"reason": "FieldManagerConflict", "message": by, "field": dotted(path)})
    lines = [f"{cause['message']}: {cause['field']}" for cause in causes]
    number = f"{len(lines)} conflict{'s' if len(lines) > 1 else ''}"
    listed = lines[0] if len(lines) == 1 else "\n- ".join(["", *lines])
    return ApiError(409, f"Apply failed with {number}: {listed}", details={"causes": causes})


def parsed_apply(raw: bytes) -> Any:
    """An apply patch is YAML, of which JSON is a part. Raises ApiError 400."""
    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise bad_request(f"error decoding YAML: {error}") from error
