"""OpenAPI v3 of the served kinds, for ``kubectl explain`` and ``kubectl apply``.

The schemas come from the models of the official Python client (whose generator read them from Kubernetes' own
document); merge keys, which those models do not carry, from ``patch.py``. Component names are the models' own.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Union, get_args, get_origin

from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object
from hack.devcluster.patch import list_key_of

_PLAIN: dict[Any, Object] = {
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer", "format": "int64"},
    float: {"type": "number", "format": "double"},
    bytes: {"type": "string", "format": "byte"},
    datetime: {"type": "string", "format": "date-time"},
}
_SCHEMAS = "#/components/schemas/"


@lru_cache(maxsize=64)
def components(kinds: tuple[Kind, ...]) -> Object:
    """``components`` of one group version's document. Slow at first (the client's models are many)."""
    schemas: Object = {}
    for kind in kinds:
        model = _model_of(kind)
        if model is not None:
            _add(schemas, model)
            named = {"group": kind.group, "version": kind.version, "kind": kind.name}
            schemas[model.__name__]["x-kubernetes-group-version-kind"] = [named]
    return {"schemas": schemas}


def _model_of(kind: Kind) -> Any:
    from kubernetes import client  # half a second: only for those who ask for schemas

    special = {("", "Event"): "CoreV1Event", ("events.k8s.io", "Event"): "EventsV1Event"}
    return getattr(client, special.get((kind.group, kind.name), f"V1{kind.name}"), None)


def _add(schemas: Object, model: Any) -> None:
    if model.__name__ in schemas:
        return
    schema: Object = {"type": "object", "properties": {}}
    schemas[model.__name__] = schema
    if model.__doc__:
        schema["description"] = model.__doc__
    for name, field in model.model_fields.items():
        wire_name = field.serialization_alias or field.alias or name
        schema["properties"][wire_name] = _property(schemas, wire_name, field)
    required = [
        field.serialization_alias or field.alias or name
        for name, field in model.model_fields.items()
        if field.is_required()
    ]
    if required:
        schema["required"] = required


def _property(schemas: Object, name: str, field: Any) -> Object:
    shape = _shape(schemas, field.annotation)
    described = {"description": field.description} if field.description else {}
    if "$ref" in shape:
        return {**described, "allOf": [shape], "default": {}}
    key = list_key_of(name) if shape.get("type") == "array" else ""
    strategy = {"x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": key} if key else {}
    return {**shape, **described, **strategy}


def _shape(schemas: Object, annotation: Any) -> Object:
    annotation = _without_wrapping(annotation)
    if annotation in _PLAIN:
        return dict(_PLAIN[annotation])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is list:
        return {"type": "array", "items": _shape(schemas, arguments[0])}
    if origin is dict:
        return {"type": "object", "additionalProperties": _shape(schemas, arguments[1])}
    if hasattr(annotation, "model_fields"):
        _add(schemas, annotation)
        return {"$ref": f"{_SCHEMAS}{annotation.__name__}"}
    return {"x-kubernetes-preserve-unknown-fields": True}


def _without_wrapping(annotation: Any) -> Any:
    """The one type inside Optional and Annotated."""
    while get_origin(annotation) in (Union, types.UnionType, Annotated):
        annotation = next(_candidates(annotation))
    return annotation


def _candidates(annotation: Any) -> Iterator[Any]:
    arguments = get_args(annotation)
    if get_origin(annotation) is Annotated:
        yield arguments[0]
    yield from (argument for argument in arguments if argument is not type(None))
