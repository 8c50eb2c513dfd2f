"""Decides which models to fetch now, which fetches to end, and what the node's labels say. Pure."""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from agent.model.cache import CachedModel, FailureKind, FetchFailure, ModelState
from agent.model.catalog import CatalogModel
from agent.model.labels import MODEL_PREFIX

_FIRST_WAIT_SECONDS = {FailureKind.FAULT: 10.0, FailureKind.REFUSED: 60.0}
_LONGEST_WAIT_SECONDS = {FailureKind.FAULT: 600.0, FailureKind.REFUSED: 3600.0}
_SPREAD = 0.2
"""The share of a wait over which the nodes of a fleet are spread."""


@dataclass(frozen=True, slots=True)
class CacheSeen:
    """The world of one pass: wanted models' state on disk, fetches that run (by model name, with what each fetches),
    last failures by model name, and the labels that the node has now. ``ranks``: why each is wanted, by name; the higher is the
    more urgent (``model.demand.Rank``). ``held``: whose turn it is, but for a fetch token."""

    models: Mapping[str, CachedModel]
    running: Mapping[str, CatalogModel]
    failures: Mapping[str, FetchFailure]
    node_labels: Mapping[str, str]
    ranks: Mapping[str, int] = field(default_factory=dict)
    held: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class CachePlan:
    """``labels``: only those to change, None to remove. ``look_again_seconds``: when a failed model's turn comes. ``asking``:
    those that are fetched if they have a fetch token, in order, ``most`` of them; where as many run as may, those for which one
    that runs makes way."""

    starts: tuple[CatalogModel, ...]
    stops: tuple[str, ...]
    states: Mapping[str, ModelState]
    labels: Mapping[str, str | None]
    look_again_seconds: float | None
    asking: tuple[CatalogModel, ...] = ()
    most: int = 0


def plan_prefetch(wanted: Sequence[CatalogModel], seen: CacheSeen, now_seconds: float, at_once: int = 1) -> CachePlan:
    """``wanted`` in the order in which they are to be fetched; one that is followed is asked for again. Fetches of models not
    wanted any more, or wanted differently, are ended, and that of a model which is less urgent than one that waits for its turn:
    what it has brought stays. Files are never deleted here."""
    by_name = {model.name: model for model in wanted}
    stops = tuple(name for name, model in seen.running.items() if not _still_wanted(model, by_name.get(name)))
    idle = [m for m in wanted if m.name not in seen.running]
    turns = {m.name: _turn(m, seen, now_seconds) for m in idle}
    due = [m for m in idle if (turn := turns[m.name]) is not None and turn <= now_seconds]
    # What is missing goes before what is only asked for again.
    due.sort(key=lambda m: seen.models[m.name].complete)
    free = max(0, at_once - len(seen.running))
    least = min(seen.running, key=lambda name: seen.ranks.get(name, 0), default="")
    asking = tuple(due) if free else _more_urgent(due, seen, least) if least and not stops else ()
    may = tuple(m for m in asking if m.name not in seen.held)
    starts = may[:free]
    # Where none ends anyway, one makes way: to whoever may take its place.
    stops += (least,) if may and not free else ()
    busy = {*seen.running, *(m.name for m in starts)} - set(stops)
    states = {m.name: _state(m, seen, busy) for m in wanted}
    later = [turn for turn in turns.values() if turn is not None and turn > now_seconds]
    labels = _labels(wanted, seen, states)
    return CachePlan(starts, stops, states, labels, min(later, default=None), asking, min(free or 1, len(asking)))


def next_try_seconds(
    kind: FailureKind, failures: int, now_seconds: float, after_seconds: float | None, chance: float
) -> float:
    """When to try again after ``failures`` in a row: doubling, or later where the hub asked for more. ``chance``, from 0 to 1, is
    drawn anew each time: a hub that is away fails all nodes at once, and one whose quota is spent tells them the same moment."""
    wait = min(_FIRST_WAIT_SECONDS[kind] * 2.0 ** min(failures - 1, 20), _LONGEST_WAIT_SECONDS[kind])
    return now_seconds + max(wait * (1.0 - _SPREAD * chance), (after_seconds or 0.0) * (1.0 + _SPREAD * chance))


def failure_of(model: CatalogModel, failures: Mapping[str, FetchFailure]) -> FetchFailure | None:
    """The last failure to fetch exactly this; what failed under the same name with another wish says nothing."""
    failure = failures.get(model.name)
    return failure if failure is not None and failure.model.fetched_as(model) else None


def _still_wanted(running: CatalogModel, wanted: CatalogModel | None) -> bool:
    return wanted is not None and wanted.fetched_as(running)


def _more_urgent(due: Sequence[CatalogModel], seen: CacheSeen, least: str) -> tuple[CatalogModel, ...]:
    """Than the one that runs. One that only asks for a newer commit never makes another one wait."""
    rank = seen.ranks.get(least, 0)
    return tuple(m for m in due if not seen.models[m.name].complete and seen.ranks.get(m.name, 0) > rank)


def _turn(model: CatalogModel, seen: CacheSeen, now_seconds: float) -> float | None:
    """When to fetch the model, or to ask for a newer commit; None for never. A time that is yet to come counts as none."""
    cached, failure = seen.models[model.name], failure_of(model, seen.failures)
    earliest = failure.next_try_seconds if failure is not None else 0.0
    if not cached.complete:
        return earliest
    if model.follow_seconds is None or cached.checked_at_seconds is None:
        return None
    checked = cached.checked_at_seconds if cached.checked_at_seconds <= now_seconds else 0.0
    # Nodes that asked in the same seconds do not ask again in the same seconds; what tells them apart is the moment itself.
    spread = random.Random(checked).uniform(1.0 - _SPREAD, 1.0)
    return max(earliest, checked + model.follow_seconds * spread)


def _state(model: CatalogModel, seen: CacheSeen, busy: Collection[str]) -> ModelState:
    if seen.models[model.name].complete:
        return ModelState.READY
    if model.name in busy:
        return ModelState.FETCHING
    return ModelState.FAILED if failure_of(model, seen.failures) is not None else ModelState.WAITING


def _labels(
    wanted: Sequence[CatalogModel], seen: CacheSeen, states: Mapping[str, ModelState]
) -> Mapping[str, str | None]:
    words = {model.label: _word(states[model.name]) for model in wanted}
    changed: dict[str, str | None] = {
        label: word for label, word in words.items() if seen.node_labels.get(label) != word
    }
    stale = (label for label in seen.node_labels if label.startswith(MODEL_PREFIX) and label not in words)
    return changed | dict.fromkeys(stale)


def _word(state: ModelState) -> str:
    """A label knows three words; a model that waits for its first turn is on its way."""
    return ModelState.FETCHING if state is ModelState.WAITING else state.value
