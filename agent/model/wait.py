"""How long the other side of an HTTP answer asks us to wait."""

from __future__ import annotations

import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Protocol

_SPENT = re.compile(r";\s*r=0\s*;\s*t=(\d{1,9})")


class Headers(Protocol):
    """Those of an answer, found by their names in any case."""

    def get(self, name: str, default: str, /) -> str: ...


def wait_asked(headers: Headers, now: float) -> float | None:
    """Seconds, or None where nothing is asked. ``now`` is seconds since the epoch.

    Retry-After (RFC 9110, 10.2.3) is seconds or a date. Where it is missing, RateLimit (IETF draft, sent by the Hugging Face
    hub) says of each quota what is left (``r``) and when it is filled again (``t``): the longest of those that are spent.
    """
    after = headers.get("Retry-After", "").strip()
    if after.isascii() and after.isdigit():
        return float(after)
    try:
        date = parsedate_to_datetime(after)
    except ValueError:
        spent = _SPENT.findall(headers.get("RateLimit", ""))
        return float(max(map(int, spent))) if spent else None
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now)
