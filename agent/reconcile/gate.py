"""The start-up gate, looked at in a loop of its own, after each report of the cache loop (which knows the models) and each change
of the node (which has the layout's word): a disk that hangs, or labels that are refused, put off no deadline."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agent.execute.gate import GateHands
from agent.model.cache import CacheReport
from agent.model.errors import ConflictError
from agent.model.gate import GateOutcome, GateStep, NoteGate, OpenGate
from agent.model.node import Node, Pod
from agent.observe.cluster import node_of
from agent.plan.gate import GateRules, GateSeen, decide_gate
from agent.reconcile.telling import EventSink, tell
from agent.report.events import node_event

log = logging.getLogger("warmslice.gate")

_AFTER_CONFLICT_SECONDS = 0.5
_NOT_LOOKED = "the models of this node have not been looked at yet"


class GateCounts(Protocol):
    """What metrics say of the gate."""

    def gate_waits(self, reasons: Sequence[str]) -> None: ...

    def gate_opened(self, outcome: str) -> None: ...


class NodeStore(Protocol):
    """Takes the node as the API server answered it."""

    def put(self, item: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class GateSight:
    """Where to look: the node (with the boot id by the kernel's word) and the pods that are bound to it."""

    node: Callable[[], Node | None]
    pods: Callable[[], Sequence[Pod]]


class GateKeeper:
    """``learn`` from each report of the cache loop, then ``keep`` the gate. Kept between looks is what was last learned, and
    nothing of the gate itself. ``waits_for_driver``: a pod that comes may be what it waits for."""

    def __init__(
        self,
        sight: GateSight,
        hands: GateHands,
        store: NodeStore,
        events: EventSink,
        counts: GateCounts,
        rules: GateRules,
        now: Callable[[], float],
    ) -> None:
        self._sight = sight
        self._hands = hands
        self._store = store
        self._events = events
        self._counts = counts
        self._rules = rules
        self._now = now
        self._report: CacheReport | None = None
        self.waits_for_driver = False

    def learn(self, report: CacheReport) -> None:
        """How the models stand."""
        self._report = report

    async def keep(self) -> float | None:
        """Look once, and act; in how many seconds to look again at the latest, None for no need. Errors of the API server pass
        through."""
        node = self._sight.node()
        if node is None:
            return None
        outcome = decide_gate(self._seen(node), self._rules)
        self.waits_for_driver = any(lack.reason == "allocatable" for lack in outcome.lacks)
        self._counts.gate_waits([lack.reason for lack in outcome.lacks])
        if outcome.step is None:
            return outcome.due_seconds
        return await self._act(outcome.step, outcome, node)

    def _seen(self, node: Node) -> GateSeen:
        running = any(pod.dra_driver and pod.phase == "Running" and not pod.terminating for pod in self._pods(node))
        report = self._report
        if report is None:
            return GateSeen(self._now(), node, running, {}, _NOT_LOOKED)
        gated = {model.name: model.state for model in report.models if model.gate}
        return GateSeen(self._now(), node, running, gated, report.refusal or "")

    def _pods(self, node: Node) -> Sequence[Pod]:
        return self._sight.pods() if node.gated else ()

    async def _act(self, step: GateStep, outcome: GateOutcome, node: Node) -> float | None:
        try:
            written = await self._hands.perform(step, node)
        except ConflictError:
            # Somebody wrote the node since we looked, perhaps a taint: decide on that one.
            return _AFTER_CONFLICT_SECONDS
        self._store.put(written)
        match step:
            case NoteGate(gate):
                log.info("gate.waiting", extra={"reason": gate.waits_for, "detail": gate.message})
            case OpenGate():
                await self._opened(step, node_of(written))
        return outcome.due_seconds

    async def _opened(self, step: OpenGate, node: Node) -> None:
        late = step.outcome == "deadline"
        log.log(
            logging.WARNING if late else logging.INFO,
            "gate.opened",
            extra={"outcome": step.outcome, "detail": step.message},
        )
        self._counts.gate_opened(step.outcome)
        reason = "gate-opened-late" if late else "gate-opened"
        await tell(self._events, node_event(node, reason, step.message, "Gate", self._now(), late, step.since))


def in_this_boot(node: Node | None, boot_id: str) -> Node | None:
    """Until its kubelet writes, the node object shows the boot before: the kernel's word counts ("" where it is not known)."""
    return None if node is None else replace(node, boot_id=boot_id or node.boot_id)
