"""What a deployment says of itself: its counts and the conditions Available, Progressing and ReplicaFailure.

Reasons and messages are those of the real controller of 1.34 (from memory of its ``progress.go`` and ``sync.go``):
kubectl's ``wait`` and ``rollout status`` read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from hack.devcluster.controllers.rollout_limits import most_unavailable, replicas_of
from hack.devcluster.objects import Object, conditions_of, dig, name_of, now, parse_time

TIMED_OUT = "ProgressDeadlineExceeded"
_DONE = "NewReplicaSetAvailable"
_PAUSED, _RESUMED = "DeploymentPaused", "DeploymentResumed"
# A deadline so long means none.
_NO_DEADLINE = 2**31 - 1


def status_of(deployment: Object, newest: Object | None, older: Sequence[Object], failure: str) -> Object:
    """``failure`` is why the last step was refused, if it was."""
    every = [*older, *([newest] if newest is not None else [])]
    counts = _counts(newest, every)
    conditions = [_available(deployment, counts)]
    progressing = _progressing(deployment, counts, newest, failure)
    if progressing is not None:
        conditions.append(progressing)
    conditions += _failures(every)
    before = conditions_of(deployment)
    status: Object = {key: value for key, value in counts.items() if value}
    return status | {"conditions": [_settled(before, condition) for condition in conditions]}


def pause_condition(deployment: Object) -> list[Object] | None:
    """The conditions with what a pause, or its end, makes of Progressing; None where neither is new. One that ran out
    of time stays so."""
    before = conditions_of(deployment)
    reason = _reason(before, "Progressing")
    paused = bool(dig(deployment, "spec.paused"))
    if reason == TIMED_OUT or paused == (reason == _PAUSED):
        return None
    why = (_PAUSED, "Deployment is paused") if paused else (_RESUMED, "Deployment is resumed")
    entry = _settled(before, _condition("Progressing", "Unknown", *why))
    return [*(condition for condition in before if condition["type"] != "Progressing"), entry]


def _counts(newest: Object | None, every: Sequence[Object]) -> dict[str, int]:
    def total(field: str) -> int:
        return sum(int(dig(rs, f"status.{field}") or 0) for rs in every)

    available = total("availableReplicas")
    return {
        "replicas": total("replicas"),
        "updatedReplicas": int(dig(newest or {}, "status.replicas") or 0),
        "readyReplicas": total("readyReplicas"),
        "availableReplicas": available,
        "unavailableReplicas": max(sum(map(replicas_of, every)) - available, 0),
    }


def _available(deployment: Object, counts: dict[str, int]) -> Object:
    if counts["availableReplicas"] >= replicas_of(deployment) - most_unavailable(deployment):
        return _condition("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    why = "Deployment does not have minimum availability."
    return _condition("Available", "False", "MinimumReplicasUnavailable", why)


def _progressing(deployment: Object, counts: dict[str, int], newest: Object | None, failure: str) -> Object | None:
    """None without a deadline: then nobody may rely on it. Once done, it stays so until something is to be done."""
    if int(dig(deployment, "spec.progressDeadlineSeconds", 600)) == _NO_DEADLINE:
        return None
    current = next((c for c in conditions_of(deployment) if c["type"] == "Progressing"), None)
    if dig(deployment, "spec.paused"):
        return current
    if failure:
        return _condition("Progressing", "False", "ReplicaSetCreateError", failure)
    return _progress(deployment, counts, newest, current)


def _progress(deployment: Object, counts: dict[str, int], newest: Object | None, current: Object | None) -> Object:
    named = f'ReplicaSet "{name_of(newest)}"' if newest is not None else f'Deployment "{name_of(deployment)}"'
    if current is not None and current["reason"] == _DONE and counts["replicas"] == counts["updatedReplicas"]:
        return current
    if _is_complete(deployment, counts):
        return _condition("Progressing", "True", _DONE, f"{named} has successfully progressed.")
    if current is None:
        created = f'Created new replica set "{name_of(newest or deployment)}"'
        return _condition("Progressing", "True", "NewReplicaSetCreated", created)
    if _moved(deployment, counts) or current["reason"] == _DONE:
        return _condition("Progressing", "True", "ReplicaSetUpdated", f"{named} is progressing.")
    if _ran_out(deployment, current):
        return _condition("Progressing", "False", TIMED_OUT, f"{named} has timed out progressing.")
    return current


def _is_complete(deployment: Object, counts: dict[str, int]) -> bool:
    wanted = replicas_of(deployment)
    return counts["updatedReplicas"] == counts["replicas"] == counts["availableReplicas"] == wanted


def _moved(deployment: Object, counts: dict[str, int]) -> bool:
    """More of the new, fewer of the old, or more that are ready or available, than the status said before."""
    before = {key: int(dig(deployment, f"status.{key}") or 0) for key in counts}
    grown = any(counts[key] > before[key] for key in ("updatedReplicas", "readyReplicas", "availableReplicas"))
    return grown or _old_ones(counts) < _old_ones(before)


def _old_ones(counts: dict[str, int]) -> int:
    return counts["replicas"] - counts["updatedReplicas"]


def _ran_out(deployment: Object, current: Object) -> bool:
    if current["reason"] == TIMED_OUT:
        return True
    lasts = timedelta(seconds=int(dig(deployment, "spec.progressDeadlineSeconds", 600)))
    return parse_time(current["lastUpdateTime"]) + lasts < datetime.now(UTC)


def _failures(every: Sequence[Object]) -> list[Object]:
    """The newest ReplicaSet's that could not make its pods."""
    found = [c for rs in every for c in conditions_of(rs) if c["type"] == "ReplicaFailure" and c["status"] == "True"]
    return [_condition("ReplicaFailure", "True", c["reason"], c["message"]) for c in found[-1:]]


def _condition(kind: str, status: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def _settled(before: list[Object], condition: Object) -> Object:
    """Times move as with the real one: the update's with the reason or when it still progresses, the transition's
    with the status alone."""
    if "lastUpdateTime" in condition:
        return condition
    old = next((c for c in before if c["type"] == condition["type"]), None)
    at = now()
    if old is None:
        return condition | {"lastUpdateTime": at, "lastTransitionTime": at}
    same = (old["status"], old["reason"]) == (condition["status"], condition["reason"])
    if same and condition["reason"] != "ReplicaSetUpdated":
        return old
    since = old["lastTransitionTime"] if old["status"] == condition["status"] else at
    return condition | {"lastUpdateTime": at, "lastTransitionTime": since}


def _reason(conditions: list[Object], kind: str) -> str:
    return next((str(c["reason"]) for c in conditions if c["type"] == kind), "")
