"""Acts on the fleet's Leases. Nothing is decided here. Each write but the first has the version that it was decided on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Protocol

from agent.model.fleet import WORD, Leader, Slot, slot_name

Object = dict[str, Any]


class Leases(Protocol):
    """The Leases of the agents' namespace."""

    async def get(self, name: str) -> Object:
        """GoneError where there is none."""

    async def create(self, name: str, lease: Object) -> Object:
        """ConflictError where there is one."""

    async def patch(self, name: str, patch: Object) -> Object:
        """Merge-patch; ConflictError when its version is stale, GoneError where there is none."""

    async def delete(self, name: str, preconditions: Object) -> None:
        """One that is gone is done; ConflictError when it is another."""


class Said(Protocol):
    """What a leader says to the others."""

    def to_json(self) -> str: ...


class LeaderHands:
    """The Lease of whoever leads in one task. ``now`` gives seconds since the epoch: what is written is for people to read, and
    compared with no clock."""

    def __init__(self, leases: Leases, name: str, lease_seconds: float, now: Callable[[], float]) -> None:
        self._leases = leases
        self._name = name
        self._lease_seconds = int(lease_seconds)
        self._now = now

    async def find(self) -> Object:
        """As it is."""
        return await self._leases.get(self._name)

    async def lead(self, found: Leader | None, holder: str, said: Said | None) -> Object:
        """Become the leader, or go on being it."""
        now = _stamp(self._now())
        spec: Object = {"holderIdentity": holder, "leaseDurationSeconds": self._lease_seconds, "renewTime": now}
        if found is None or found.holder != holder:
            spec |= {"acquireTime": now, "leaseTransitions": found.terms + 1 if found is not None else 0}
        if found is None:
            return await self._leases.create(self._name, {"spec": spec})
        words = {"metadata": {"annotations": {WORD: said.to_json() if said is not None else None}}, "spec": spec}
        return await self._leases.patch(self._name, _on(found.version, words))

    async def resign(self, found: Leader) -> None:
        """Lead no more: the next may at once."""
        patch = {"metadata": {"annotations": {WORD: None}}, "spec": {"holderIdentity": None}}
        await self._leases.patch(self._name, _on(found.version, patch))


class TokenHands(LeaderHands):
    """A fetch token. One that is given back is gone, so that those of models which nobody wants any more do not pile up."""

    async def resign(self, found: Leader) -> None:
        """Give it back, if it is ours still."""
        await self._leases.delete(self._name, {"resourceVersion": found.version})


class FleetHands:
    """The slots. ``now`` as of ``LeaderHands``."""

    def __init__(self, leases: Leases, now: Callable[[], float]) -> None:
        self._leases = leases
        self._now = now

    async def find(self, name: str) -> Object:
        """A Lease as it is."""
        return await self._leases.get(name)

    async def ask(self, node: str) -> Object:
        """Make a wish."""
        return await self._leases.create(slot_name(node), {"spec": {}})

    async def grant(self, slot: Slot) -> Object:
        """Grant a wish."""
        spec = {"holderIdentity": slot.node, "acquireTime": _stamp(self._now())}
        return await self._leases.patch(slot_name(slot.node), _on(slot.version, {"spec": spec}))

    async def confirm(self, slot: Slot) -> Object:
        """Say that a granted slot is about to be used."""
        return await self._leases.patch(
            slot_name(slot.node), _on(slot.version, {"spec": {"renewTime": _stamp(self._now())}})
        )

    async def remove(self, node: str) -> None:
        """The node's own slot goes, whatever it is."""
        await self._leases.delete(slot_name(node), {})

    async def take(self, slot: Slot) -> None:
        """Exactly this slot goes."""
        await self._leases.delete(slot_name(slot.node), {"uid": slot.uid, "resourceVersion": slot.version})


def _stamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _on(version: str, patch: Object) -> Object:
    return {**patch, "metadata": {**patch.get("metadata", {}), "resourceVersion": version}}
