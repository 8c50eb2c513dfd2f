"""Request bodies in Kubernetes' protobuf encoding, as far as kubectl sends them.

kubectl's typed clients (drain, create role, ...) send protobuf and do not fall back to JSON. A body is the magic
``k8s\\0`` and a ``runtime.Unknown`` (1: type meta, 2: the raw message).
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

from hack.devcluster.errors import bad_request, unsupported_media_type
from hack.devcluster.objects import Object
from hack.devcluster.protobuf_messages import MESSAGES, Field, Message

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"

_MAGIC = b"k8s\x00"

Value = int | bytes

_MAPS = ("text_map", "bytes_map", "quantity_map")


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
        message = MESSAGES.get(type_meta.get("kind", ""))
        if message is None:
            raise unsupported_media_type(f"{MEDIA_TYPE} of {type_meta.get('kind')}", ["application/json"])
        return {**type_meta, **_decode_message(message, envelope.get("raw", b""))}
    except (IndexError, UnicodeDecodeError) as error:
        raise bad_request(f"the protobuf body is broken: {error}") from error


def _decode_message(message: Message, raw: bytes) -> Object:
    """Fields that are not listed are passed over, and so are single ones that are empty, which this encoding writes
    out; in a list an empty text is an element as any other (the core group of a rule)."""
    result: Object = {}
    for number, value in _fields(raw):
        known = message.get(number)
        if known is None or (_is_nothing(known, value) and not known.repeated):
            continue
        if known.form in _MAPS:
            key, item = _map_entry(known.form, value)
            result.setdefault(known.name, {})[key] = item
        elif known.repeated:
            result.setdefault(known.name, []).append(_decode_value(known, value))
        else:
            result[known.name] = _decode_value(known, value)
    return result


def _is_nothing(known: Field, value: Value) -> bool:
    return value == b"" or (value == 0 and known.form == "nonzero")


def _decode_value(known: Field, value: Value) -> object:
    if isinstance(value, int):
        return bool(value) if known.form == "bool" else _signed(value)
    match known.form:
        case "message":
            return _decode_message(known.of, value)
        case "int_or_text":
            return _int_or_text(value)
        case "bytes":
            return value
        case _:
            return value.decode()


def _signed(value: int) -> int:
    """Negative numbers travel as their 64-bit complement."""
    return value - (1 << 64) if value >> 63 else value


def _int_or_text(raw: bytes) -> int | str:
    """``intstr.IntOrString``: 1 says which (0 for the number), 2 is the number, 3 the text."""
    parts = dict(_fields(raw))
    number, text = parts.get(2, 0), parts.get(3, b"")
    if isinstance(number, bytes) or isinstance(text, int):
        raise bad_request("a number or text of the protobuf body is broken")
    return text.decode() if parts.get(1) else _signed(number)


def _map_entry(form: str, value: Value) -> tuple[str, str]:
    parts = dict(_fields(value if isinstance(value, bytes) else b""))
    key, item = parts.get(1, b""), parts.get(2, b"")
    if isinstance(key, int) or isinstance(item, int):
        raise bad_request("a map entry of the protobuf body is broken")
    match form:
        case "bytes_map":
            return key.decode(), base64.b64encode(item).decode()
        case "quantity_map":
            return key.decode(), _quantity(item)
        case _:
            return key.decode(), item.decode()


def _quantity(raw: bytes) -> str:
    """A message of one text."""
    text = dict(_fields(raw)).get(1, b"")
    return text.decode() if isinstance(text, bytes) else str(text)


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
