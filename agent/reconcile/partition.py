"""One pass of the partition loop: desired -> observe -> plan -> execute -> report."""

from __future__ import annotations

import logging
import random
from collections import deque
from collections.abc import Callable, Set
from dataclasses import dataclass, replace

from agent.desired.resolve import Sources, resolve
from agent.execute.partition import Hands
from agent.model import labels
from agent.model.desired import Desired, Unasked, Wish
from agent.model.errors import (
    AgentError,
    BadInputError,
    ConflictError,
)
from agent.model.node import Node, PodRef
from agent.model.operation import Operation, operation_on
from agent.model.report import NodeStatus, PartitionReport
from agent.model.schedule import InForce
from agent.model.snapshot import Snapshot
from agent.model.steps import (
    Begin,
    Create,
    Destroy,
    Outcome,
    Plan,
    SetMode,
    Trim,
    Waiting,
)
from agent.observe.world import World
from agent.plan.advertise import offered
from agent.plan.drain import unlisted, waited_for, workloads_of_holders
from agent.plan.geometry import feasible
from agent.plan.partition import decide
from agent.plan.upgrade import driver_leaves, upgrading
from agent.plan.way import Memory, Policy
from agent.reconcile.fleet import Slots
from agent.reconcile.foretell import DryRun, is_dry_run
from agent.reconcile.sources import sources_of, unready_models
from agent.reconcile.steps import Counts, Errand, NodeStore, Steps
from agent.reconcile.telling import EventSink, tell
from agent.report.status import said, schedule_now, status_event, status_of, worth_a_write

log = logging.getLogger("warmslice.partition")

_SAY_WAITS_AFTER_SECONDS = 5.0
"""In mid-change a short wait is not worth a write of the node; metrics show it at once."""

_SAY_FAULTS_AFTER_SECONDS = 30.0
"""A fault that passes sooner is for log and metrics only."""

_SAID_AGAIN_SECONDS = 600.0
"""What stands on the node since a shorter time, and was not told by this process, is told: a kill, or the loss of an answer, may
have come before its Event."""

_MOST_TOLD = 50

_ANSWER_SECONDS = 30.0
"""A node that asks for a dry run is looked at so often: budgets change without an event of ours."""

_SLOT_IS_KEPT = frozenset({"pod-starting", "kubelet-unreachable"})
"""Waits that pass by themselves: who has asked for a slot keeps its place meanwhile."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the settings say to this loop. ``catalog_file`` is empty where changes do not wait for models. ``spread_seconds``:
    within so many seconds nodes see that a period of their schedule has begun, which is the same moment for all."""

    layouts_file: str
    label_key: str
    policy: Policy
    resync_seconds: float
    catalog_file: str = ""
    spread_seconds: float = 0.0


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
        self._steps = Steps(hands, store, counts, now, self._status_after, self._tell, self._show_steps)
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
            outcome = await self._steps.carry_out(Errand(outcome, wish, seen, last), node)
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
            late = random.uniform(0.0, self._rules.spread_seconds)
            wait = min(wait, max(0.0, self._period.until - self._now()) + late)
        return min(wait, _ANSWER_SECONDS * random.uniform(0.7, 1.0)) if is_dry_run(node) else wait

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
            operation = operation_on(node)
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

    def _status_after(self, errand: Errand) -> NodeStatus | None:
        return self._status(errand.plan, errand.wish, errand.seen, errand.last)

    def _show_steps(self, errand: Errand, taken: Set[int], doing: Set[int], node: Node) -> None:
        """Steps on the hardware take seconds each; whoever looks on shall see them go by."""
        steps = errand.plan.steps
        if any(isinstance(step, SetMode | Destroy | Trim | Create) for step in steps):
            report = self._summary(errand.seen, self._last_report.status, errand.plan, node)
            report = replace(report, steps=steps, taken=frozenset(taken), doing=frozenset(doing))
            self._publish(replace(report, finished=self._last_report.finished))

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


def _readable_operation(node: Node) -> Operation | None:
    """One that cannot be read is waited for under its own name."""
    try:
        return operation_on(node)
    except BadInputError:
        return None


def _words(status: NodeStatus) -> tuple[object, ...]:
    return status.state, status.reason, status.message, status.since


def _begins(outcome: Outcome) -> bool:
    return isinstance(outcome, Plan) and any(isinstance(step, Begin) for step in outcome.steps)
