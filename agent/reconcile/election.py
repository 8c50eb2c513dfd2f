"""One of many agents is elected for a task, by a Lease. See Note [Who leads] in plan/fleet.py."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from agent.execute.fleet import Said
from agent.model.errors import AgentError, ConflictError, GoneError
from agent.model.fleet import Leader
from agent.observe.fleet import leader_of
from agent.plan.fleet import ACT_SECONDS, RENEW_SECONDS, Sighting

log = logging.getLogger("warmslice.fleet")


class Ballot(Protocol):
    """The Lease of one task."""

    async def find(self) -> Any:
        """As it is; GoneError where there is none."""

    async def lead(self, found: Leader | None, holder: str, said: Said | None) -> Any:
        """Become the leader, or go on being it; ConflictError where somebody else was quicker."""

    async def resign(self, found: Leader) -> None: ...


class Elected(Protocol):
    """Whoever may hold a Lease that others wait for."""

    async def resign(self) -> None:
        """Hold none any more, so that the next need not wait until this one is known to be gone."""


@dataclass(frozen=True, slots=True)
class _Term:
    """``began`` is when the last renewal was sent, on our monotonic clock."""

    lease: Leader
    began: float


class Election:
    """``holder`` names this process, ``clock`` is monotonic; ``began`` and ``ended`` are told when a term of ours does. ``said``
    is what the next renewal says to the others."""

    def __init__(
        self,
        task: str,
        holder: str,
        ballot: Ballot,
        clock: Callable[[], float],
        began: Callable[[], None],
        ended: Callable[[], None],
    ) -> None:
        self._task = task
        self._holder = holder
        self._ballot = ballot
        self._clock = clock
        self._began = began
        self._ended = ended
        self._sighting = Sighting()
        self._next_look = 0.0
        self._term: _Term | None = None
        self.said: Said | None = None

    @property
    def leads(self) -> bool:
        """Whether we do."""
        return self._term is not None

    @property
    def due(self) -> bool:
        """Whether the Lease is to be renewed before anything else: it is time, or the first word is to be said."""
        term = self._term
        if term is None:
            return False
        return self._clock() - term.began >= RENEW_SECONDS or (self.said is not None and not term.lease.said)

    @property
    def rest_seconds(self) -> float:
        """Until the next renewal."""
        return max(0.0, self._term.began + RENEW_SECONDS - self._clock()) if self._term is not None else 0.0

    @property
    def wait_seconds(self) -> float:
        """Until the next look."""
        return max(0.0, self._next_look - self._clock())

    async def look(self, waiting: Callable[[Leader | None], int | None]) -> Leader | None:
        """Look who leads, and take the lead where nobody does. ``waiting`` says how many look, so that together they do so about
        twice a second; None where nobody has said it."""
        try:
            found = leader_of(await self._ballot.find())
        except GoneError:
            found = None
        self._sighting = self._sighting.then(found, waiting(found), self._clock())
        if self._sighting.vacant(self._clock()) and await self._elected(found):
            return None
        self._next_look = self._clock() + self._sighting.next_look(self._clock(), random.random())
        return found

    async def lead(self, act: Callable[[], Awaitable[float]]) -> float:
        """Do ``act`` within what is left of the term: nothing is sent, or waited for, after it is over."""
        if self._term is None:
            return 0.0
        rest = self._term.began + ACT_SECONDS - self._clock()
        try:
            async with asyncio.timeout(max(0.0, rest)):
                return await act()
        except TimeoutError:
            self.end("no renewal in time")
            return 0.0

    async def renew(self) -> float:
        """Renew the Lease; after how many seconds to go on."""
        term = self._term
        if term is None:
            return 0.0
        renewed = await self._renewed(term)
        if renewed is None:
            self.end("somebody else leads")
            return 0.0
        self._term = renewed
        return 1.0 if renewed is term else 0.0

    def end(self, why: str) -> None:
        """Lead no more."""
        if self._term is None:
            return
        log.info(f"{self._task}.leading-no-more", extra={"detail": why})
        self._term = None
        self.forget()
        self._ended()

    def forget(self) -> None:
        """Look as if for the first time: what was seen, and when to look next, was of another wait."""
        self._sighting, self._next_look = Sighting(), 0.0

    async def resign(self) -> None:
        """Lead no more, so that the next need not wait until this one is known to be gone."""
        term = self._term
        self.end("resigned")
        if term is not None:
            try:
                await self._ballot.resign(term.lease)
            except AgentError as error:
                log.warning(f"{self._task}.not-resigned", extra={"error": str(error)})

    async def _elected(self, found: Leader | None) -> bool:
        began = self._clock()
        try:
            lease = leader_of(await self._ballot.lead(found, self._holder, None))
        except (ConflictError, GoneError):
            return False
        log.info(f"{self._task}.leading", extra={"holder": self._holder})
        self._term, self.said = _Term(lease, began), None
        self._began()
        return True

    async def _renewed(self, term: _Term) -> _Term | None:
        """None where somebody else leads; the same where the API server does not answer."""
        began = self._clock()
        try:
            try:
                return _Term(leader_of(await self._ballot.lead(term.lease, self._holder, self.said)), began)
            except ConflictError:
                # A renewal whose answer was lost is ours all the same; when it was made is not known.
                found = leader_of(await self._ballot.find())
                return _Term(found, term.began) if found.holder == self._holder else None
        except GoneError:
            return None
        except AgentError as error:
            log.warning(f"{self._task}.not-renewed", extra={"error": str(error)})
            return term
