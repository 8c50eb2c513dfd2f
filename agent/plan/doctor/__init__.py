"""What is wrong with a cluster, from what was seen of it: every check, the gravest findings first. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from agent.model.cluster_view import ClusterView
from agent.model.doctor import Finding
from agent.plan.doctor.agents import agents
from agent.plan.doctor.leftovers import leftovers
from agent.plan.doctor.owners import owners
from agent.plan.doctor.pods import pods
from agent.plan.doctor.wishes import configuration, wishes

Check = Callable[[ClusterView], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (owners, agents, leftovers, wishes, configuration, pods)


def examine_cluster(view: ClusterView, node: str = "") -> tuple[Finding, ...]:
    """All of it; with ``node`` what is there, and what is no node's alone."""
    found = (finding for check in CHECKS for finding in check(view))
    return in_order(one for one in found if not node or one.node in ("", node))


def in_order(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The gravest first, each once."""
    unique = dict.fromkeys(findings)
    return tuple(sorted(unique, key=lambda one: (one.code.severity.rank, one.node, one.code.word, one.where)))
