"""A node's slot in the fleet: asked for right before a change would begin, given back when none is under way. See Note [Fleet
slots] in plan/fleet.py."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from agent.execute.fleet import FleetHands
from agent.model.errors import AgentError, ConflictError, GoneError, RetryError
from agent.model.fleet import Slot, Word, slot_name
from agent.model.steps import Waiting
from agent.observe.fleet import slot_of
from agent.plan.fleet import why

log = logging.getLogger("warmslice.fleet")

_LOOK_AGAIN_SECONDS = 300.0
"""What is waited for comes as an event. Not all look in one moment: a look may ask for the budgets of all pods."""


class Slots(Protocol):
    """What the partition loop asks before it begins a change."""

    async def may_begin(self) -> Waiting | None:
        """None: now."""

    async def give_back(self) -> None:
        """No slot is needed, or none can be used."""


class NoSlots:
    """Nobody counts who is in change: no request is made."""

    async def may_begin(self) -> Waiting | None:
        """At any time."""
        return None

    async def give_back(self) -> None:
        """There is nothing to give."""


class Followed(Protocol):
    """The own slot Lease, kept up to date from ``start`` to ``stop``."""

    @property
    def objects(self) -> tuple[dict[str, Any], ...]: ...

    def put(self, item: dict[str, Any]) -> None: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Board:
    """What the two loops of one agent tell each other: this one, that its node waits; the leader's, what the leader says."""

    def __init__(self, wake_partition: Callable[[], None], wake_fleet: Callable[[], None]) -> None:
        self._wake_partition = wake_partition
        self._wake_fleet = wake_fleet
        self._word: Word | None = None
        self._waiting = False
        self.waits_begun = 0
        """How often the node has begun to wait."""

    @property
    def waiting(self) -> bool:
        """Whether the node waits for a slot."""
        return self._waiting

    @property
    def word(self) -> Word | None:
        """The last word of a leader; None before the first."""
        return self._word

    def waits(self, waiting: bool) -> None:
        """Said by the loop that changes the node."""
        if waiting and not self._waiting:
            self.waits_begun += 1
            self._wake_fleet()
        self._waiting = waiting

    def tell(self, word: Word) -> None:
        """Said by whoever has heard of the leader. How many wait is no news to the node."""
        before, self._word = self._word, word
        if self._waiting and (before is None or replace(before, waiting=word.waiting) != word):
            self._wake_partition()


class OwnSlot:
    """The slot of our node. Whether there is one of an earlier process is not known at first."""

    def __init__(
        self, node: str, hands: FleetHands, followed: Followed, board: Board, now: Callable[[], float]
    ) -> None:
        self._node = node
        self._hands = hands
        self._followed = followed
        self._board = board
        self._now = now
        self._none = False

    async def may_begin(self) -> Waiting | None:
        """Ask, if nobody has; what is waited for, or None once the slot is granted and still is."""
        slot = self._known() or await self._asked()
        if slot.granted:
            try:
                self._followed.put(await self._hands.confirm(slot))
            except (ConflictError, GoneError):
                # What we know of it is old.
                slot = await self._asked()
            else:
                self._board.waits(False)
                return None
        self._board.waits(True)
        message = why(self._board.word, slot, self._now())
        return Waiting(
            "fleet-slot", message, None, 1.0 if slot.granted else _LOOK_AGAIN_SECONDS * random.uniform(0.7, 1.0)
        )

    async def give_back(self) -> None:
        """One that cannot be given back now is tried again later; the leader looks into it meanwhile."""
        self._board.waits(False)
        if self._none:
            return
        try:
            await self._hands.remove(self._node)
        except AgentError as error:
            log.warning("slot.kept", extra={"error": str(error)})
            return
        self._followed.stop()
        self._none = True

    def _known(self) -> Slot | None:
        return next((slot for item in self._followed.objects if (slot := slot_of(item)) is not None), None)

    async def _asked(self) -> Slot:
        """Our Lease as it is, made where there is none; one of an earlier process keeps its place."""
        self._none = False
        self._followed.stop()
        try:
            lease = await self._hands.ask(self._node)
            log.info("slot.asked")
        except ConflictError:
            lease = await self._found()
        self._followed.start()
        self._followed.put(lease)
        slot = slot_of(lease)
        assert slot is not None
        return slot

    async def _found(self) -> dict[str, Any]:
        try:
            return await self._hands.find(slot_name(self._node))
        except GoneError as error:
            raise RetryError(f"the slot went while it was read: {error}") from error
