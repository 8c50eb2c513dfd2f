"""One pass of the partition loop: desired -> observe -> plan -> execute -> report."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from typing import Any, Protocol

from agent.desired.resolve import Sources, resolve
from agent.execute.lanes import side_by_side
from agent.execute.partition import Hands
from agent.model import labels
from agent.model.desired import Desired, Unasked, Wish
from agent.model.errors import (
    AgentError,
    BadInputError,
    ConflictError,
    HardwareError,
    InUseError,
    RebootError,
    RefusedError,
    RetryError,
)
from agent.model.node import Node, PodRef
from agent.model.operation import Operation
from agent.model.report import NodeStatus, PartitionReport
from agent.model.schedule import InForce
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
from agent.observe.world import World
from agent.plan.advertise import offered
from agent.plan.drain import unlisted, waited_for, workloads_of_holders
from agent.plan.geometry import feasible
from agent.plan.lanes import batches, gpu_of
from agent.plan.partition import decide
from agent.plan.reboot import met
from agent.plan.upgrade import driver_leaves, upgrading
from agent.plan.way import Memory, Policy
from agent.reconcile.evictions import Evictions
from agent.reconcile.fleet import Slots
from agent.reconcile.foretell import DryRun, is_dry_run
from agent.reconcile.rebooting import Rebooting
from agent.reconcile.sources import sources_of, unready_models
from agent.reconcile.telling import EventSink, tell
from agent.report.status import said, schedule_now, status_event, status_of, worth_a_write

log = logging.getLogger("warmslice.partition")

_SAY_WAITS_AFTER_SECONDS = 5.0
"""In mid-change a short wait is not worth a write of the node; metrics show it at once."""

_SAY_FAULTS_AFTER_SECONDS = 30.0
"""A fault that passes sooner is for log and metrics only."""

_TRY_AGAIN_SECONDS = 5.0
"""A step that ran into a passing fault is not taken again before."""

_SAID_AGAIN_SECONDS = 600.0
"""What stands on the node since a shorter time, and was not told by this process, is told: a kill, or the loss of an answer, may
have come before its Event."""

_MOST_TOLD = 50

_ANSWER_SECONDS = 30.0
"""A node that asks for a dry run is looked at so often: budgets change without an event of ours."""

_SLOT_IS_KEPT = frozenset({"pod-starting", "kubelet-unreachable"})
"""Waits that pass by themselves: who has asked for a slot keeps its place meanwhile."""

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
class Rules:
    """What the settings say to this loop. ``catalog_file`` is empty where changes do not wait for models."""

    layouts_file: str
    label_key: str
    policy: Policy
    resync_seconds: float
    catalog_file: str = ""


class PartitionPass:
    """Call it as often as you like: each time it reads everything again. It keeps since when it has been waiting for what,
    which a restart may forget.
    """

    def __init__(
        self,
        world: World,
        hands: Hands,
        store: NodeStore,
        events: EventSink,
        counts: Counts,
        slots: Slots,
        publish: Callable[[PartitionReport], None],
        rules: Rules,
        now: Callable[[], float],
    ) -> None:
        self._world = world
        self._hands = hands
        self._store = store
        self._events = events
        self._counts = counts
        self._slots = slots
        self._publish = publish
        self._rules = rules
        self._now = now
        self._waits_for = ""
        self._waits_since = 0.0
        self._waits_message = ""
        self._told: deque[tuple[object, ...]] = deque(maxlen=_MOST_TOLD)
        self._starting: dict[PodRef, float] = {}
        self._decided_on = ("", 0.0, "")
        self._faulty_since: float | None = None
        self._period: InForce | None = None
        self._evictions = Evictions(hands, counts, now)
        self._rebooting = Rebooting(hands)
        self._last_report = PartitionReport(0.0, (), (), None, owners_known=False)
        self._dry_run = DryRun(rules.policy, now)

    async def __call__(self) -> float:
        """One pass; after how many seconds to look again at the latest. A fault is reported, and raised for the loop."""
        try:
            wait = await self._pass()
            self._faulty_since = None
            return wait
        except AgentError as error:
            await self._say_fault(str(error))
            self._last_report = replace(self._last_report, finished=self._now(), error=str(error))
            self._publish(self._last_report)
            raise

    async def _pass(self) -> float:
        node = self._world.node()
        if node is None:
            # The watch wakes the loop when it is; readiness says so meanwhile.
            return 5.0
        last = NodeStatus.from_json(node.annotations.get(labels.STATUS, "null"))
        if last is not None and self._now() - last.since < _SAID_AGAIN_SECONDS and _words(last) not in self._told:
            await self._tell(node, last)
        decided, wish, seen = await self._decide(node, last)
        outcome = await self._with_slot(decided, node)
        if isinstance(outcome, Plan):
            outcome = await self._carry_out(outcome, wish, seen, node, last)
            if _begins(decided) and isinstance(outcome, Waiting) and outcome.reason == "refused":
                await self._slots.give_back()
        else:
            log.debug("pass.outcome", extra={"outcome": type(outcome).__name__})
        self._remember(outcome)
        status = last
        if not isinstance(outcome, Plan):
            status = await self._report(outcome, wish, seen, last)
        self._last_report = self._summary(seen, status, outcome, self._world.node() or node)
        self._publish(self._last_report)
        wait = self._look_again(outcome)
        if self._period is not None:
            wait = min(wait, max(0.0, self._period.until - self._now()))
        return min(wait, _ANSWER_SECONDS) if is_dry_run(node) else wait

    async def _decide(self, node: Node, last: NodeStatus | None) -> tuple[Outcome, Wish, Snapshot]:
        if await self._stand_aside(node):
            seen = Snapshot(self._now(), node, (), (), None)
            words = f"a driver upgrade runs on this node ({upgrading(node)}); NVML is closed"
            waiting = Waiting("driver-upgrade", words)
            return waiting, resolve(self._sources(node, last), (), feasible), seen
        seen = await self._world.snapshot(node)
        seen = replace(seen, unready=unready_models(self._rules.catalog_file, node))
        wish = resolve(self._sources(node, last), seen.gpus, feasible)
        try:
            operation = _operation(node)
        except BadInputError as error:
            return Waiting("operation-unreadable", str(error), look_again_seconds=60.0), wish, seen
        if seen.owners is not None:
            self._starting = {pod.ref: self._starting.get(pod.ref, seen.now) for pod in unlisted(seen)}
        memory = Memory(operation, last, *self._decided_on, self._starting)
        outcome = decide(wish, seen, self._rules.policy, memory)
        change = outcome.change if isinstance(outcome, Plan | Waiting) else None
        if is_dry_run(node) or (change is not None and change.moves):
            seen = replace(seen, budgets=await self._world.budgets())
            outcome = decide(wish, seen, self._rules.policy, memory)
        return outcome, wish, seen

    async def _with_slot(self, outcome: Outcome, node: Node) -> Outcome:
        """The same, unless a change would begin and the fleet has to wait for others. A change that is under way has its slot."""
        if labels.OPERATION in node.annotations:
            return outcome
        if isinstance(outcome, Plan) and _begins(outcome):
            waiting = await self._slots.may_begin()
            return outcome if waiting is None else replace(waiting, change=outcome.change)
        if not (isinstance(outcome, Waiting) and outcome.reason in _SLOT_IS_KEPT):
            await self._slots.give_back()
        return outcome

    async def _stand_aside(self, node: Node) -> bool:
        """While the driver is being replaced no session of ours may keep it loaded."""
        if not driver_leaves(node):
            return False
        await self._world.release()
        return True

    def _sources(self, node: Node, last: NodeStatus | None) -> Sources:
        sources = sources_of(self._rules.label_key, self._rules.layouts_file, node.labels, last, self._now())
        self._period = sources.period
        return sources

    def _status(self, outcome: Outcome, wish: Wish, seen: Snapshot, last: NodeStatus | None) -> NodeStatus | None:
        status = status_of(outcome, wish, seen, last, self._now())
        if status is None:
            return None
        offers = offered(wish, seen) if isinstance(wish, Desired) and not wish.unread else status.offers
        return replace(status, schedule=schedule_now(self._period), offers=offers)

    async def _carry_out(self, plan: Plan, wish: Wish, seen: Snapshot, node: Node, last: NodeStatus | None) -> Outcome:
        """Take the plan's steps; the plan itself when all were taken, else what is waited for."""
        if any(isinstance(step, Evict) for step in plan.steps):
            return await self._evictions.ask(plan, node)
        behind: dict[str, Waiting] = {}
        taken: set[int] = set()
        doing: set[int] = set()

        async def take(number: int) -> None:
            nonlocal node
            step, started = plan.steps[number], self._now()
            doing.add(number)
            self._show_steps(plan, taken, doing, seen, node)
            try:
                node = await self._take(step, plan, wish, seen, node, last)
            finally:
                doing.discard(number)
            taken.add(number)
            self._count(step, self._now() - started)

        for batch in batches(plan.steps):
            back = _goes_back(node)
            lanes = [lane for lane in batch if gpu_of(plan.steps[lane[0]]) not in behind]
            errors = await side_by_side(lanes, take, alone=back)
            for number, error in sorted(errors.items(), key=_gravest_first):
                step = plan.steps[number]
                waiting = await self._met(error, step, plan, wish, seen, node)
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

    def _show_steps(self, plan: Plan, taken: Set[int], doing: Set[int], seen: Snapshot, node: Node) -> None:
        """Steps on the hardware take seconds each; whoever looks on shall see them go by."""
        if any(isinstance(step, SetMode | Destroy | Trim | Create) for step in plan.steps):
            report = self._summary(seen, self._last_report.status, plan, node)
            report = replace(report, steps=plan.steps, taken=frozenset(taken), doing=frozenset(doing))
            self._publish(replace(report, finished=self._last_report.finished))

    async def _met(self, error: AgentError, step: Step, plan: Plan, wish: Wish, seen: Snapshot, node: Node) -> Waiting:
        """What is waited for where a step was not taken. An error that this loop has no word for is raised again."""
        on_hardware = isinstance(step, SetMode | Destroy | Trim | Create)
        match error:
            case RebootError():
                return await self._wait_for_reboot(step, wish, seen, node, str(error))
            case InUseError():
                return Waiting("gpu-in-use", str(error), plan.change, 2.0)
            case ConflictError():
                return Waiting("conflict", "the node changed while we decided", plan.change, 0.2)
            case RefusedError() if isinstance(step, Reboot):
                return await self._fail(wish, str(error), node, "reboot-failed")
            case RefusedError() if not on_hardware:
                return Waiting("refused", str(error), plan.change, 60.0)
            case HardwareError() | RefusedError():
                return await self._fail(wish, str(error), node)
            case RetryError() if type(step) in _FAILING:
                return Waiting(_FAILING[type(step)], str(error), plan.change, _TRY_AGAIN_SECONDS)
            case _:
                raise error

    async def _take(
        self, step: Step, plan: Plan, wish: Wish, seen: Snapshot, node: Node, last: NodeStatus | None
    ) -> Node:
        status, started = None, self._now()
        if isinstance(step, Begin | AnnounceReboot | End):
            status = self._status(plan, wish, seen, last)
        words = said(status) if status is not None else {}
        if labels.PLAN in node.annotations and status is not None:
            words["annotations"][labels.PLAN] = None
        written = None
        if isinstance(step, Reboot):
            await self._rebooting.run(step, node, _operation(node))
        else:
            written = await self._hands.perform(step, node, words)
        seconds = round(self._now() - started, 3)
        log.info("step.done", extra={"step": type(step).__name__, **_named(step), "seconds": seconds})
        if written is None:
            return node
        self._store.put(written)
        node = node_of(written)
        if status is not None:
            await self._tell(node, status)
        return node

    async def _fail(self, wish: Wish, message: str, node: Node, reason: str = "rolled-back") -> Waiting:
        """The driver refused: write down that we go back, unless we are already going back."""
        log.error("step.failed", extra={"error": message})
        operation = _operation(node)
        if operation is None or operation.failure:
            return Waiting("rollback-failed", f"the old layout cannot be put back yet: {message}", None, 30.0)
        await self._turn(operation.towards(wish).failed(message, reason), node)
        return Waiting("going-back", message, None, 0.0)

    async def _wait_for_reboot(self, step: Step, wish: Wish, seen: Snapshot, node: Node, message: str) -> Waiting:
        """A mode is asked for, and comes with a reboot only: write that down, and decide anew."""
        operation = _operation(node)
        if operation is None or not isinstance(step, SetMode):
            return await self._fail(wish, message, node)
        await self._turn(met(operation, wish, seen, step.gpu, step.enabled), node)
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

    def _remember(self, outcome: Outcome) -> None:
        reason = outcome.reason if isinstance(outcome, Waiting) else ""
        self._waits_message = outcome.message if isinstance(outcome, Waiting) else ""
        if reason != "fleet-slot":
            # What led to the wish to begin has to stand as long as the slot is waited for.
            before, since, _ = self._decided_on
            self._decided_on = (reason, since if reason == before else self._now(), self._waits_message)
        if reason == self._waits_for:
            return
        if self._waits_for in ("draining", "clients-stopping", "not-advertised"):
            self._counts.phase(self._waits_for, self._now() - self._waits_since)
        self._waits_for, self._waits_since = reason, self._now()
        if reason:
            log.info("waiting", extra={"reason": reason, "detail": self._waits_message})

    async def _report(self, outcome: Outcome, wish: Wish, seen: Snapshot, last: NodeStatus | None) -> NodeStatus | None:
        """Say on the node what changed; the status as it stands now."""
        node = self._world.node() or seen.node
        status = self._status(outcome, wish, seen, last)
        if isinstance(outcome, Waiting) and outcome.reason == "conflict":
            # Gone with the next look, a moment from now.
            return last
        answer = self._dry_run.news(wish, seen, node)
        new = status if status is not None and status != last and worth_a_write(status, node, last) else None
        if labels.OPERATION in node.annotations and self._now() - self._waits_since < _SAY_WAITS_AFTER_SECONDS:
            return status
        if new is None and not answer:
            return status
        words = said(new) if new is not None else {"annotations": {}}
        words["annotations"] |= answer
        try:
            written = await self._hands.say(node, words)
        except ConflictError:
            return status
        self._store.put(written)
        self._dry_run.written(answer)
        if new is not None:
            await self._tell(node, new)
            if new.reason == "drift":
                self._counts.drifted()
        return status

    async def _say_fault(self, message: str) -> None:
        """On a node that waits for us, say what keeps us from looking, as far as the API server can still be told."""
        node = self._world.node()
        self._faulty_since = self._now() if self._faulty_since is None else self._faulty_since
        if node is None or self._now() - self._faulty_since < _SAY_FAULTS_AFTER_SECONDS:
            return
        last = NodeStatus.from_json(node.annotations.get(labels.STATUS, "null"))
        wish = resolve(self._sources(node, last), (), feasible)
        if isinstance(wish, Unasked) and labels.OPERATION not in node.annotations:
            return
        before = last or NodeStatus("pending", "fault", message, self._faulty_since)
        status = replace(before, state="pending", reason="fault", message=message, since=self._faulty_since)
        if not worth_a_write(status, node, last):
            return
        try:
            self._store.put(await self._hands.say(node, said(status)))
        except AgentError as error:
            log.debug("fault.unsaid", extra={"error": str(error)})
        else:
            await self._tell(node, status)

    async def _tell(self, node: Node, status: NodeStatus) -> None:
        status = status.cut
        self._told.append(_words(status))
        level = logging.ERROR if status.state == "failed" else logging.INFO
        fields = {"state": status.state, "reason": status.reason, "layout": status.layout, "detail": status.message}
        log.log(level, "status", extra=fields)
        await tell(self._events, status_event(node, status, self._now()))

    def _summary(self, seen: Snapshot, status: NodeStatus | None, outcome: Outcome, node: Node) -> PartitionReport:
        return PartitionReport(
            finished=self._now(),
            gpus=seen.gpus,
            owners=seen.owners if seen.owners is not None else self._last_report.owners,
            status=status,
            waits_for=self._waits_for,
            waits_since=self._waits_since,
            pods=waited_for(outcome.pods, seen) if isinstance(outcome, Waiting) else (),
            waits_message=self._waits_message,
            operation=_readable_operation(node),
            change=outcome.change if isinstance(outcome, Plan | Waiting) else None,
            workloads=workloads_of_holders(seen) if seen.owners is not None else self._last_report.workloads,
            owners_known=seen.owners is not None,
        )

    def _look_again(self, outcome: Outcome) -> float:
        match outcome:
            case Plan():
                return 0.0
            case Waiting():
                return min(outcome.look_again_seconds, self._rules.resync_seconds)
            case _:
                return self._rules.resync_seconds


def _operation(node: Node) -> Operation | None:
    text = node.annotations.get(labels.OPERATION)
    return Operation.from_json(text) if text else None


def _readable_operation(node: Node) -> Operation | None:
    """One that cannot be read is waited for under its own name."""
    try:
        return _operation(node)
    except BadInputError:
        return None


def _words(status: NodeStatus) -> tuple[object, ...]:
    return status.state, status.reason, status.message, status.since


def _begins(outcome: Outcome) -> bool:
    return isinstance(outcome, Plan) and any(isinstance(step, Begin) for step in outcome.steps)


def _gravest_first(met: tuple[int, AgentError]) -> tuple[bool, int]:
    """What leads back goes before what passes by itself."""
    number, error = met
    return not isinstance(error, HardwareError | RefusedError), number


def _goes_back(node: Node) -> bool:
    operation = _operation(node)
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
