"""What the API server refuses, as exceptions that carry the HTTP code and a ``Status`` body."""

from __future__ import annotations

from collections.abc import Sequence

from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object

REASON_OF_CODE = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    406: "NotAcceptable",
    409: "Conflict",
    410: "Expired",
    415: "UnsupportedMediaType",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
}


class ApiError(Exception):
    """A request answered with a ``Status`` of ``Failure``; ``details`` as in ``metav1.StatusDetails``."""

    def __init__(self, code: int, message: str, *, reason: str | None = None, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = REASON_OF_CODE.get(code, "") if reason is None else reason
        self.details = details or {}

    @property
    def retry_after_seconds(self) -> int | None:
        seconds = self.details.get("retryAfterSeconds")
        return int(seconds) if seconds else None

    def status(self) -> Object:
        body: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body |= {"message": self.message, "code": self.code}
        if self.reason:
            body["reason"] = self.reason
        if self.details:
            body["details"] = self.details
        return body


def _named(kind: Kind, name: str) -> Object:
    details: Object = {"name": name, "kind": kind.plural}
    if kind.group:
        details["group"] = kind.group
    return details


def _qualified(kind: Kind) -> str:
    return f"{kind.plural}.{kind.group}" if kind.group else kind.plural


def not_found(kind: Kind, name: str) -> ApiError:
    return ApiError(404, f'{_qualified(kind)} "{name}" not found', details=_named(kind, name))


def already_exists(kind: Kind, name: str) -> ApiError:
    message = f'{_qualified(kind)} "{name}" already exists'
    return ApiError(409, message, reason="AlreadyExists", details=_named(kind, name))


def conflict(kind: Kind, name: str, why: str) -> ApiError:
    message = f'Operation cannot be fulfilled on {_qualified(kind)} "{name}": {why}'
    return ApiError(409, message, details=_named(kind, name))


def stale(kind: Kind, name: str) -> ApiError:
    why = "the object has been modified; please apply your changes to the latest version and try again"
    return conflict(kind, name, why)


def invalid(kind: Kind, name: str, causes: Sequence[tuple[str, str]]) -> ApiError:
    """422; each cause is (field path, what is wrong with it)."""
    text = ", ".join(f"{field}: {message}" for field, message in causes)
    details = _named(kind, name) | {
        "causes": [{"reason": "FieldValueInvalid", "message": message, "field": field} for field, message in causes]
    }
    details["kind"] = kind.name
    return ApiError(422, f'{_kind_name(kind)} "{name}" is invalid: {text}', details=details)


def _kind_name(kind: Kind) -> str:
    return f"{kind.name}.{kind.group}" if kind.group else kind.name


def unprocessable(message: str) -> ApiError:
    """422 for a JSON patch that does not apply."""
    return ApiError(422, message, reason="Invalid")


def bad_request(message: str) -> ApiError:
    return ApiError(400, message)


def forbidden(kind: Kind, name: str, why: str, causes: Sequence[Object] = ()) -> ApiError:
    details = _named(kind, name)
    if causes:
        details["causes"] = list(causes)
    return ApiError(403, f'{_qualified(kind)} "{name}" is forbidden: {why}', details=details)


def expired(message: str) -> ApiError:
    return ApiError(410, message)


def method_not_allowed() -> ApiError:
    return ApiError(405, "the server does not allow this method on the requested resource")


def unknown_path() -> ApiError:
    return ApiError(404, "the server could not find the requested resource", details={})


def unsupported_media_type(given: str, known: Sequence[str]) -> ApiError:
    message = f"the body of the request was in an unknown format - accepted media types include: {', '.join(known)}"
    return ApiError(415, f"{message} (got {given or 'none'})")
