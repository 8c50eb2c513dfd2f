"""Faults a test or a demonstration can ask for, matched to requests by a pattern."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class FaultKind(StrEnum):
    """What goes wrong, by where it does."""

    # before the answer
    STATUS = "status"  # answer with `status`, with Retry-After, RateLimit and an HTML body where asked for
    NO_ANSWER = "no-answer"  # accept the request and never answer
    HANG_UP = "hang-up"  # TCP reset instead of an answer
    # redirects
    REDIRECT = "redirect"  # to `location`; without one to the address asked for: a loop
    EXPIRED_URL = "expired-url"  # the signed address that is given has ended already
    # ranges and names
    IGNORE_RANGES = "ignore-ranges"  # 200 with the whole body
    WRONG_RANGE = "wrong-range"  # 206 that says and sends the bytes one further than asked
    NEW_ETAG = "new-etag"  # the file was replaced: another ETag, to which no earlier If-Range belongs
    # the body
    WRONG_BYTES = "wrong-bytes"  # right length, the first byte wrong
    TRUNCATE = "truncate"  # close after `after_bytes` of the body, as an orderly end
    RESET = "reset"  # TCP reset after `after_bytes` of the body
    STALL = "stall"  # send nothing more after `after_bytes` of the body
    SLOW = "slow"  # `bytes_per_second` per connection


CUT_BODY = frozenset({FaultKind.TRUNCATE, FaultKind.RESET, FaultKind.STALL})


@dataclass(slots=True)
class Fault:
    """One fault for requests whose ``METHOD origin/path?query`` matches ``pattern``.

    The first ``skip`` that match pass unharmed, the next ``times`` (None: all) do not. ``struck`` counts those.
    ``rate_limit_seconds``: a status comes with a ``RateLimit`` that is spent for so long, as the public hub says it.
    """

    pattern: re.Pattern[str]
    kind: FaultKind
    times: int | None = None
    skip: int = 0
    status: int = 503
    retry_after_seconds: int | str | None = None
    rate_limit_seconds: int | None = None
    html: bool = False
    location: str | None = None
    after_bytes: int = 0
    bytes_per_second: int = 1024 * 1024
    struck: int = field(default=0, init=False)

    @staticmethod
    def from_json(document: dict[str, Any]) -> Fault:
        """``{"pattern": "GET cdn/.*safetensors", "kind": "truncate", "times": 2, "after_bytes": 1000}``

        Raises KeyError, ValueError, TypeError or re.error where the document is no fault.
        """
        fields = dict(document)
        pattern = re.compile(fields.pop("pattern"))
        return Fault(pattern=pattern, kind=FaultKind(fields.pop("kind")), **fields)

    def strikes(self, request_line: str) -> bool:
        """Whether it hits this request; counts it down if so."""
        if self.times == 0 or not self.pattern.search(request_line):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        self.struck += 1
        return True


@dataclass(slots=True)
class Faults:
    planned: list[Fault] = field(default_factory=list)

    def add(self, pattern: str, kind: str, **fields: Any) -> None:
        self.planned.append(Fault.from_json({"pattern": pattern, "kind": kind, **fields}))

    def clear(self) -> None:
        self.planned.clear()

    def take(self, request_line: str) -> Fault | None:
        """The first fault that strikes."""
        return next((fault for fault in self.planned if fault.strikes(request_line)), None)
