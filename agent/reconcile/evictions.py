"""Evictions of a plan: each pod is asked for by itself, and what came of it stands until it is asked for again."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Protocol

from agent.execute.partition import Hands
from agent.model.errors import BudgetError, RefusedError, RetryError
from agent.model.node import Node, PodRef
from agent.model.steps import Evict, Plan, Waiting

log = logging.getLogger("warmslice.partition")

_ASK_AGAIN_SECONDS = 5.0
"""A refused eviction, or one whose effect the watch has not shown yet, is not asked for again before."""

_REFUSED_SECONDS = 60.0
"""Nor one that the API server forbids: a person has to act."""


class Counts(Protocol):
    """Evictions are counted where they happen."""

    def pod_evicted(self) -> None: ...


@dataclass(frozen=True, slots=True)
class _Asked:
    """One eviction that was asked for, when it may be asked for again, and what keeps the pod here; None where it goes."""

    again: float
    answer: Waiting | None


class Evictions:
    """Remembers of each pod when it was asked last, and what came of it; a restart may forget it."""

    def __init__(self, hands: Hands, counts: Counts, now: Callable[[], float]) -> None:
        self._hands = hands
        self._counts = counts
        self._now = now
        self._asked: dict[PodRef, _Asked] = {}

    async def ask(self, plan: Plan, node: Node) -> Waiting:
        """Ask for the evictions of the plan, those of the lowest priority first; what is waited for now. One that is refused
        keeps no other pod of its priority from leaving, but those of a higher one are not asked before."""
        steps = [step for step in plan.steps if isinstance(step, Evict)]
        self._asked = {step.pod: self._asked[step.pod] for step in steps if step.pod in self._asked}
        refused: list[Waiting] = []
        for _, equals in groupby(steps, key=lambda step: step.priority):
            refused += [answer for step in equals if (answer := await self._one(step, plan, node)) is not None]
            if refused:
                break
        again = max(0.1, min(asked.again for asked in self._asked.values()) - self._now())
        if refused:
            message = "; ".join(answer.message for answer in refused)
            pods = tuple(pod for answer in refused for pod in answer.pods)
            return replace(refused[0], message=message, change=plan.change, look_again_seconds=again, pods=pods)
        names = ", ".join(str(step.pod) for step in steps)
        pods = tuple(step.pod for step in steps)
        return Waiting("draining", f"waiting for pods to end: {names}", plan.change, again, pods)

    async def _one(self, step: Evict, plan: Plan, node: Node) -> Waiting | None:
        """What keeps this pod here; None where it goes."""
        asked = self._asked.get(step.pod)
        if asked is None or asked.again <= self._now():
            seconds, answer = await self._answer(step, plan, node)
            asked = self._asked[step.pod] = _Asked(self._now() + seconds, answer)
        return asked.answer

    async def _answer(self, step: Evict, plan: Plan, node: Node) -> tuple[float, Waiting | None]:
        """(seconds until it may be asked for again, what keeps the pod here)."""
        # Many agents may wait for one budget: they do not ask in step.
        pause = _ASK_AGAIN_SECONDS * random.uniform(1.0, 1.3)
        try:
            await self._hands.perform(step, node, {})
        except BudgetError as error:
            words = f"a disruption budget does not let {step.pod} go now: {error}"
            return pause, Waiting("budget", words, plan.change, pods=(step.pod,))
        except RefusedError as error:
            return _REFUSED_SECONDS, Waiting("refused", str(error), plan.change, pods=(step.pod,))
        except RetryError as error:
            waiting = Waiting("eviction-failing", str(error), plan.change, pods=(step.pod,))
            return max(pause, error.after_seconds or 0.0), waiting
        log.info("step.done", extra={"step": "Evict", "pod": str(step.pod)})
        self._counts.pod_evicted()
        return pause, None
