"""The loop that elects who grants slots, and grants them while it is elected. See Note [Who leads] in plan/fleet.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent.execute.fleet import FleetHands
from agent.model.errors import AgentError, ConflictError, GoneError
from agent.model.fleet import LEADER, Leader, Limit, Slot, Window, Word, slot_name
from agent.observe.fleet import leader_of, member_of, slot_of
from agent.plan.fleet import ACT_SECONDS, RENEW_SECONDS, UNSEEN_SECONDS, Orders, Sighting, is_free, opens, orders
from agent.reconcile.fleet import Board

log = logging.getLogger("warmslice.fleet")

_IDLE_SECONDS = 300.0
_BETWEEN_LOOKS_SECONDS = 0.5
_LONGEST_BETWEEN_SECONDS = 2.0
_SHARE = 10.0
"""A leader sorts all that wait: not for each event, and, of ten thousand, for a tenth of its time (150 ms)."""
_LINGER_SECONDS = 30.0


class View(Protocol):
    """What only the leader sees: every slot, and the metadata of the nodes; kept up to date from ``open`` to ``close``."""

    @property
    def slots(self) -> tuple[Mapping[str, Any], ...]: ...

    @property
    def nodes(self) -> tuple[Mapping[str, Any], ...]: ...

    @property
    def synced(self) -> bool: ...

    def put(self, slot: dict[str, Any]) -> None: ...

    def open(self) -> None: ...

    def close(self) -> None: ...

    async def node(self, name: str) -> Mapping[str, Any]:
        """One node as it is now; GoneError where it is gone."""


@dataclass(frozen=True, slots=True)
class FleetRules:
    """What the settings say to whoever leads."""

    limit: Limit
    window: Window | None
    label_key: str


@dataclass(frozen=True, slots=True)
class _Term:
    """``began`` is when the last renewal was sent, on our monotonic clock."""

    lease: Leader
    began: float


class FleetPass:
    """Call it as often as you like. ``holder`` names this process, ``clock`` is monotonic."""

    def __init__(
        self,
        holder: str,
        hands: FleetHands,
        view: View,
        board: Board,
        rules: FleetRules,
        now: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._holder = holder
        self._hands = hands
        self._view = view
        self._board = board
        self._rules = rules
        self._now = now
        self._clock = clock
        self._sighting = Sighting()
        self._next_look = 0.0
        self._term: _Term | None = None
        self._word: Word | None = None
        self._looked = float("-inf")
        self._needed = 0.0
        self._took = 0.0
        self._unchanged: dict[str, tuple[str, float]] = {}
        self._looked_into: dict[str, float] = {}

    async def __call__(self) -> float:
        """One pass; after how many seconds to look again at the latest."""
        if self._term is not None:
            return await self._lead(self._term)
        if not self._board.waiting:
            return _IDLE_SECONDS
        wait = self._next_look - self._clock()
        return wait if wait > 0 else await self._look()

    async def resign(self) -> None:
        """Lead no more, so that the next need not wait until this one is known to be gone."""
        term = self._term
        self._end_term("resigned")
        if term is not None:
            try:
                await self._hands.resign(term.lease)
            except AgentError as error:
                log.warning("fleet.not-resigned", extra={"error": str(error)})

    # -- who leads ------------------------------------------------------------------------------------------------

    async def _look(self) -> float:
        try:
            found = leader_of(await self._hands.find(LEADER))
        except GoneError:
            found = None
        self._sighting = self._sighting.then(found, self._clock())
        if self._sighting.vacant(self._clock()):
            if await self._elected(found):
                return 0.0
        elif found is not None and found.word is not None:
            # One that has just begun says nothing yet; what was said before it stands.
            self._board.tell(found.word)
        waiting = found.word.waiting if found is not None and found.word is not None else 0
        wait = self._sighting.next_look(waiting, self._clock()) * random.uniform(0.75, 1.25)
        self._next_look = self._clock() + wait
        return wait

    async def _elected(self, found: Leader | None) -> bool:
        began = self._clock()
        try:
            lease = leader_of(await self._hands.lead(found, self._holder, None))
        except (ConflictError, GoneError):
            return False
        log.info("fleet.leading", extra={"holder": self._holder})
        self._term, self._word, self._needed = _Term(lease, began), None, began
        self._unchanged.clear()
        self._view.open()
        return True

    async def _renewed(self, term: _Term) -> _Term | None:
        """None where somebody else leads; the same where the API server does not answer."""
        began = self._clock()
        try:
            lease = leader_of(await self._hands.lead(term.lease, self._holder, self._word))
        except GoneError:
            return None
        except ConflictError:
            return await self._found_ours(term)
        except AgentError as error:
            log.warning("fleet.not-renewed", extra={"error": str(error)})
            return term
        return _Term(lease, began)

    async def _found_ours(self, term: _Term) -> _Term | None:
        """A renewal whose answer was lost is ours all the same; when it was made is not known."""
        try:
            found = leader_of(await self._hands.find(LEADER))
        except GoneError:
            return None
        return _Term(found, term.began) if found.holder == self._holder else None

    def _end_term(self, why: str) -> None:
        if self._term is None:
            return
        log.info("fleet.leading-no-more", extra={"detail": why})
        self._term = None
        self._sighting, self._next_look = Sighting(), 0.0
        self._view.close()

    # -- what the leader does -------------------------------------------------------------------------------------

    async def _lead(self, term: _Term) -> float:
        """Renew when it is time, and grant. Nothing is sent, or waited for, after the term is over."""
        rest = term.began + ACT_SECONDS - self._clock()
        try:
            async with asyncio.timeout(max(0.0, rest)):
                return await self._act(term)
        except TimeoutError:
            self._end_term("no renewal in time")
            return 0.0

    async def _act(self, term: _Term) -> float:
        pause = min(_LONGEST_BETWEEN_SECONDS, max(_BETWEEN_LOOKS_SECONDS, _SHARE * self._took))
        await asyncio.sleep(max(0.0, self._looked + pause - self._clock()))
        self._looked = self._clock()
        first_word = self._word is not None and term.lease.word is None
        if self._is_due(term) or first_word:
            return await self._go_on(term)
        if not self._view.synced:
            return _BETWEEN_LOOKS_SECONDS
        slots = tuple(slot for item in self._view.slots if (slot := slot_of(item)) is not None)
        if slots or self._board.waiting:
            self._needed = self._clock()
        if self._clock() - self._needed >= _LINGER_SECONDS:
            await self.resign()
            return _IDLE_SECONDS
        await self._grant_and_look(slots, term)
        return max(0.0, term.began + RENEW_SECONDS - self._clock())

    def _is_due(self, term: _Term) -> bool:
        return self._clock() - term.began >= RENEW_SECONDS

    async def _go_on(self, term: _Term) -> float:
        renewed = await self._renewed(term)
        if renewed is None:
            self._end_term("somebody else leads")
            return 0.0
        self._term = renewed
        return 1.0 if renewed is term else 0.0

    async def _grant_and_look(self, slots: tuple[Slot, ...], term: _Term) -> None:
        """As far as there is time before the next renewal."""
        still = self._still(slots)
        said = self._orders(slots, still)
        self._took = self._clock() - self._looked
        self._word = said.word
        self._board.tell(said.word)
        for slot in said.grant:
            if not self._is_due(term):
                await self._grant(slot)
        for slot in said.look:
            if not self._is_due(term):
                await self._look_into(slot, still[slot.uid])

    def _orders(self, slots: tuple[Slot, ...], still: Mapping[str, float]) -> Orders:
        members = [member_of(item, self._rules.label_key) for item in self._view.nodes]
        opening = opens(self._rules.window, self._now())
        return orders(slots, {member.name: member for member in members}, still, self._rules.limit, opening)

    def _still(self, slots: tuple[Slot, ...]) -> dict[str, float]:
        """For how long each slot has been seen unchanged, by UID."""
        clock = self._clock()
        before = self._unchanged
        seen = {slot.uid: (slot.version, before.get(slot.uid, ("", clock))) for slot in slots}
        self._unchanged = {
            uid: last if last[0] == version else (version, clock) for uid, (version, last) in seen.items()
        }
        return {uid: clock - since for uid, (_, since) in self._unchanged.items()}

    async def _grant(self, slot: Slot) -> None:
        """What the view does not show yet, and may be granted, must not be granted to another one too."""
        try:
            self._view.put(await self._hands.grant(slot))
            log.info("slot.granted", extra={"to": slot.node})
        except GoneError:
            return
        except ConflictError:
            with contextlib.suppress(GoneError):
                self._view.put(await self._hands.find(slot_name(slot.node)))
        except AgentError as error:
            self._end_term(f"whether {slot.node} has its slot is not known: {error}")
            raise

    async def _look_into(self, slot: Slot, still: float) -> None:
        """Read its node anew; one that is not to be freed is left for a while."""
        if self._clock() - self._looked_into.get(slot.uid, float("-inf")) < UNSEEN_SECONDS:
            return
        self._looked_into = {uid: at for uid, at in self._looked_into.items() if uid in self._unchanged}
        self._looked_into[slot.uid] = self._clock()
        try:
            member = member_of(await self._view.node(slot.node), self._rules.label_key)
        except GoneError:
            member = None
        if not is_free(slot, member, still):
            return
        try:
            await self._hands.take(slot)
        except ConflictError:
            return
        log.info("slot.taken-back", extra={"of": slot.node})
