"""Faults by request: the next requests that match are answered as told instead of truly."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from hack.devcluster.objects import Object


@dataclass(slots=True)
class Fault:
    """``method``, ``path`` and ``user_agent`` are regular expressions, searched in the verb (GET, ...), in the path with its
    query, and in what the client calls itself.

    ``skip`` requests pass before ``count`` are hit (None: all). What happens: wait ``delay_s``; then ``reset`` cuts the
    connection without an answer, ``stall`` never answers, and ``..._after_lines`` let a watch send that many lines, then
    half of the next and a reset (``cut``), silence for ever (``stall``), or an ERROR event of ``code`` inside the 200
    (``error``, 410 unless told); or else ``code`` with ``body`` is sent (with no body, a Status). With none of them the
    request goes on as usual after the delay.
    """

    method: str = ""
    path: str = ""
    user_agent: str = ""
    code: int = 0
    body: str = ""
    content_type: str = "application/json"
    retry_after: int | None = None
    reset: bool = False
    stall: bool = False
    cut_after_lines: int | None = None
    stall_after_lines: int | None = None
    error_after_lines: int | None = None
    delay_s: float = 0.0
    skip: int = 0
    count: int | None = 1
    hits: int = field(default=0, init=False)

    @classmethod
    def from_json(cls, spec: Object) -> Fault:
        """Raises TypeError for an unknown field."""
        return cls(**spec)

    def to_json(self) -> Object:
        return {name: getattr(self, name) for name in self.__slots__}

    @property
    def after_lines(self) -> int | None:
        """When it strikes a watch; None for a fault that strikes before any answer."""
        chosen = (self.cut_after_lines, self.stall_after_lines, self.error_after_lines)
        return next((lines for lines in chosen if lines is not None), None)

    def strikes(self, method: str, path: str, user_agent: str) -> bool:
        asked = ((self.method, method), (self.path, path), (self.user_agent, user_agent))
        if not all(re.search(pattern, text) for pattern, text in asked):
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.count is not None and self.hits >= self.count:
            return False
        self.hits += 1
        return True


def read_faults(path: Path) -> list[Fault]:
    """A YAML list of faults. Raises ValueError for what is none."""
    listed = yaml.safe_load(path.read_text("utf-8"))
    if not isinstance(listed, list):
        raise ValueError(f"{path}: a list of faults is expected")
    try:
        return [Fault.from_json(entry) for entry in listed]
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from error


class Faults:
    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._faults.append(fault)

    def clear(self) -> None:
        self._faults.clear()

    def all(self) -> list[Fault]:
        return list(self._faults)

    def striking(self, method: str, path: str, user_agent: str) -> Fault | None:
        return next((fault for fault in self._faults if fault.strikes(method, path, user_agent)), None)
