"""Who of the fleet may begin now: what the elected agent grants, whom it looks into, and when an agent may be elected.

# Note [Fleet slots]
# Leases in the agents' namespace say all of it. A node that would begin makes its slot Lease: a wish. The leader grants it by
# naming a holder. The node renews it, with the version that it saw, right before it begins, so that a slot that was taken
# back at that moment is not used; it removes the Lease when no operation record is left. Taken are the slots that are
# granted and the nodes that have a record, whichever is seen first, so that neither a late watch nor a kill anywhere makes
# room for one too many. A granted slot that stays unchanged for SILENT_SECONDS, longer than the write of a record may take, is
# looked into: its node is read anew, and only where that is gone, or has no record, the Lease goes, if it still has the
# version that was looked at. Time alone frees nothing. Its node, if it lives, asks again behind the others.

# Note [Who leads]
# Only an agent that waits looks for the leader, so nobody leads while nobody waits, and where the limit is off there is no
# Lease at all. Nobody's clock is compared with another's: a leader is gone when the mark of its renewal has not changed for
# LEASE_SECONDS on the own monotonic clock. A leader acts only for ACT_SECONDS after its last renewal began; what it has sent
# then has arrived or failed before anybody else can lead. Who waits does not look all the time: one agent a second, and again
# five seconds later to see whether the leader still renews, so that a thousand that wait cost the API server what ten do. At
# random times over the whole of that: of those who began together nobody would look for long, and who died would not be missed.
# How many wait the leader says; one that says nothing may have none of its requests through, because of all those that look: so
# each looks rarer, the longer nothing is said.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from agent.model.fleet import Leader, Limit, Member, Slot, Window, Word
from agent.model.wall import moment

SILENT_SECONDS = 60.0
UNSEEN_SECONDS = 10.0
"""So long the leader's view may take to show a node that has asked."""
LEASE_SECONDS = 15.0
ACT_SECONDS = 10.0
RENEW_SECONDS = 5.0
LOOK_SECONDS = 5.0
_LONGEST_LOOK_SECONDS = 600.0
_LOOKS_PER_SECOND = 1.0
"""Without the second looks."""
_SOON_AT_FIRST = 4
"""So many looks in a row that find a leader without a word are made as if few waited: a new one has to see all first, and one
that died before it had said anything is known to be gone after them."""
_RAREST_UNTOLD_SECONDS = 160.0


@dataclass(frozen=True, slots=True)
class Orders:
    """What the leader does now: ``grant`` these, in that order, ``look`` into those; ``word`` is what it says then."""

    grant: tuple[Slot, ...]
    look: tuple[Slot, ...]
    word: Word


def orders(
    slots: Collection[Slot],
    members: Mapping[str, Member],
    still: Mapping[str, float],
    limit: Limit,
    opens: float | None,
) -> Orders:
    """``still`` is for how many seconds the leader has seen a slot (by UID) unchanged; ``opens`` is when the window opens, None
    while it is open."""
    changing = {member.name for member in members.values() if member.changing}
    taken = changing | {slot.node for slot in slots if slot.granted}
    most = limit.of(sum(member.labelled for member in members.values()))
    queue = sorted((slot for slot in slots if slot.node not in taken), key=lambda slot: (slot.since, slot.node))
    grant = tuple(queue[: max(0, most - len(taken))]) if opens is None else ()
    look = tuple(slot for slot in slots if _doubtful(slot, members, still.get(slot.uid, 0.0)))
    return Orders(grant, look, Word(len(queue) - len(grant), len(taken) + len(grant), most, opens))


def _doubtful(slot: Slot, members: Mapping[str, Member], still: float) -> bool:
    """A node that is not seen, or a slot that is granted and, as far as is seen, not used."""
    member = members.get(slot.node)
    if member is None:
        return still >= UNSEEN_SECONDS
    return slot.granted and not member.changing and still >= SILENT_SECONDS


