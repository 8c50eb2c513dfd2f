"""Logs: one JSON object a line on standard error, with nothing in it that opens a door.

``log.info("step.done", extra={"step": "Destroy"})`` becomes
``{"ts": "2025-01-31T10:00:00.123Z", "level": "info", "logger": "agent.daemon", "event": "step.done", "step": "Destroy"}``.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from math import isfinite
from typing import Any, TextIO

_OURS = ("ts", "level", "logger", "event")
_BUILT_IN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_SECRET_KEYS = re.compile(r"authorization|token|password|secret|cookie", re.IGNORECASE)
_HIDDEN = "[redacted]"

# In this order: a signed URL goes first, because its query may hold what the later patterns would cut in half.
_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (
        re.compile(
            r"(https?://[^\s?\"']+)\?[^\s\"']*(?:signature|policy|credential|token|sig|key-pair-id)=[^\s\"']*",
            re.IGNORECASE,
        ),
        rf"\1?{_HIDDEN}",
    ),
    (re.compile(r"(https?://)[^\s/@\"']+@"), rf"\1{_HIDDEN}@"),
    (
        re.compile(r"(authorization[\"']?\s*[:=]\s*[\"']?)(?:(?:bearer|basic)\s+)?[^\s\"',}]+", re.IGNORECASE),
        rf"\1{_HIDDEN}",
    ),
    (re.compile(r"\b(bearer)\s+[A-Za-z0-9._~+/=-]{16,}", re.IGNORECASE), rf"\1 {_HIDDEN}"),
    (re.compile(r"\bhf_[A-Za-z0-9]{6,}"), f"hf_{_HIDDEN}"),
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+"), _HIDDEN),
)


def configure(level: str = "info", stream: TextIO | None = None) -> None:
    """Send all logging of this process to ``stream`` (standard error) as JSON. Calling it again replaces the handler.

    aiohttp and asyncio speak from warnings on: what they say below that is not about GPUs or models.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonLines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for noisy in ("aiohttp", "asyncio", "urllib3", "httpx", "filelock"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.captureWarnings(True)


class JsonLines(logging.Formatter):
    """One record as one line of JSON. Redaction is here, behind every filter and handler, so that nothing gets past it."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        for key, value in vars(record).items():
            if key not in _BUILT_IN:
                line[f"{key}_" if key in _OURS else key] = value
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(redacted(line), ensure_ascii=False, default=str)


def redacted(value: Any) -> Any:
    """The same value without credentials: tokens of the hub and of service accounts, Authorization headers, passwords in
    URLs, query strings of signed URLs. What is no plain data is taken as its text."""
    match value:
        case float():
            return value if isfinite(value) else str(value)
        case None | bool() | int():
            return value
        case str():
            return _without_secrets(value)
        case Mapping():
            return {str(key): _field(str(key), item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [redacted(item) for item in value]
        case _:
            return _without_secrets(str(value))


def _field(key: str, value: Any) -> Any:
    """A value whose name says that it is secret is hidden whatever it looks like; counts and flags are no secrets."""
    if isinstance(value, str) and _SECRET_KEYS.search(key) and not key.endswith(("_file", "_path")):
        return _HIDDEN
    return redacted(value)


def _without_secrets(text: str) -> str:
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text
