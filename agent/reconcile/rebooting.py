"""The command that reboots this machine, run once for each time that the journal asks for it."""

from __future__ import annotations

from agent.execute.partition import Hands
from agent.model.errors import RefusedError
from agent.model.node import Node
from agent.model.operation import Operation
from agent.model.steps import Reboot


class Rebooting:
    """Keeps what came of the command until that is written down: the kubelet writes the node while a command drains it, so the
    first write of ours may be refused. A restart forgets it, and then the command runs again.
    """

    def __init__(self, hands: Hands) -> None:
        self._hands = hands
        self._asked: tuple[str, float | None] | None = None
        self._failure = ""

    async def run(self, step: Reboot, node: Node, operation: Operation | None) -> None:
        """RefusedError when the command failed, now or when it ran."""
        reboot = operation.reboot if operation is not None else None
        asked = (operation.id if operation is not None else "", reboot.asked if reboot is not None else None)
        if self._asked != asked:
            self._failure = ""
            try:
                await self._hands.perform(step, node, {})
            except RefusedError as error:
                self._failure = str(error)
            self._asked = asked
        if self._failure:
            raise RefusedError(self._failure)
