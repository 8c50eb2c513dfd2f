"""Faults a test or a demonstration can ask for, matched to requests by a pattern; and what was served."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class FaultKind(StrEnum):
    STATUS = "status"  # answer with `status`, and Retry-After where given
    WRONG_BYTES = "wrong-bytes"  # right length, one byte wrong
    TRUNCATE = "truncate"  # close after `after_bytes` of the body, as an orderly end
    RESET = "reset"  # TCP reset after `after_bytes` of the body
    IGNORE_RANGES = "ignore-ranges"  # 200 with the whole body
    STALL = "stall"  # send nothing more after `after_bytes` of the body
    SLOW = "slow"  # `bytes_per_second` per connection


@dataclass(slots=True)
class Fault:
    """One fault for the next ``times`` requests (None: all) whose ``METHOD origin/path?query`` matches ``pattern``."""

    pattern: re.Pattern[str]
    kind: FaultKind
    times: int | None = None
    status: int = 503
    retry_after_seconds: int | None = None
    after_bytes: int = 0
    bytes_per_second: int = 1024 * 1024

    @staticmethod
    def from_json(document: dict[str, Any]) -> Fault:
        """``{"pattern": "GET cdn/.*safetensors", "kind": "truncate", "times": 2, "after_bytes": 1000}``"""
        fields = dict(document)
        pattern = re.compile(fields.pop("pattern"))
        return Fault(pattern=pattern, kind=FaultKind(fields.pop("kind")), **fields)


@dataclass(slots=True)
class Faults:
    planned: list[Fault] = field(default_factory=list)

    def add(self, pattern: str, kind: str, **fields: Any) -> None:
        self.planned.append(Fault.from_json({"pattern": pattern, "kind": kind, **fields}))

    def clear(self) -> None:
        self.planned.clear()

    def take(self, request_line: str) -> Fault | None:
        """The first fault that matches, used up once."""
        for fault in self.planned:
            if fault.times == 0 or not fault.pattern.search(request_line):
                continue
            if fault.times is not None:
                fault.times -= 1
            return fault
        return None


@dataclass(slots=True)
class Counters:
    """What was asked and sent since the start (or the last reset)."""

    requests: Counter[str] = field(default_factory=Counter)
    request_lines: list[str] = field(default_factory=list)
    body_bytes: int = 0
    authorized_cdn_requests: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "requests": dict(self.requests),
            "body_bytes": self.body_bytes,
            "authorized_cdn_requests": self.authorized_cdn_requests,
        }

    def reset(self) -> None:
        self.requests.clear()
        self.request_lines.clear()
        self.body_bytes = 0
        self.authorized_cdn_requests = 0
