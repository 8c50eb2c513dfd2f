"""What would this label do? The engine's own decision, asked for and not carried out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf

from agent.desired.resolve import Sources, resolve
from agent.model import labels
from agent.model.answer import Answer
from agent.model.desired import Wish
from agent.model.node import Node
from agent.model.snapshot import Snapshot
from agent.plan.geometry import feasible
from agent.plan.partition import decide
from agent.plan.way import Memory, Policy
from agent.report.answer import answer_of

_RENEW_SECONDS = 30.0
"""Each write of a node goes to everyone who watches nodes: an answer is renewed no more often, whatever comes and goes."""


def foretell(sources: Sources, seen: Snapshot, policy: Policy) -> Answer:
    """What the wish of these sources would do to this world, as if it came now to a node where nothing is under way."""
    return _answer(resolve(sources, seen.gpus, feasible), seen, policy)


def _answer(wish: Wish, seen: Snapshot, policy: Policy) -> Answer:
    asking = {**seen.node.annotations, labels.DRY_RUN: "true"}
    seen = replace(seen, node=replace(seen.node, annotations=asking))
    return answer_of(decide(wish, seen, policy, Memory()), wish, seen)


def is_dry_run(node: Node) -> bool:
    """Whether the node asks for an answer and nothing else; a change that is under way is ended first."""
    return node.annotations.get(labels.DRY_RUN) == "true" and labels.OPERATION not in node.annotations


class DryRun:
    """Keeps the answer on the node true while the question stands there, without a write for everything that comes and goes.

    When it last wrote is lost with the process; then the next answer may come early.
    """

    def __init__(self, policy: Policy, now: Callable[[], float]) -> None:
        self._policy = policy
        self._now = now
        self._written, self._layout = -inf, ""

    def news(self, wish: Wish, seen: Snapshot, node: Node) -> dict[str, str | None]:
        """The annotation where it has to change now. A pass that stood aside has seen no GPU and knows nothing."""
        there = node.annotations.get(labels.PLAN)
        if not is_dry_run(node):
            return {} if there is None else {labels.PLAN: None}
        if not seen.gpus:
            return {}
        answer = _answer(wish, seen, self._policy)
        early = there is not None and self._now() - self._written < _RENEW_SECONDS and answer.layout == self._layout
        if answer.to_json() == there or early:
            return {}
        return {labels.PLAN: answer.to_json()}

    def written(self, news: dict[str, str | None]) -> None:
        """An answer has reached the node."""
        text = news.get(labels.PLAN)
        if text is not None:
            answer = Answer.from_json(text)
            self._written, self._layout = self._now(), answer.layout if answer is not None else ""
