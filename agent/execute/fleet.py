"""Acts on the fleet's Leases. Nothing is decided here. Each write but the first has the version that it was decided on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Protocol

from agent.model.fleet import LEADER, WORD, Leader, Slot, Word, slot_name

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


class FleetHands:
    """``now`` gives seconds since the epoch: what is written is for people to read, and compared with no clock."""

    def __init__(self, leases: Leases, lease_seconds: float, now: Any) -> None:
        self._leases = leases
        self._lease_seconds = int(lease_seconds)
        self._now = now

    async def find(self, name: str) -> Object:
        """A Lease as it is."""
        return await self._leases.get(name)

    async def ask(self, node: str) -> Object:
        """Make a wish."""
        return await self._leases.create(slot_name(node), {"spec": {}})

    async def grant(self, slot: Slot) -> Object:
        """Grant a wish."""
        spec = {"holderIdentity": slot.node, "acquireTime": self._stamp()}
        return await self._leases.patch(slot_name(slot.node), _on(slot.version, {"spec": spec}))

    async def confirm(self, slot: Slot) -> Object:
        """Say that a granted slot is about to be used."""
        return await self._leases.patch(slot_name(slot.node), _on(slot.version, {"spec": {"renewTime": self._stamp()}}))

    async def remove(self, node: str) -> None:
        """The node's own slot goes, whatever it is."""
        await self._leases.delete(slot_name(node), {})

    async def take(self, slot: Slot) -> None:
        """Exactly this slot goes."""
        await self._leases.delete(slot_name(slot.node), {"uid": slot.uid, "resourceVersion": slot.version})

    async def lead(self, found: Leader | None, holder: str, word: Word | None) -> Object:
        """Become the leader, or go on being it."""
        now = self._stamp()
        spec: Object = {"holderIdentity": holder, "leaseDurationSeconds": self._lease_seconds, "renewTime": now}
        if found is None or found.holder != holder:
            spec |= {"acquireTime": now, "leaseTransitions": found.terms + 1 if found is not None else 0}
        said = {"metadata": {"annotations": {WORD: word.to_json() if word is not None else None}}, "spec": spec}
        if found is None:
            return await self._leases.create(LEADER, {"spec": spec})
        return await self._leases.patch(LEADER, _on(found.version, said))

    async def resign(self, found: Leader) -> None:
        """Lead no more: the next may at once."""
        patch = {"metadata": {"annotations": {WORD: None}}, "spec": {"holderIdentity": None}}
        await self._leases.patch(LEADER, _on(found.version, patch))

    def _stamp(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _on(version: str, patch: Object) -> Object:
    return {**patch, "metadata": {**patch.get("metadata", {}), "resourceVersion": version}}
