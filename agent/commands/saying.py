"""The agent's hands, with a line for people after each step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.execute.node_patch import Patch
from agent.execute.partition import Cluster, Gpus, Hands, Host
from agent.model.node import Node
from agent.model.steps import Begin, Create, Destroy, SetMode, Step, Trim, Turn


class SayingHands(Hands):
    """Says what it has done. ``index_of`` names a GPU as people do."""

    def __init__(
        self,
        cluster: Cluster,
        gpus: Gpus,
        host: Host,
        index_of: Callable[[str], int | None],
        say: Callable[[str], None],
    ) -> None:
        super().__init__(cluster, gpus, host)
        self._index_of = index_of
        self._say = say

    async def perform(self, step: Step, node: Node, said: Patch) -> dict[str, Any] | None:
        """Take the step, then say so."""
        written = await super().perform(step, node, said)
        words = self._words(step)
        if words:
            self._say(words)
        return written

    def _words(self, step: Step) -> str:
        match step:
            case Begin(operation):
                return f"begun: {operation.layout!r}"
            case Turn(operation) if operation.failure:
                return f"going back: {operation.failure}"
            case SetMode(gpu, enabled):
                return f"MIG mode {'on' if enabled else 'off'}, GPU {self._index_of(gpu)}"
            case Destroy(gpu, placement, profile):
                return f"destroyed {profile}@{placement}, GPU {self._index_of(gpu)}"
            case Trim(gpu, placement, profile, parts):
                gone = "+".join(f"{part.size}c" for part in parts)
                return f"destroyed {gone}.{profile}@{placement}, GPU {self._index_of(gpu)}"
            case Create(gpu, placement, shape):
                return f"created {shape}@{placement}, GPU {self._index_of(gpu)}"
            case _:
                return ""
