"""Demand as it is published: the text in the ConfigMap ``warmslice-demand``.

One JSON object, of which rows refer to places and names by their number, since hundreds of workloads share a few of them. The
same demands give the same text. What cannot be read is no demand: the text says what to warm, and grants nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from agent.model.catalog import is_repository, is_revision
from agent.model.demand import Demand, Named, Rank, Role, in_turns
from agent.model.node import Requirement
from agent.model.place import Place, Toleration

NAME = "warmslice-demand"
"""Of the ConfigMap, and of the Lease of who writes it."""
KEY = "demand.json"
MOST_BYTES = 64 * 1024
_FORMAT = 1
_ROLES = tuple(Role)


class _Requirement(msgspec.Struct, array_like=True, frozen=True):
    key: str
    operator: str
    values: list[str]


class _Place(msgspec.Struct, frozen=True, omit_defaults=True):
    selector: dict[str, str] = {}
    terms: list[list[_Requirement]] | None = None
    tolerations: list[tuple[str, str, str, str]] = []
    resources: dict[str, int] = {}


class _Row(msgspec.Struct, array_like=True, frozen=True):
    repository: str
    revision: str
    role: int
    server: str
    namespace: int
    rank: int
    priority: int
    place: int


class _Text(msgspec.Struct, frozen=True):
    format: int
    namespaces: list[str]
    places: list[_Place]
    rows: list[_Row]
    dropped: int = 0


def written(demands: Iterable[Demand], most_bytes: int = MOST_BYTES) -> tuple[str, int]:
    """(the text, how many demands it had no room for): of each namespace the least urgent are left out."""
    rows = _told_apart(demands)
    whole = _text(rows, 0)
    if len(whole) <= most_bytes:
        return whole.decode(), 0
    low, high = 0, len(rows) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if len(_text(rows[:middle], len(rows) - middle)) <= most_bytes:
            low = middle
        else:
            high = middle - 1
    return _text(rows[:low], len(rows) - low).decode(), len(rows) - low


def read(text: str) -> tuple[Demand, ...]:
    """What was published; nothing where it is not of this format. Rows that could not be demands are left out."""
    try:
        found = msgspec.json.decode(text, type=_Text)
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeError, RecursionError):
        return ()
    return tuple(_demands(found)) if found.format == _FORMAT else ()


def _told_apart(demands: Iterable[Demand]) -> list[Demand]:
    """Each once; each namespace in turn with its most urgent. Who wants it is for nobody to read but the leader.
    The same with another rank counts by the higher one, and by the higher priority."""
    best: dict[tuple[Any, ...], Demand] = {}
    for demand in demands:
        key = (demand.named, demand.server, demand.namespace, demand.place)
        known = best.get(key)
        if known is None or (demand.rank, demand.priority) > (known.rank, known.priority):
            best[key] = demand
    return in_turns(sorted(best.values(), key=_order), lambda demand: demand.namespace)


def _order(demand: Demand) -> tuple[Any, ...]:
    return (-demand.rank, -demand.priority, demand.named, demand.server, demand.namespace, repr(demand.place))


def _text(demands: Sequence[Demand], dropped: int) -> bytes:
    places = {demand.place: 0 for demand in demands}
    namespaces = {demand.namespace: 0 for demand in demands}
    place_numbers = {place: number for number, place in enumerate(places)}
    namespace_numbers = {name: number for number, name in enumerate(namespaces)}
    rows = [
        _Row(
            d.named.repository,
            d.named.revision,
            _ROLES.index(d.named.role),
            d.server,
            namespace_numbers[d.namespace],
            int(d.rank),
            d.priority,
            place_numbers[d.place],
        )
        for d in demands
    ]
    return msgspec.json.encode(_Text(_FORMAT, list(namespaces), [_as_text(place) for place in places], rows, dropped))


def _as_text(place: Place) -> _Place:
    terms = None
    if place.terms is not None:
        terms = [[_Requirement(r.key, r.operator, sorted(r.values)) for r in term] for term in place.terms]
    tolerations = [(t.key, t.operator, t.value, t.effect) for t in place.tolerations]
    return _Place(dict(place.selector), terms, tolerations, dict(place.resources))


def _demands(found: _Text) -> Iterator[Demand]:
    places = [_place(place) for place in found.places]
    for row in found.rows:
        known = 0 <= row.place < len(places) and 0 <= row.namespace < len(found.namespaces)
        words = 0 <= row.role < len(_ROLES) and row.rank in (Rank.WORKLOAD, Rank.PENDING)
        if known and words and is_repository(row.repository) and is_revision(row.revision):
            yield Demand(
                Named(row.repository, row.revision, _ROLES[row.role]),
                row.server,
                found.namespaces[row.namespace],
                Rank(row.rank),
                row.priority,
                places[row.place],
            )


def _place(text: _Place) -> Place:
    terms = None
    if text.terms is not None:
        terms = tuple(tuple(Requirement(r.key, r.operator, frozenset(r.values)) for r in term) for term in text.terms)
    return Place(
        tuple(sorted(text.selector.items())),
        terms,
        tuple(Toleration(*one) for one in text.tolerations),
        tuple(sorted(text.resources.items())),
    )
