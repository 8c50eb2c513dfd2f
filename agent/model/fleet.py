"""The fleet's nouns: a node's slot, who leads, and what an administrator allows: how many nodes at once, and when."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from zoneinfo import ZoneInfo

import msgspec

from agent.model.catalog import CatalogModel
from agent.model.errors import BadInputError
from agent.model.wall import days_of, minutes_of, zone_of

LEADER = "warmslice-leader"
"""Name of the Lease of whoever grants."""
SLOT_PREFIX = "warmslice-slot-"
FETCH_PREFIX = "warmslice-fetch-"
WORD = "warmslice.dev/fleet"
"""Annotation of the leader's Lease: what it says to those who wait."""

_WINDOW = re.compile(
    r"(?:(?P<days>[A-Za-z,-]+) )?(?P<from>\d\d:\d\d)-(?P<to>\d\d:\d\d)(?: (?P<zone>[A-Za-z0-9_+/-]+))?"
)


@dataclass(frozen=True, slots=True)
class Slot:
    """A node's slot Lease: a wish until it is ``granted``. ``since`` is when the API server made it, in seconds since the epoch:
    one clock for all that wait."""

    node: str
    uid: str
    version: str
    since: float
    granted: bool


@dataclass(frozen=True, slots=True)
class Member:
    """A node as the leader sees it. ``changing``: it has an operation record."""

    name: str
    labelled: bool
    changing: bool


@dataclass(frozen=True, slots=True)
class Word:
    """What the leader says to those who wait: how many nodes are ``waiting``, how many of ``limit`` are ``changing``, and when
    the maintenance window ``opens`` (seconds since the epoch), None while it is open."""

    waiting: int
    changing: int
    limit: int
    opens: float | None = None

    def to_json(self) -> str:
        """As it stands in the annotation."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Word | None:
        """Read it back; None where there is none."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.ValidationError, msgspec.DecodeError):
            return None


@dataclass(frozen=True, slots=True)
class Leader:
    """The Lease of who leads. ``holder`` is "" while nobody does; ``renewed`` is a mark that each renewal changes, and no time;
    ``said`` is what stands in it for the others, "" where nothing does."""

    holder: str
    renewed: str
    version: str
    terms: int
    said: str = ""


@dataclass(frozen=True, slots=True)
class Limit:
    """How many nodes may be in change at once: a number, or so many per cent of the labelled nodes."""

    number: int = 0
    percent: int = 0

    @classmethod
    def parse(cls, value: int | str) -> Limit:
        """``3`` or ``10%``; 0 is no limit. BadInputError says what is right."""
        text = str(value)
        number, sign = text.removesuffix("%"), text.endswith("%")
        if not (number.isascii() and number.isdigit()) or (sign and not 1 <= int(number) <= 100):
            raise BadInputError(
                f"max_unavailable is {text!r}; it must be a number of nodes, 0 for no limit, or 1% to 100%"
            )
        return cls(percent=int(number)) if sign else cls(int(number))

    @property
    def none(self) -> bool:
        """Whether nobody has to ask."""
        return not self.number and not self.percent

    def of(self, nodes: int) -> int:
        """Of so many labelled nodes; rounded down, but one may always go."""
        return max(1, nodes * self.percent // 100) if self.percent else self.number


@dataclass(frozen=True, slots=True)
class Window:
    """When changes may begin, in the wall time of a zone. ``days`` (0 is Monday) are those on which it opens; ``start`` and
    ``end`` are minutes of the day. An end that is not after the start is on the next day."""

    days: frozenset[int]
    start: int
    end: int
    zone: ZoneInfo

    @classmethod
    def parse(cls, text: str) -> Window:
        """``Mon-Fri 22:00-06:00 Europe/Berlin``: days and zone may be left out. BadInputError says what is right."""
        found = _WINDOW.fullmatch(text)
        days = days_of(found["days"]) if found else None
        minutes = [minutes_of(found[name]) for name in ("from", "to")] if found else []
        if found is None or not days or None in minutes:
            raise BadInputError(
                f"maintenance_window is {text!r}; it must be days, times and a zone such as "
                "'Mon-Fri 22:00-06:00 Europe/Berlin', of which days and zone may be left out"
            )
        zone = zone_of(found["zone"] or "UTC")
        if zone is None:
            raise BadInputError(f"maintenance_window is {text!r}; this system knows no zone {found['zone']!r}")
        start, end = (minute or 0 for minute in minutes)
        return cls(days, start, end, zone)


def token_names(model: CatalogModel, count: int) -> tuple[str, ...]:
    """The names of the Leases of which a node has to hold one to fetch that revision of the model from that place."""
    key = f"{model.endpoint or ''} {model.repository}@{model.revision}"
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    return tuple(f"{FETCH_PREFIX}{digest}-{number}" for number in range(count))


def slot_name(node: str) -> str:
    """The name of a node's slot Lease."""
    return f"{SLOT_PREFIX}{node}"