def is_free(slot: Slot, member: Member | None, still: float) -> bool:
    """Whether nothing speaks for a slot that was looked into. ``member`` is its node as just read, None where it is gone."""
    return member is None or (slot.granted and not member.changing and still >= SILENT_SECONDS)


def why(word: Word | None, slot: Slot, now: float) -> str:
    """What a node that asked at ``slot.since`` waits for. ``word`` is the last of a leader, None before the first."""
    since = f"waits since {_stamp(slot.since)} for a slot"
    if word is None:
        return f"{since}: no leader yet"
    if word.opens is not None and word.opens > now:
        return f"{since}: outside the maintenance window, which opens {_stamp(word.opens)}"
    return f"{since}: {word.changing} of {word.limit} nodes in change"


def opens(window: Window | None, now: float) -> float | None:
    """When the window opens next, in seconds since the epoch; None while it is open, and where there is none."""
    if window is None:
        return None
    today = datetime.fromtimestamp(now, window.zone).date()
    for days in range(-1, 9):
        begin, end = _opening(window, today + timedelta(days))
        if (today + timedelta(days)).weekday() not in window.days or end <= now:
            continue
        return begin if begin > now else None
    raise AssertionError("a window has a day")


def _opening(window: Window, day: date) -> tuple[float, float]:
    """From when to when it is open, if it opens on that day. A time that the clocks skip is the moment at which they do."""
    last = day if window.end > window.start else day + timedelta(1)
    return moment(day, window.start, window.zone), moment(last, window.end, window.zone)


@dataclass(frozen=True, slots=True)
class Sighting:
    """What an agent that waits has seen of the leader. ``since`` is when it first saw the present mark, ``looked`` when it looked
    last, on its own monotonic clock; ``renewing``: it has seen the mark change between two looks that were close; ``waiting``:
    how many wait; ``untold``: so many looks in a row have found nothing that says it."""

    mark: tuple[str, str] = ("", "")
    since: float = 0.0
    looked: float = float("-inf")
    renewing: bool = False
    waiting: int = 0
    untold: int = 0

    def then(self, leader: Leader | None, waiting: int | None, clock: float) -> Sighting:
        """The same after another look. ``waiting`` is None where the leader does not say it."""
        mark = (leader.holder, leader.renewed) if leader is not None else ("", "")
        untold = self.untold + 1 if waiting is None else 0
        if mark == self.mark:
            return Sighting(mark, self.since, clock, False, waiting or 0, untold)
        return Sighting(mark, clock, clock, clock - self.looked <= LEASE_SECONDS, waiting or 0, untold)

    def vacant(self, clock: float) -> bool:
        """Whether anybody may take the lead."""
        return not self.mark[0] or clock - self.since >= LEASE_SECONDS

    def next_look(self, clock: float, chance: float) -> float:
        """After how many seconds to look again: soon, while it may be dead. ``chance``, from 0 to 1, is drawn anew each time."""
        mean = self._mean()
        if mean > LOOK_SECONDS:
            return mean * 2.0 * chance
        gone = self.since + LEASE_SECONDS - clock
        if self.mark[0] and not self.renewing and gone <= LOOK_SECONDS:
            # Not before it can be known to be gone.
            return max(0.1, gone) + 0.25 * LOOK_SECONDS * chance
        return LOOK_SECONDS * (0.75 + 0.5 * chance)

    def _mean(self) -> float:
        """The same on the average, where it is not known to be silent."""
        if not self.mark[0]:
            # Somebody else was quicker just now.
            return LOOK_SECONDS
        rarer = min(_RAREST_UNTOLD_SECONDS, LOOK_SECONDS * 2.0 ** max(0, self.untold - _SOON_AT_FIRST))
        return min(_LONGEST_LOOK_SECONDS, max(rarer, self.waiting / _LOOKS_PER_SECOND)) if self.renewing else rarer


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
