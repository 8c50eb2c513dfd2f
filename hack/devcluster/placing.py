"""Where a pod can go, and who would have to leave for it: the scheduler's decisions, without its deeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hack.devcluster.dra.demand import Demand
from hack.devcluster.objects import Object, dig, is_deleting, name_of, uid_of
from hack.devcluster.pod_affinity import AFFINITY, affinity_reason
from hack.devcluster.scheduling import lasting_reason_against, preference, shortages

NOT_HELPFUL = "Preemption is not helpful for scheduling."
NO_VICTIMS = "No preemption victims found for incoming pod."

Guarded = Callable[[Object], bool]


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why a node is impossible. ``lasting``: no matter which pods leave it."""

    reasons: Sequence[str] = ()
    lasting: bool = False


@dataclass(frozen=True, slots=True)
class Preemption:
    node: str
    victims: Sequence[Object]


@dataclass(frozen=True, slots=True)
class Cluster:
    """``bound``: the pods that take something of a node; one that is ending does until it is gone. A pod that was
    promised room (``status.nominatedNodeName``) counts as bound for pods of no higher priority."""

    nodes: Sequence[Object]
    bound: Sequence[Object]
    nominated: Sequence[Object]
    demand: Demand | None = None  # of the one pod that is asked about, where it has claims on devices

    def verdict(self, pod: Object, node: Object) -> Verdict:
        return self._verdict(pod, node, [*self.bound, *self._promised(pod)])

    def best_node(self, pod: Object) -> Object | None:
        """The most preferred, the first by name among equals (a choice: the real one draws lots)."""
        possible = [node for node in self.nodes if not self.verdict(pod, node).reasons]
        return max(possible, key=lambda node: preference(pod, node), default=None)

    def preemption(self, pod: Object, is_guarded: Guarded) -> Preemption | None:
        """Whom the pod may push aside, where that hurts least; ``is_guarded``: a budget forbids to disrupt the pod."""
        found = [
            Preemption(name_of(node), victims)
            for node in self.nodes
            if not self.verdict(pod, node).lasting and (victims := self._victims(pod, node, is_guarded))
        ]
        return min(found, key=lambda option: _harm(option, is_guarded), default=None)

    def waits_for_victims(self, pod: Object) -> bool:
        """Whether pods of lower priority are on their way out of the node that the pod was promised."""
        promised = dig(pod, "status.nominatedNodeName")
        return bool(promised) and any(
            dig(other, "spec.nodeName") == promised and is_deleting(other) and priority_of(other) < priority_of(pod)
            for other in self.bound
        )

    def explain(self, pod: Object) -> str:
        """The message of the FailedScheduling event, preemption's part included, as 1.34 words it."""
        if not self.nodes:
            return "no nodes available to schedule pods"
        problem = self.demand.problem() if self.demand is not None else ""
        verdicts = [self.verdict(pod, node) for node in self.nodes]
        total = len(self.nodes)
        reasons = Counter(reason for verdict in verdicts for reason in verdict.reasons)
        hopeless = Counter(NOT_HELPFUL if verdict.lasting else NO_VICTIMS for verdict in verdicts)
        if self.waits_for_victims(pod):
            tail = "not eligible due to a terminating pod on the nominated node."
        elif dig(pod, "spec.preemptionPolicy") == "Never":
            tail = "not eligible due to preemptionPolicy=Never."
        else:
            tail = f"0/{total} nodes are available: {_counted(hopeless)}"
        said = problem or _counted(reasons)
        return f"0/{total} nodes are available: {said}. {self._about_claims(problem)}, preemption: {tail}"

    def _about_claims(self, problem: str) -> str:
        if self.demand is None or problem:
            return "no new claims to deallocate"
        if self.stuck_claim() is not None:
            return "deallocation of ResourceClaim completed"
        return "still not schedulable"

    def stuck_claim(self) -> Object | None:
        """A claim of the pod's, unused by others, whose devices lie where the pod cannot go."""
        if self.demand is None or self.demand.problem():
            return None
        return self.demand.stuck_claim(self.nodes)

    def _promised(self, pod: Object) -> list[Object]:
        return [
            {**other, "spec": {**other["spec"], "nodeName": dig(other, "status.nominatedNodeName")}}
            for other in self.nominated
            if uid_of(other) != uid_of(pod) and priority_of(other) >= priority_of(pod)
        ]

    def _verdict(self, pod: Object, node: Object, bound: Sequence[Object]) -> Verdict:
        if self.demand is not None and (problem := self.demand.problem()):
            return Verdict([problem], lasting=True)
        if reason := lasting_reason_against(pod, node):
            return Verdict([reason], lasting=True)
        here = [other for other in bound if dig(other, "spec.nodeName") == name_of(node)]
        if missing := shortages(pod, node, here):
            # More than the node has when it is empty: nobody's leaving helps.
            return Verdict(missing, lasting=bool(shortages(pod, node, [])))
        by_name = {name_of(each): each for each in self.nodes}
        if reason := affinity_reason(pod, node, by_name, bound):
            return Verdict([reason], lasting=reason == AFFINITY)
        reason = self.demand.reason_against(node) if self.demand is not None else ""
        return Verdict([reason] if reason else [], lasting=bool(reason))

    def _victims(self, pod: Object, node: Object, is_guarded: Guarded) -> list[Object]:
        """As few as possible: all of lower priority leave, then as many as fit come back, guarded and important first."""
        promised = self._promised(pod)
        lower = [
            other
            for other in self.bound
            if dig(other, "spec.nodeName") == name_of(node) and priority_of(other) < priority_of(pod)
        ]
        chosen = {uid_of(other) for other in lower}
        staying = [other for other in self.bound if uid_of(other) not in chosen] + promised
        if self._verdict(pod, node, staying).reasons:
            return []
        victims: list[Object] = []
        for other in sorted(lower, key=lambda each: (not is_guarded(each), -priority_of(each), _age(each))):
            if self._verdict(pod, node, [*staying, other]).reasons:
                victims.append(other)
            else:
                staying.append(other)
        return victims


def priority_of(pod: Object) -> int:
    return int(dig(pod, "spec.priority", 0) or 0)


def _age(pod: Object) -> str:
    return str(dig(pod, "metadata.creationTimestamp"))


def _harm(option: Preemption, is_guarded: Guarded) -> tuple[int, int, int, int]:
    """Fewest budgets violated, then the least important victim, the least importance together, the fewest."""
    priorities = [priority_of(victim) for victim in option.victims]
    return sum(map(is_guarded, option.victims)), max(priorities), sum(priorities), len(priorities)


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(sorted(f"{count} {reason}" for reason, count in reasons.items()))
