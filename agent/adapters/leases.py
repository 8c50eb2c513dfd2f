"""The Leases of one namespace, behind the door to the API server."""

from __future__ import annotations

from urllib.parse import quote

from agent.adapters.kube import Kube, Object


class Leases:
    """``path`` is that of all of them, for a watch."""

    def __init__(self, kube: Kube, namespace: str) -> None:
        self._kube = kube
        self.path = f"/apis/coordination.k8s.io/v1/namespaces/{quote(namespace, safe='')}/leases"

    async def get(self, name: str) -> Object:
        """The newest there is; GoneError where there is none."""
        return await self._kube.get(self._of(name))

    async def create(self, name: str, lease: Object) -> Object:
        """ConflictError where there is one."""
        kind = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
        return await self._kube.create(self.path, {**kind, **lease, "metadata": {"name": name}})

    async def patch(self, name: str, patch: Object) -> Object:
        """Merge-patch; with ``metadata.resourceVersion`` in it a stale one is a ConflictError."""
        return await self._kube.patch(self._of(name), patch)

    async def delete(self, name: str, preconditions: Object) -> None:
        """One that is gone is done; ConflictError when it is another."""
        await self._kube.delete(self._of(name), preconditions)

    def _of(self, name: str) -> str:
        return f"{self.path}/{quote(name, safe='')}"
