"""Evictions of a plan: each pod is asked for by itself, and what came of it stands until it is asked for again."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from agent.execute.partition import Hands
from agent.model.errors import BudgetError, RefusedError, RetryError
from agent.model.node import Node, PodRef
from agent.model.steps import Evict, Plan, Waiting

log = logging.getLogger("warmslice.partition")

_ASK_AGAIN_SECONDS = 5.0
"""A refused eviction, or one whose effect the watch has not shown yet, is not asked for again before."""


class Counts(Protocol):
    """Evictions are counted where they happen."""

    def pod_evicted(self) -> None: ...


class Evictions:
    """Remembers what was asked for last, and when; a restart may forget it."""

    def __init__(self, hands: Hands, counts: Counts, now: Callable[[], float]) -> None:
        self._hands = hands
        self._counts = counts
        self._now = now
        self._asked: tuple[tuple[PodRef, ...], float] = ((), 0.0)
        self._answer = Waiting("draining", "")

    async def ask(self, plan: Plan, node: Node) -> Waiting:
        """Ask for every eviction of the plan; what is waited for now. One that is refused keeps no other pod from leaving."""
        pods = tuple(step.pod for step in plan.steps if isinstance(step, Evict))
        if self._asked[0] == pods and self._now() - self._asked[1] < _ASK_AGAIN_SECONDS:
            return self._answer
        self._asked = (pods, self._now())
        self._answer = Waiting("draining", f"waiting for pods to end: {', '.join(map(str, pods))}", plan.change)
        refused = [waiting for pod in pods if (waiting := await self._one(pod, plan, node)) is not None]
        if refused:
            self._answer = replace(refused[0], message="; ".join(waiting.message for waiting in refused))
        return self._answer

    async def _one(self, pod: PodRef, plan: Plan, node: Node) -> Waiting | None:
        """What keeps this pod here; None where it goes."""
        try:
            await self._hands.perform(Evict(pod), node, {})
        except BudgetError as error:
            wait = _ASK_AGAIN_SECONDS * random.uniform(1.0, 1.3)
            return Waiting("budget", f"a disruption budget does not let {pod} go now: {error}", plan.change, wait)
        except RefusedError as error:
            return Waiting("refused", str(error), plan.change, 60.0)
        except RetryError as error:
            return Waiting("eviction-failing", str(error), plan.change, _ASK_AGAIN_SECONDS)
        log.info("step.done", extra={"step": "Evict", "pod": str(pod)})
        self._counts.pod_evicted()
        return None
