"""Which revisions go so that a model fits. Pure.

# Note [What goes]
# Of what nobody holds, that goes first which is soonest fetched again for the time it was not used, by byte that it frees:
# (seconds to fetch it again) / (seconds since its last use) / (bytes freed), lowest first. A blob that several revisions have
# is free only when all of them go, so each counts its share, and none of a blob that stays. When enough has gone, each that
# turns out not to be needed is let off, the one that we would miss most first: of what is left, none could have stayed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from agent.model.cache import CachedModel
from agent.model.catalog import CatalogModel, folder_name
from agent.model.revision import UNFINISHED, Going, PodText, Revision, RevisionKey, Room

_SECONDS_PER_FETCH = 2.0
_SECONDS_PER_FILE = 0.02
_USUAL_BYTES_PER_SECOND = 100e6
_LEAST_IDLE_SECONDS = 1.0

Blob = tuple[str, str]


def holders(
    revisions: Iterable[Revision],
    models: Mapping[str, CachedModel],
    wanted: Sequence[CatalogModel],
    pinned: Iterable[tuple[CatalogModel, str | None]],
    pods: Iterable[PodText] | None,
    opened: Collection[RevisionKey],
) -> dict[RevisionKey, str]:
    """Why a revision stays, as the end of "it stays, since it is ...". ``pinned``: with the commit that each is at here.
    ``pods``: None where those of the node are not known, and then nothing goes."""
    here = {RevisionKey(model.repository, models[model.name].commit or ""): model.name for model in wanted}
    unfinished = {RevisionKey(model.repository, UNFINISHED) for model in wanted}
    pins = {RevisionKey(model.repository, commit) for model, commit in pinned if commit is not None}
    held = {}
    for key in (revision.key for revision in revisions):
        names = (key.repository, folder_name(key.repository))
        pod = next((pod.pod for pod in pods or () if any(name in pod.text for name in names)), None)
        if key in here or key in unfinished:
            held[key] = "wanted on this node"
        elif key in pins:
            held[key] = "pinned"
        elif pods is None:
            held[key] = "perhaps used by a pod: those of this node are not known"
        elif pod is not None:
            held[key] = f"named by pod {pod}"
        elif key in opened:
            held[key] = "open in a process"
    return held


def old_revisions(
    revisions: Sequence[Revision],
    held: Mapping[RevisionKey, str],
    models: Mapping[str, CachedModel],
    wanted: Sequence[CatalogModel],
    keep: int,
) -> tuple[Going, ...]:
    """Earlier commits of repositories whose wanted commits are complete here, but for the ``keep`` that were used last."""
    settled = {m.repository for m in wanted} - {m.repository for m in wanted if not models[m.name].complete}
    going: list[Revision] = []
    for repository in sorted(settled):
        earlier = [
            r for r in revisions if r.key.repository == repository and r.key not in held and r.key.commit != UNFINISHED
        ]
        going += sorted(earlier, key=lambda r: -r.used_at_seconds)[keep:]
    because = f"is an earlier revision, and {keep} of those are kept"
    return _told(going, revisions, "old", lambda _: because)


def make_room(
    revisions: Sequence[Revision],
    held: Mapping[RevisionKey, str],
    needed_bytes: int,
    now_seconds: float,
    bytes_per_second: float | None = None,
) -> Room:
    """What goes so that ``needed_bytes`` are free. See Note [What goes]. ``bytes_per_second``: of a fetch."""
    if needed_bytes <= 0:
        return Room((), 0, ())
    rate = bytes_per_second or _USUAL_BYTES_PER_SECOND
    candidates = [r for r in revisions if r.key not in held]
    chosen: list[Revision] = []
    while _freed(chosen, revisions) < needed_bytes:
        left = [r for r in candidates if r not in chosen]
        scored = [(score, r.key, r) for r in left if (score := _score(r, left, revisions, held, now_seconds, rate))]
        if not scored:
            return Room((), needed_bytes - _freed(chosen, revisions), _what_holds(revisions, held))
        chosen.append(min(scored)[2])
    for revision in reversed(chosen.copy()):
        others = [r for r in chosen if r is not revision]
        if _freed(others, revisions) >= needed_bytes:
            chosen = others
    return Room(_told(chosen, revisions, "room", lambda r: _because(r, now_seconds)), 0, ())


def _score(
    revision: Revision,
    left: Sequence[Revision],
    revisions: Sequence[Revision],
    held: Mapping[RevisionKey, str],
    now_seconds: float,
    rate: float,
) -> float | None:
    """None where its going would free nothing, whatever else goes."""
    kept = {blob for r in revisions if r.key in held for blob in _blobs(r)}
    sharers = Counter(blob for r in left for blob in _blobs(r))
    frees = sum(size / sharers[blob] for blob, size in _blobs(revision).items() if blob not in kept)
    if not frees:
        return None
    seconds = _SECONDS_PER_FETCH + _SECONDS_PER_FILE * len(revision.blobs) + frees / rate
    return seconds / max(now_seconds - revision.used_at_seconds, _LEAST_IDLE_SECONDS) / frees


def _blobs(revision: Revision) -> dict[Blob, int]:
    return {(revision.key.repository, name): size for name, size in revision.blobs.items()}


def _freed(going: Sequence[Revision], revisions: Sequence[Revision]) -> int:
    return sum(_only_theirs(going, revisions).values())


def _only_theirs(going: Sequence[Revision], revisions: Sequence[Revision]) -> dict[Blob, int]:
    """The blobs that no other revision has."""
    gone = {r.key for r in going}
    theirs = {blob: size for r in going for blob, size in _blobs(r).items()}
    for other in revisions:
        if other.key not in gone:
            for blob in _blobs(other):
                theirs.pop(blob, None)
    return theirs


def _told(
    going: Sequence[Revision], revisions: Sequence[Revision], reason: str, because: Callable[[Revision], str]
) -> tuple[Going, ...]:
    """In order; a blob that several of them have goes with the last."""
    told: list[Going] = []
    for number, revision in enumerate(going):
        before = _only_theirs(going[:number], revisions)
        freed = {b: s for b, s in _only_theirs(going[: number + 1], revisions).items() if b not in before}
        names = tuple(sorted(name for _, name in freed))
        told.append(Going(revision.key, names, sum(freed.values()), reason, because(revision)))
    return tuple(told)


def _because(revision: Revision, now_seconds: float) -> str:
    idle = max(0.0, now_seconds - revision.used_at_seconds)
    return f"was not in use for {_ago(idle)}"


def _ago(seconds: float) -> str:
    for unit, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * unit:
            return f"{seconds // unit:.0f} {name}"
    return f"{seconds:.0f} seconds"


def _what_holds(
    revisions: Iterable[Revision], held: Mapping[RevisionKey, str]
) -> tuple[tuple[RevisionKey, int, str], ...]:
    rest = [(r.key, r.bytes, held[r.key]) for r in revisions if r.key in held and r.bytes]
    return tuple(sorted(rest, key=lambda one: (-one[1], one[0])))
