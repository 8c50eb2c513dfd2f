"""`warmslice cache`: the model cache of this host."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from agent.adapters import clock
from agent.adapters.files import TextFile, token_reader
from agent.commands.progress import shown_on
from agent.model import labels
from agent.model.catalog import CatalogModel, CatalogRefusal
from agent.model.errors import BadInputError
from agent.model.revision import Room
from agent.reconcile.cache import CacheRules
from agent.reconcile.cache_by_hand import collect, list_cached, look_over, pull, verify_cached
from agent.reconcile.catalog import Wish, read_wish
from agent.reconcile.room import RoomRules
from agent.settings import Settings

Say = Callable[[str], None]


async def cache_command(settings: Settings, action: str, names: Sequence[str], say: Say) -> int:
    """``cache pull|ls|verify`` for the catalog's models, or those named; exit code 1 when one is not as it should be."""
    rules = CacheRules.of(settings)
    wanted = _chosen(settings, names)
    match action:
        case "pull":
            token = token_reader(settings.hub_token_file, settings.hub_tokens_directory)
            with shown_on(sys.stderr, say) as shown:
                ended = await pull(rules, wanted, token, clock.now, shown.follow)
            for name, why in ended.items():
                say(f"{name}: {why or 'ready'}")
            return int(any(ended.values()))
        case "verify":
            wrong = verify_cached(rules, wanted)
            for name, why in wrong.items():
                say(f"{name}: {why or 'good'}")
            return int(any(wrong.values()))
        case _:
            found = list_cached(rules, wanted)
            for model in wanted:
                cached = found[model.name]
                state = "ready" if cached.complete else f"not ready: {cached.lacking}"
                label = f"{labels.MODEL_PREFIX}{model.name}"
                say(f"{label}  {model.repository}@{model.revision}  {cached.size_bytes / 1e9:.2f} GB  {state}")
            return 0


def doctor_command(settings: Settings, fix: bool, say: Say) -> int:
    """``cache doctor``; exit code 1 where something was found."""
    wanted = {model.repository for model in _wish(settings).wanted}
    found = False
    for finding, done in look_over(Path(settings.cache_directory), wanted, fix):
        found = True
        size = f" ({finding.bytes / 1e9:.2f} GB)" if finding.bytes else ""
        say(f"{finding.where}: {finding.what}{size}; {done}")
    if not found:
        say("nothing is odd")
    return int(found)


def gc_command(settings: Settings, free_bytes: int, dry_run: bool, say: Say) -> int:
    """``cache gc``; exit code 1 where there is not room enough."""
    rules = RoomRules.of(settings)
    room = collect(rules, _wish(settings), free_bytes, clock.now(), act=not dry_run)
    for line in _room_lines(room, free_bytes, dry_run):
        say(line)
    return int(room.short_bytes > 0)


def _room_lines(room: Room, free_bytes: int, dry_run: bool) -> Iterator[str]:
    fits = f"to fit {free_bytes / 1e9:.1f} GB" if free_bytes else "to keep the budget"
    for going in room.going:
        goes = "goes" if dry_run else "is gone"
        yield f"{fits}: {going.key} {goes}, {going.freed_bytes / 1e9:.2f} GB, because it {going.because}"
    if room.short_bytes:
        yield f"{fits}: {room.short_bytes / 1e9:.2f} GB are lacking, and what is there stays:"
        yield from (f"  {key}  {size / 1e9:.2f} GB  {why}" for key, size, why in room.held)
    elif not room.going:
        yield f"{fits}: nothing has to go"


def _wish(settings: Settings) -> Wish:
    wish = read_wish(TextFile(Path(settings.catalog_file)), {})
    if isinstance(wish, CatalogRefusal):
        raise BadInputError(wish.at(settings.catalog_file))
    return wish


def _chosen(settings: Settings, names: Sequence[str]) -> tuple[CatalogModel, ...]:
    wanted = _wish(settings).wanted
    unknown = sorted(set(names) - {model.name for model in wanted})
    if unknown:
        known = ", ".join(model.name for model in wanted) or "none"
        raise BadInputError(f"model {unknown[0]!r} is not in {settings.catalog_file}; it has {known}")
    return tuple(model for model in wanted if not names or model.name in names)
