"""Makes room in the cache: reads what is there and who uses it, decides what goes, removes it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.execute.remove import finish_removals, reap_broken_downloads, remove, touch_used
from agent.model.cache import CachedModel, DiskUse, FetchFailure
from agent.model.catalog import CatalogModel
from agent.model.revision import UNFINISHED, Going, PodText, Revision, RevisionKey, Room
from agent.observe.cache import commit_here
from agent.observe.revisions import opened, read_revisions
from agent.plan.room import holders, make_room, old_revisions
from agent.settings import Settings

_LOOK_SECONDS = 300.0
_WAIT_SECONDS = 10.0
_MOST_NAMED = 5
_BROKEN_SECONDS = 3600.0
"""A download that another program broke off is left so long: on a network file system its lock may not be seen."""


@dataclass(frozen=True, slots=True)
class RoomRules:
    """What the settings say. ``keep``: how many earlier revisions of a repository stay; ``bytes_per_second``: of a fetch, None
    where nothing limits it."""

    cache: Path
    budget_bytes: int | None
    reserve_ratio: float
    keep: int
    bytes_per_second: float | None

    @staticmethod
    def of(settings: Settings) -> RoomRules:
        return RoomRules(
            Path(settings.cache_directory),
            settings.cache_budget_bytes,
            settings.cache_reserve_ratio,
            settings.cache_keep_revisions,
            settings.fetch_bytes_per_second,
        )

    def excess(self, disk: DiskUse, needed_bytes: int = 0) -> int:
        """Bytes that have to go before ``needed_bytes`` more are allowed; 0 where they are."""
        over = 0 if self.budget_bytes is None else disk.used_bytes + needed_bytes - self.budget_bytes
        reserve = int(self.reserve_ratio * disk.total_bytes)
        return max(0, over, needed_bytes + reserve - disk.free_bytes)


@dataclass(frozen=True, slots=True)
class Use:
    """Who may use what: models wanted on this node with what is on disk of each, models that are pinned, and the words of the
    node's pods (None where those are not known)."""

    wanted: Sequence[CatalogModel]
    models: Mapping[str, CachedModel]
    pinned: Sequence[CatalogModel]
    pods: Sequence[PodText] | None


@dataclass(frozen=True, slots=True)
class Kept:
    """What one look came to. ``made``: there is room now that was not there before; ``gone``: what was removed; ``over``: why the
    cache takes more than it may, in a sentence."""

    made: bool
    gone: tuple[Going, ...] = ()
    over: str | None = None


@dataclass(slots=True)
class RoomKeeper:
    """Keeps the cache inside its budget: at once for a model that did not fit, else now and then. ``pods``: the words of the
    node's pods, None where they are not known."""

    rules: RoomRules
    pods: Callable[[], Sequence[PodText] | None]
    _short: FetchFailure | None = None
    _room: Room = field(default_factory=lambda: Room((), 0, ()))
    _look_at_seconds: float = 0.0

    @property
    def waits(self) -> bool:
        """Whether room is lacking that may come free by itself, when a pod goes."""
        return self._room.short_bytes > 0

    async def keep(self, use: Use, short: FetchFailure | None, disk: DiskUse, now_seconds: float) -> Kept:
        """``short``: why the first wanted model that does not fit does not. Raises RetryError where the disk refuses."""
        if short is self._short and now_seconds < self._look_at_seconds:
            return Kept(False)
        waited = self.waits
        excess = self.rules.excess(disk, short.needed_bytes if short is not None else 0)
        self._room = room = await asyncio.to_thread(make_room_now, self.rules, use, excess, now_seconds)
        self._short = short
        self._look_at_seconds = now_seconds + (_WAIT_SECONDS if room.short_bytes else _LOOK_SECONDS)
        over = None
        if room.short_bytes and short is None:
            over = f"the cache takes {disk.used_bytes} bytes, {excess} more than it may; {self.held}"
        gone = room.going if short is None else tuple(_for(going, short.model) for going in room.going)
        return Kept(not room.short_bytes and (waited or bool(gone)), gone, over)

    def why_not(self, model: CatalogModel) -> str | None:
        """What holds the room that this model needs; None where that is not why it waits."""
        return self.held if self.waits and self._short is not None and self._short.model == model else None

    @property
    def held(self) -> str:
        """Why nothing more can go, in words."""
        held = self._room.held
        if not held:
            return "nothing that the agent may remove is there"
        told = [f"{key} ({size / 1e9:.1f} GB, {why})" for key, size, why in held[:_MOST_NAMED]]
        more = f" and {len(held) - _MOST_NAMED} more" if len(held) > _MOST_NAMED else ""
        return f"what is there stays: {', '.join(told)}{more}"


def _for(going: Going, model: CatalogModel) -> Going:
    if going.reason != "room":
        return going
    return replace(going, because=f"{going.because}, and {model.repository} needs the room")


def plan_room(rules: RoomRules, use: Use, needed_bytes: int, now_seconds: float) -> Room:
    """What goes so that ``needed_bytes`` are free, earlier revisions beyond those that are kept included. Changes nothing but
    the times at which revisions were last seen in use."""
    revisions = read_revisions(rules.cache)
    held = _held(rules.cache, revisions, use)
    for key, why in held.items():
        if key.commit != UNFINISHED and why != "pinned":
            touch_used(rules.cache, key)
    old = old_revisions(revisions, held, use.models, use.wanted, rules.keep)
    gone = {going.key for going in old}
    rest = [revision for revision in revisions if revision.key not in gone]
    needed = needed_bytes - sum(going.freed_bytes for going in old)
    room = make_room(rest, held, needed, now_seconds, rules.bytes_per_second)
    return Room((*old, *room.going), room.short_bytes, room.held)


def clear(cache: Path, going: Iterable[Going]) -> tuple[Going, ...]:
    """Remove them; what another process is at stays. Returns what is gone. Raises RetryError where the disk refuses."""
    return tuple(one for one in going if remove(cache, one))


def make_room_now(rules: RoomRules, use: Use, needed_bytes: int, now_seconds: float) -> Room:
    """Plan and act, after what a kill interrupted was brought to its end; ``going`` is what is gone. Raises RetryError."""
    finish_removals(rules.cache)
    reap_broken_downloads(rules.cache, now_seconds - _BROKEN_SECONDS)
    room = plan_room(rules, use, needed_bytes, now_seconds)
    return Room(clear(rules.cache, room.going), room.short_bytes, room.held)


def _held(cache: Path, revisions: Sequence[Revision], use: Use) -> dict[RevisionKey, str]:
    pinned = [(model, commit_here(cache, model)) for model in use.pinned]
    held = holders(revisions, use.models, use.wanted, pinned, use.pods, frozenset())
    free = [revision for revision in revisions if revision.key not in held]
    return holders(revisions, use.models, use.wanted, pinned, use.pods, opened(cache, free))
