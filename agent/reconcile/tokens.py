"""Of many nodes that want one model, so many fetch it at once: each holds one of the model's Leases while it does.

# Note [Fetch tokens]
# A model has as many tokens as nodes may fetch it at once, each a Lease of its own, for which nodes stand as for a lead (see
# election.py): expiry is judged by what is seen of renewals, never by wall clocks, so that a killed holder's token is free
# again. A node looks at one token at a time, a random one of the model whose turn it is, and seldom: nobody knows how many wait.
# A token is for whoever asks upstream, not for the truth: whoever loses one in mid-fetch goes on, and where the API server is
# away for long, or grants no Leases, a node goes without. With none asked for by the settings there is no Lease and no request.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.model.catalog import CatalogModel
from agent.model.errors import AgentError, RefusedError
from agent.model.fleet import Leader, token_names
from agent.reconcile.election import Ballot, Election

log = logging.getLogger("warmslice.cache")

LOOK_SECONDS = (10.0, 20.0)
"""Between two looks of a node that waits, at random."""
WITHOUT_SECONDS = 600.0
"""So long an API server that does not answer is waited for."""
_NOT_LOOKED = "it has not looked yet whether one is free"
_TAKEN = "other nodes hold those that there are (setting fetch_at_once)"


class Tokens(Protocol):
    """Who may fetch now."""

    async def seek(self, due: Sequence[CatalogModel], most: int) -> tuple[CatalogModel, ...]:
        """Those of ``due`` that may be fetched now, ``most`` of them."""

    async def keep(self, models: Collection[str]) -> None:
        """Renew the tokens of these models, by name, that are being fetched or about to be, and give all others back."""

    @property
    def look_again_seconds(self) -> float | None:
        """When to look again, while some wait."""

    @property
    def why(self) -> str:
        """Why they wait, in a sentence."""


class NoTokens:
    """Everybody may."""

    look_again_seconds: float | None = None
    why: str = ""

    async def seek(self, due: Sequence[CatalogModel], most: int) -> tuple[CatalogModel, ...]:
        """The first."""
        return tuple(due[:most])

    async def keep(self, models: Collection[str]) -> None:
        """There are none."""


@dataclass(slots=True)
class LeaseTokens:
    """``count`` of each model; ``ballot`` is the Lease of a name, ``holder`` names this process, ``clock`` is monotonic. See Note
    [Fetch tokens]."""

    holder: str
    count: int
    ballot: Callable[[str], Ballot]
    clock: Callable[[], float]
    _elections: dict[str, Election] = field(default_factory=dict)
    _held: dict[str, str] = field(default_factory=dict)
    _without: set[str] = field(default_factory=set)
    _turn: int = 0
    _next_look: float = 0.0
    _silent_since: float | None = None
    _waits: bool = False
    _why: str = _NOT_LOOKED

    @property
    def why(self) -> str:
        return self._why

    @property
    def look_again_seconds(self) -> float | None:
        return max(0.1, self._next_look - self.clock()) if self._waits else None

    async def keep(self, models: Collection[str]) -> None:
        before = set(self._held.values())
        self._held = {name: lease for name, lease in self._held.items() if name in models}
        self._without &= set(models)
        # Two of the catalog may be one revision of one model, and share a token.
        kept = set(self._held.values())
        for lease in before - kept:
            await self._elections[lease].resign()
        for election in (self._elections[lease] for lease in kept):
            if election.leads and election.due:
                await election.renew()
        # What is not held is known only as long as something waits for it.
        if not self._waits:
            self._elections = {lease: self._elections[lease] for lease in kept}

    async def resign(self) -> None:
        """Give all back: nothing is fetched any more."""
        await self.keep(())

    async def seek(self, due: Sequence[CatalogModel], most: int) -> tuple[CatalogModel, ...]:
        may = self._held.keys() | self._without
        found = [model for model in due if model.name in may][:most]
        rest = [model for model in due if model.name not in may]
        self._waits = bool(rest) and len(found) < most
        if not self._waits or self.clock() < self._next_look:
            return tuple(found)
        self._next_look = self.clock() + random.uniform(*LOOK_SECONDS)
        model = rest[self._turn % len(rest)]
        self._turn += 1
        if await self._is_granted(model):
            found.append(model)
            # The next one need not wait for its first look.
            self._next_look = self.clock()
        return tuple(found)

    async def _is_granted(self, model: CatalogModel) -> bool:
        lease = random.choice(token_names(model, self.count))
        if lease not in self._elections:
            self._elections[lease] = Election("token", self.holder, self.ballot(lease), self.clock, _nothing, _nothing)
        election = self._elections[lease]
        try:
            await election.look(_nobody_counts)
        except RefusedError as error:
            self._goes_without(model, error)
            return True
        except AgentError as error:
            return self._has_waited_long(model, error)
        self._silent_since, self._why = None, _TAKEN
        if not election.leads:
            return False
        self._held[model.name] = lease
        return True

    def _goes_without(self, model: CatalogModel, error: AgentError) -> None:
        """For as long as it is fetched, or about to be: another one of this node must not take its turn meanwhile."""
        log.warning("token.without", extra={"model": model.name, "error": str(error)})
        self._without.add(model.name)

    def _has_waited_long(self, model: CatalogModel, error: AgentError) -> bool:
        self._silent_since = self.clock() if self._silent_since is None else self._silent_since
        if self.clock() - self._silent_since < WITHOUT_SECONDS:
            self._why = f"whether one is free is not known, for at most {WITHOUT_SECONDS:.0f} s: {error}"
            return False
        self._goes_without(model, error)
        return True


def _nobody_counts(_: Leader | None) -> int:
    return 0


def _nothing() -> None:
    return
