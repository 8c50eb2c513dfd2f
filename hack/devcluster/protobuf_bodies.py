"""Request bodies in Kubernetes' protobuf encoding, as far as kubectl sends them.

kubectl's typed clients (drain, create namespace, ...) send protobuf and do not fall back to JSON. A body is the
magic ``k8s\\0`` and a ``runtime.Unknown`` (1: type meta, 2: the raw message). Field numbers are those of the
``generated.proto`` files of k8s.io/api and k8s.io/apimachinery.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, field

from hack.devcluster.errors import bad_request, unsupported_media_type
from hack.devcluster.objects import Object

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"

Value = int | bytes


@dataclass(frozen=True, slots=True)
class Field:
    """``form`` is text, bytes, int, bool, message, text_map or bytes_map; ``of`` is a message's own fields."""

    name: str
    form: str = "text"
    repeated: bool = False
    of: Message = field(default_factory=dict)


Message = dict[int, Field]

_OWNER: Message = {
    1: Field("kind"), 3: Field("name"), 4: Field("uid"), 5: Field("apiVersion"),
    6: Field("controller", "bool"), 7: Field("blockOwnerDeletion", "bool"),
}  # fmt: skip
_METADATA: Message = {
    1: Field("name"), 2: Field("generateName"), 3: Field("namespace"), 5: Field("uid"), 6: Field("resourceVersion"),
    11: Field("labels", "text_map"), 12: Field("annotations", "text_map"),
    13: Field("ownerReferences", "message", repeated=True, of=_OWNER), 14: Field("finalizers", repeated=True),
}  # fmt: skip
_META = Field("metadata", "message", of=_METADATA)
_PRECONDITIONS: Message = {1: Field("uid"), 2: Field("resourceVersion")}
_DELETE_OPTIONS: Message = {
    1: Field("gracePeriodSeconds", "int"), 2: Field("preconditions", "message", of=_PRECONDITIONS),
    3: Field("orphanDependents", "bool"), 4: Field("propagationPolicy"), 5: Field("dryRun", repeated=True),
}  # fmt: skip
_RESOURCE_ATTRIBUTES: Message = {
    1: Field("namespace"), 2: Field("verb"), 3: Field("group"), 4: Field("version"), 5: Field("resource"),
    6: Field("subresource"), 7: Field("name"),
}  # fmt: skip
_ACCESS_SPEC: Message = {
    1: Field("resourceAttributes", "message", of=_RESOURCE_ATTRIBUTES),
    2: Field("nonResourceAttributes", "message", of={1: Field("path"), 2: Field("verb")}),
}
_BOUND_OBJECT: Message = {1: Field("kind"), 2: Field("apiVersion"), 3: Field("name"), 4: Field("uid")}
_TOKEN_SPEC: Message = {
    1: Field("audiences", repeated=True), 3: Field("boundObjectRef", "message", of=_BOUND_OBJECT),
    4: Field("expirationSeconds", "int"),
}  # fmt: skip
_MESSAGES: dict[str, Message] = {
    "SelfSubjectAccessReview": {1: _META, 2: Field("spec", "message", of=_ACCESS_SPEC)},
    "SelfSubjectRulesReview": {1: _META, 2: Field("spec", "message", of={1: Field("namespace")})},
    "SelfSubjectReview": {1: _META},
    "TokenRequest": {1: _META, 2: Field("spec", "message", of=_TOKEN_SPEC)},
    "DeleteOptions": _DELETE_OPTIONS,
    "Eviction": {1: _META, 2: Field("deleteOptions", "message", of=_DELETE_OPTIONS)},
    "Namespace": {1: _META},
    "ServiceAccount": {1: _META},
    "ConfigMap": {1: _META, 2: Field("data", "text_map"), 3: Field("binaryData", "bytes_map")},
    "Secret": {1: _META, 2: Field("data", "bytes_map"), 3: Field("type"), 4: Field("stringData", "text_map")},
}
_UNKNOWN: Message = {
    1: Field("typeMeta", "message", of={1: Field("apiVersion"), 2: Field("kind")}),
    2: Field("raw", "bytes"),
}


def decode(body: bytes) -> Object:
    """The object as JSON would give it. Raises ApiError 400 (not this encoding) or 415 (a kind not listed above)."""
    if not body.startswith(_MAGIC):
        raise bad_request("the body does not begin as Kubernetes protobuf does")
    try:
        envelope = _decode_message(_UNKNOWN, body[len(_MAGIC) :])
        type_meta: Object = envelope.get("typeMeta", {})
        message = _MESSAGES.get(type_meta.get("kind", ""))
        if message is None:
            raise unsupported_media_type(f"{MEDIA_TYPE} of {type_meta.get('kind')}", ["application/json"])
        return {**type_meta, **_decode_message(message, envelope.get("raw", b""))}
    except (IndexError, UnicodeDecodeError) as error:
        raise bad_request(f"the protobuf body is broken: {error}") from error


def _decode_message(message: Message, raw: bytes) -> Object:
    """Fields that are not listed are passed over, and so are empty ones, which this encoding writes out."""
    result: Object = {}
    for number, value in _fields(raw):
        known = message.get(number)
        if known is None or value == b"":
            continue
        if known.form in ("text_map", "bytes_map"):
            key, item = _map_entry(known.form, value)
            result.setdefault(known.name, {})[key] = item
        elif known.repeated:
            result.setdefault(known.name, []).append(_decode_value(known, value))
        else:
            result[known.name] = _decode_value(known, value)
    return result


def _decode_value(known: Field, value: Value) -> object:
    if isinstance(value, int):
        return bool(value) if known.form == "bool" else value
    match known.form:
        case "message":
            return _decode_message(known.of, value)
        case "bytes":
            return value
        case _:
            return value.decode()


def _map_entry(form: str, value: Value) -> tuple[str, str]:
    parts = dict(_fields(value if isinstance(value, bytes) else b""))
    key, item = parts.get(1, b""), parts.get(2, b"")
    if isinstance(key, int) or isinstance(item, int):
        raise bad_request("a map entry of the protobuf body is broken")
    return key.decode(), base64.b64encode(item).decode() if form == "bytes_map" else item.decode()


def _fields(raw: bytes) -> Iterator[tuple[int, Value]]:
    position = 0
    while position < len(raw):
        tag, position = _varint(raw, position)
        match tag & 7:
            case 0:
                value, position = _varint(raw, position)
                yield tag >> 3, value
            case 2:
                length, position = _varint(raw, position)
                yield tag >> 3, raw[position : position + length]
                position += length
            case 1:
                position += 8
            case 5:
                position += 4
            case other:
                raise bad_request(f"unknown wire type {other} in the protobuf body")


def _varint(raw: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
