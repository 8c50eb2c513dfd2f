"""How far a rollout may go beyond a deployment's size, and how far below."""

from __future__ import annotations

import math

from hack.devcluster.objects import Object, dig

_SHARE = "25%"


def replicas_of(workload: Object) -> int:
    return int(dig(workload, "spec.replicas", 1))


def most_surge(deployment: Object) -> int:
    if dig(deployment, "spec.strategy.type") == "Recreate":
        return 0
    return _limits(deployment)[0]


def most_unavailable(deployment: Object) -> int:
    """Never more than there are to be. Under Recreate none, although all are away for a while."""
    if dig(deployment, "spec.strategy.type") == "Recreate" or not replicas_of(deployment):
        return 0
    return min(_limits(deployment)[1], replicas_of(deployment))


def _limits(deployment: Object) -> tuple[int, int]:
    """Shares are rounded up for the surge and down for what may be missing; both nothing would never get on."""
    whole = replicas_of(deployment)
    limits = dig(deployment, "spec.strategy.rollingUpdate") or {}
    surge = _amount(limits.get("maxSurge", _SHARE), whole, up=True)
    missing = _amount(limits.get("maxUnavailable", _SHARE), whole, up=False)
    return surge, missing if surge or missing else 1


def _amount(limit: int | str, whole: int, *, up: bool) -> int:
    if isinstance(limit, int):
        return limit
    share = whole * int(limit.rstrip("%")) / 100
    return math.ceil(share) if up else math.floor(share)
