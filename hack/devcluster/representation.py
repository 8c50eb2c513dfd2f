"""The form of an answer, chosen by the Accept header: objects, rows for printing, or metadata alone."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from hack.devcluster import table
from hack.devcluster.errors import ApiError
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object


class Form(Enum):
    OBJECT = "object"
    TABLE = "Table"
    METADATA = "PartialObjectMetadata"


def accepted_form(accept: str) -> Form:
    """Raises ApiError 406 when none of the accepted types can be made (protobuf alone, for one)."""
    for entry in accept.split(",") if accept.strip() else ["*/*"]:
        media_type, *parameters = [part.strip() for part in entry.split(";")]
        if media_type not in ("application/json", "application/*", "*/*"):
            continue
        wanted = next((p.removeprefix("as=") for p in parameters if p.startswith("as=")), "")
        if not wanted:
            return Form.OBJECT
        if wanted == "Table" and "v=v1" in parameters:
            return Form.TABLE
        if wanted.startswith("PartialObjectMetadata") and "v=v1" in parameters:
            return Form.METADATA
    raise ApiError(406, "only the following media types are accepted: application/json")


def one(form: Form, kind: Kind, obj: Object, include: str) -> Object:
    """``include`` is the query parameter ``includeObject`` of tables."""
    match form:
        case Form.OBJECT:
            return obj
        case Form.TABLE:
            revision = obj["metadata"].get("resourceVersion", "")
            return table.table(kind, [obj], {"resourceVersion": revision}, include)
        case Form.METADATA:
            return _metadata_only(obj)


def many(form: Form, kind: Kind, objects: Sequence[Object], metadata: Object, include: str) -> Object:
    match form:
        case Form.OBJECT:
            return {
                "kind": f"{kind.name}List",
                "apiVersion": kind.api_version,
                "metadata": metadata,
                "items": list(objects),
            }
        case Form.TABLE:
            return table.table(kind, objects, metadata, include)
        case Form.METADATA:
            items = [_metadata_only(obj) for obj in objects]
            return {
                "kind": "PartialObjectMetadataList",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata,
                "items": items,
            }


def _metadata_only(obj: Object) -> Object:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}
