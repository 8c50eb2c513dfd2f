"""The door to what the kernel says of waiting (PSI, Linux 4.20 and later, and not on every kernel)."""

from __future__ import annotations

import re
from pathlib import Path

_SOME = re.compile(r"^some avg10=([0-9.]+)", re.MULTILINE)


def waiting_per_cent(file: Path) -> float:
    """Of the last ten seconds, how much somebody waited for what ``file`` is about; 0 where the kernel does not say."""
    try:
        match = _SOME.search(file.read_text("ascii"))
        return float(match[1]) if match is not None else 0.0
    except (OSError, ValueError):
        return 0.0
