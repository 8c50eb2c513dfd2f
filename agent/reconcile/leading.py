"""The loop that elects who grants slots, and grants them while it is elected. See Note [Who leads] in plan/fleet.py."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from agent.execute.fleet import FleetHands
from agent.model.errors import AgentError, ConflictError, GoneError, RefusedError
from agent.model.fleet import Leader, Limit, Slot, Window, Word, slot_name
from agent.observe.fleet import member_of, slot_of
from agent.plan.fleet import UNSEEN_SECONDS, Orders, is_free, opens, orders
from agent.reconcile.election import Ballot, Election
from agent.reconcile.fleet import Board

log = logging.getLogger("warmslice.fleet")

_IDLE_SECONDS = 300.0
_BETWEEN_LOOKS_SECONDS = 0.5
_LONGEST_BETWEEN_SECONDS = 2.0
_SHARE = 10.0
"""A leader sorts all that wait: not for each event, and, of ten thousand, for a tenth of its time (150 ms)."""
_LINGER_SECONDS = 30.0
_REFUSED_SECONDS = 60.0
"""A slot that the API server will not have granted (an admission policy) is tried again so often."""


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


class FleetPass:
    """Call it as often as you like. ``holder`` names this process, ``clock`` is monotonic."""

    def __init__(
        self,
        holder: str,
        ballot: Ballot,
        hands: FleetHands,
        view: View,
        board: Board,
        rules: FleetRules,
        now: Callable[[], float],
        clock: Callable[[], float],
    ) -> None:
        self._election = Election("fleet", holder, ballot, clock, self._begin, view.close)
        self._hands = hands
        self._view = view
        self._board = board
        self._rules = rules
        self._now = now
        self._clock = clock
        self._waited = 0
        self._looked = float("-inf")
        self._needed = 0.0
        self._took = 0.0
        self._unchanged: dict[str, tuple[str, float]] = {}
        self._looked_into: dict[str, float] = {}
        self._refused: dict[str, float] = {}

    async def __call__(self) -> float:
        """One pass; after how many seconds to look again at the latest."""
        if self._election.leads:
            return await self._election.lead(self._act)
        if not self._board.waiting:
            return _IDLE_SECONDS
        if self._board.waits_begun != self._waited:
            self._waited = self._board.waits_begun
            self._election.forget()
        return self._election.wait_seconds or await self._look()

    async def resign(self) -> None:
        """Lead no more, so that the next need not wait until this one is known to be gone."""
        await self._election.resign()

    def _begin(self) -> None:
        self._needed = self._clock()
        self._unchanged.clear()
        self._refused.clear()
        self._view.open()

    async def _look(self) -> float:
        found = await self._election.look(_waiting)
        if self._election.leads:
            return 0.0
        word = _word(found)
        if word is not None:
            # One that has just begun says nothing yet; what was said before it stands.
            self._board.tell(word)
        return self._election.wait_seconds

    async def _act(self) -> float:
        """Renew when it is time, and grant."""
        pause = min(_LONGEST_BETWEEN_SECONDS, max(_BETWEEN_LOOKS_SECONDS, _SHARE * self._took))
        await asyncio.sleep(max(0.0, self._looked + pause - self._clock()))
        self._looked = self._clock()
        if self._election.due:
            return await self._election.renew()
        if not self._view.synced:
            return _BETWEEN_LOOKS_SECONDS
        slots = tuple(slot for item in self._view.slots if (slot := slot_of(item)) is not None)
        if slots or self._board.waiting:
            self._needed = self._clock()
        if self._clock() - self._needed >= _LINGER_SECONDS:
            await self.resign()
            return _IDLE_SECONDS
        await self._grant_and_look(slots)
        return self._election.rest_seconds

    async def _grant_and_look(self, slots: tuple[Slot, ...]) -> None:
        """As far as there is time before the next renewal."""
        still = self._still(slots)
        said = self._orders(slots, still)
        self._took = self._clock() - self._looked
        self._election.said = said.word
        self._board.tell(said.word)
        for slot in said.grant:
            if self._election.rest_seconds:
                await self._grant(slot)
        for slot in said.look:
            if self._election.rest_seconds:
                await self._look_into(slot, still[slot.uid])

    def _orders(self, slots: tuple[Slot, ...], still: Mapping[str, float]) -> Orders:
        members = [member_of(item, self._rules.label_key) for item in self._view.nodes]
        opening = opens(self._rules.window, self._now())
        late = self._clock() - _REFUSED_SECONDS
        self._refused = {uid: at for uid, at in self._refused.items() if at > late}
        left = tuple(slot for slot in slots if slot.granted or slot.uid not in self._refused)
        return orders(left, {member.name: member for member in members}, still, self._rules.limit, opening)

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
        except RefusedError as error:
            # Surely not granted; those behind it need not wait for somebody to mend that.
            self._refused[slot.uid] = self._clock()
            log.warning("slot.refused", extra={"to": slot.node, "error": str(error)})
        except AgentError as error:
            self._election.end(f"whether {slot.node} has its slot is not known: {error}")
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


def _word(leader: Leader | None) -> Word | None:
    return Word.from_json(leader.said) if leader is not None else None


def _waiting(leader: Leader | None) -> int | None:
    word = _word(leader)
    return word.waiting if word is not None else None
