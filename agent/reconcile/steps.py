"""Takes the steps of a plan on this node: what is waited for where one was not taken, and what is counted."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agent.execute.lanes import side_by_side
from agent.execute.partition import Hands
from agent.model import labels
from agent.model.desired import Wish
from agent.model.errors import (
    AgentError,
    ConflictError,
    HardwareError,
    InUseError,
    RebootError,
    RefusedError,
    RetryError,
)
from agent.model.node import Node
from agent.model.operation import Operation, operation_on
from agent.model.report import NodeStatus
from agent.model.snapshot import Snapshot
from agent.model.steps import (
    AnnounceReboot,
    Begin,
    Create,
    Destroy,
    End,
    Evict,
    Outcome,
    Plan,
    Prepare,
    Reboot,
    Refresh,
    RestartClient,
    SetMode,
    Step,
    Trim,
    Turn,
    Waiting,
)
from agent.observe.cluster import node_of
from agent.plan.lanes import batches, gpu_of
from agent.plan.reboot import met
from agent.reconcile.evictions import Evictions
from agent.reconcile.rebooting import Rebooting
from agent.report.status import said

log = logging.getLogger("warmslice.partition")

_TRY_AGAIN_SECONDS = 5.0
"""A step that ran into a passing fault is not taken again before."""

_FAILING: dict[type[Step], str] = {
    SetMode: "driver-failing",
    Destroy: "driver-failing",
    Trim: "driver-failing",
    Create: "driver-failing",
    Prepare: "before-failing",
    Refresh: "refresh-failing",
}
"""What the node says while a passing fault does not pass. Where the API server itself fails, nothing can be said."""


_PHASES: dict[type[Step], str] = {SetMode: "mode", Prepare: "prepare", Refresh: "refresh"}


class Counts(Protocol):
    """Facts of the event kind, counted where they happen."""

    def slice_changed(self, action: str) -> None: ...

    def pod_evicted(self) -> None: ...

    def reconfigured(self, outcome: str, reason: str) -> None: ...

    def phase(self, phase: str, seconds: float) -> None: ...

    def drifted(self) -> None: ...


class NodeStore(Protocol):
    """Takes the node as the API server answered it, so that the next pass does not decide on an older one."""

    def put(self, item: dict[str, Any]) -> None: ...


@dataclass(frozen=True, slots=True)
class Errand:
    """A plan with what it was made from. ``last`` is the status that stands on the node."""

    plan: Plan
    wish: Wish
    seen: Snapshot
    last: NodeStatus | None


class Steps:
    """``status`` is what the node is to say after an errand, ``tell`` says it to people, and ``show`` shows whoever looks on
    which steps are taken, and which are being taken."""

    def __init__(
        self,
        hands: Hands,
        store: NodeStore,
        counts: Counts,
        now: Callable[[], float],
        status: Callable[[Errand], NodeStatus | None],
        tell: Callable[[Node, NodeStatus], Awaitable[None]],
        show: Callable[[Errand, Set[int], Set[int], Node], None],
    ) -> None:
        self._hands = hands
        self._store = store
        self._counts = counts
        self._now = now
        self._status = status
        self._tell = tell
        self._show = show
        self._evictions = Evictions(hands, counts, now)
        self._rebooting = Rebooting(hands)

    async def carry_out(self, errand: Errand, node: Node) -> Outcome:
        """Take the plan's steps; the plan itself when all were taken, else what is waited for."""
        plan = errand.plan
        if any(isinstance(step, Evict) for step in plan.steps):
            return await self._evictions.ask(plan, node)
        behind: dict[str, Waiting] = {}
        taken: set[int] = set()
        doing: set[int] = set()

        async def take(number: int) -> None:
            nonlocal node
            doing.add(number)
            self._show(errand, taken, doing, node)
            try:
                node = await self._take(plan.steps[number], errand, node)
            except AgentError as error:
                # Of several side by side the node names the gravest.
                step = plan.steps[number]
                log.warning("step.not-taken", extra={"step": type(step).__name__, **_named(step), "error": str(error)})
                raise
            finally:
                doing.discard(number)
            taken.add(number)

        for batch in batches(plan.steps):
            back = _goes_back(node)
            lanes = [lane for lane in batch if gpu_of(plan.steps[lane[0]]) not in behind]
            errors = await side_by_side(lanes, take, alone=back)
            for number, error in sorted(errors.items(), key=_gravest_first):
                step = plan.steps[number]
                waiting = await self._met(error, step, errand, node)
                if not gpu_of(step) or isinstance(error, RebootError) or not back:
                    return waiting
                # The other GPUs have their old layout back without this one.
                behind[gpu_of(step)] = waiting
        if behind:
            first = next(iter(behind.values()))
            return replace(first, message="; ".join(waiting.message for waiting in behind.values()))
        if any(isinstance(step, RestartClient) for step in plan.steps):
            # Until the watch shows it ending, the pod looks as if nobody had asked.
            return Waiting("clients-restarting", "waiting for GPU clients to start anew", plan.change, 2.0)
        return plan

    async def _met(self, error: AgentError, step: Step, errand: Errand, node: Node) -> Waiting:
        """What is waited for where a step was not taken. An error that this loop has no word for is raised again."""
        change = errand.plan.change
        on_hardware = isinstance(step, SetMode | Destroy | Trim | Create)
        match error:
            case RebootError():
                return await self._wait_for_reboot(step, errand, node, str(error))
            case InUseError():
                return Waiting("gpu-in-use", str(error), change, 2.0)
            case ConflictError():
                return Waiting("conflict", "the node changed while we decided", change, 0.2)
            case RefusedError() if isinstance(step, Reboot):
                return await self._fail(errand.wish, str(error), node, "reboot-failed")
            case RefusedError() if not on_hardware:
                return Waiting("refused", str(error), change, 60.0)
            case HardwareError() | RefusedError():
                return await self._fail(errand.wish, str(error), node)
            case RetryError() if type(step) in _FAILING:
                return Waiting(_FAILING[type(step)], str(error), change, _TRY_AGAIN_SECONDS)
            case _:
                raise error

    async def _take(self, step: Step, errand: Errand, node: Node) -> Node:
        """The node as it is now."""
        status = self._status(errand) if isinstance(step, Begin | AnnounceReboot | End) else None
        words = said(status) if status is not None else {}
        if labels.PLAN in node.annotations and status is not None:
            words["annotations"][labels.PLAN] = None
        written, started = None, self._now()
        if isinstance(step, Reboot):
            await self._rebooting.run(step, node, operation_on(node))
        else:
            written = await self._hands.perform(step, node, words)
        seconds = self._now() - started
        log.info("step.done", extra={"step": type(step).__name__, **_named(step), "seconds": round(seconds, 3)})
        if written is not None:
            self._store.put(written)
            node = node_of(written)
        if status is not None and written is not None:
            await self._tell(node, status)
        self._count(step, seconds)
        return node

    async def _fail(self, wish: Wish, message: str, node: Node, reason: str = "rolled-back") -> Waiting:
        """The driver refused: write down that we go back, unless we are already going back."""
        log.error("step.failed", extra={"error": message})
        operation = operation_on(node)
        if operation is None or operation.failure:
            return Waiting("rollback-failed", f"the old layout cannot be put back yet: {message}", None, 30.0)
        await self._turn(operation.towards(wish).failed(message, reason), node)
        return Waiting("going-back", message, None, 0.0)

    async def _wait_for_reboot(self, step: Step, errand: Errand, node: Node, message: str) -> Waiting:
        """A mode is asked for, and comes with a reboot only: write that down, and decide anew."""
        operation = operation_on(node)
        if operation is None or not isinstance(step, SetMode):
            return await self._fail(errand.wish, message, node)
        await self._turn(met(operation, errand.wish, errand.seen, step.gpu, step.enabled), node)
        return Waiting("reboot-required", message, None, 0.0)

    async def _turn(self, operation: Operation, node: Node) -> None:
        written = await self._hands.perform(Turn(operation), node, {})
        if written is not None:
            self._store.put(written)

    def _count(self, step: Step, seconds: float) -> None:
        match step:
            case Destroy():
                self._counts.slice_changed("destroyed")
                self._counts.phase("destroy", seconds)
            case Trim(parts=parts):
                for _ in parts:
                    self._counts.slice_changed("destroyed")
                self._counts.phase("destroy", seconds)
            case Create():
                self._counts.slice_changed("created")
                self._counts.phase("create", seconds)
            case SetMode() | Prepare() | Refresh():
                self._counts.phase(_PHASES[type(step)], seconds)
            case End(operation, state, reason):
                self._counts.reconfigured(state, reason)
                self._counts.phase("total", max(0.0, self._now() - operation.started))
            case _:
                return


def _gravest_first(met: tuple[int, AgentError]) -> tuple[bool, int]:
    """What leads back goes before what passes by itself."""
    number, error = met
    return not isinstance(error, HardwareError | RefusedError), number


def _goes_back(node: Node) -> bool:
    operation = operation_on(node)
    return operation is not None and bool(operation.failure)


def _named(step: Step) -> dict[str, str]:
    """What a step is about, for the log."""
    match step:
        case Destroy(gpu, placement, profile):
            return {"gpu": gpu, "placement": str(placement), "profile": profile}
        case Trim(gpu, placement, profile, parts):
            return {"gpu": gpu, "placement": str(placement), "profile": profile, "parts": ",".join(map(str, parts))}
        case Create(gpu, placement, shape):
            return {"gpu": gpu, "placement": str(placement), "profile": str(shape)}
        case _:
            return {}
