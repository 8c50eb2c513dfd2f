"""Our node object, as last seen, and the ways to write it that need no version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.adapters.kube import Kube
from agent.adapters.watch import Watch
from agent.model.node import Node
from agent.observe.cluster import node_of


class OwnNode:
    """``watch`` follows the one node."""

    def __init__(self, kube: Kube, name: str, watch: Watch) -> None:
        self._kube = kube
        self._name = name
        self._watch = watch

    @property
    def item(self) -> Mapping[str, Any] | None:
        """As the API server has it; None before it was seen."""
        return next(iter(self._watch.objects), None)

    def node(self) -> Node | None:
        """The same as our noun."""
        return node_of(self.item) if self.item is not None else None

    def labels(self) -> dict[str, str]:
        """Its labels; none before it was seen."""
        return dict(self.item["metadata"].get("labels") or {}) if self.item is not None else {}

    async def patch_labels(self, labels: Mapping[str, str | None]) -> None:
        """Change labels (None removes one)."""
        await self._patch({"labels": dict(labels)})

    async def annotate(self, annotations: Mapping[str, str | None]) -> None:
        """Change annotations (None removes one)."""
        await self._patch({"annotations": dict(annotations)})

    async def _patch(self, metadata: Mapping[str, Any]) -> None:
        self._watch.put(await self._kube.patch_node(self._name, {"metadata": dict(metadata)}))
