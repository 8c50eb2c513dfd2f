"""Deployments: one ReplicaSet per template, and pods that pass from the older ones to the newest.

The steps, their arithmetic and the words in annotations are those of the real controller of 1.34 (from memory of its
``rolling.go``, ``recreate.go`` and ``sync.go``). As there, a pass takes one step, and the next one follows from what the
step changed. Its status is in ``deployment_status.py``.
"""

from __future__ import annotations

import math

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.controllers.deployment_status import pause_condition, status_of
from hack.devcluster.controllers.generations import (
    DESIRED,
    MOST,
    Generations,
    available_in,
    create_newest,
    generations_of,
    mark_newest,
    revision_of,
    scale,
)
from hack.devcluster.controllers.loop import Controller
from hack.devcluster.controllers.rollout_limits import most_surge, most_unavailable, replicas_of
from hack.devcluster.controllers.timings import Timings
from hack.devcluster.controllers.workloads import owned_pods, write_status
from hack.devcluster.errors import ApiError
from hack.devcluster.objects import (
    Object,
    annotations_of,
    clone,
    dig,
    is_deleting,
    is_finished,
    name_of,
    namespace_of,
)


def sync_deployments(api: Api) -> None:
    for deployment in api.all(kinds.DEPLOYMENTS):
        if not is_deleting(deployment):
            _sync_one(api, deployment)


def _sync_one(api: Api, deployment: Object) -> None:
    deployment = _with_pause_condition(api, deployment)
    failure = ""
    try:
        _step(api, deployment)
    except ApiError as error:
        failure = error.message
    generations = generations_of(api, deployment)
    write_status(
        api, kinds.DEPLOYMENTS, deployment, status_of(deployment, generations.newest, generations.older, failure)
    )


def _with_pause_condition(api: Api, deployment: Object) -> Object:
    conditions = pause_condition(deployment)
    if conditions is None:
        return deployment

    def updated(current: Object) -> Object:
        return {**clone(current), "status": {**(current.get("status") or {}), "conditions": conditions}}

    return api.change(kinds.DEPLOYMENTS, namespace_of(deployment), name_of(deployment), updated, subresource="status")


def _step(api: Api, deployment: Object) -> None:
    generations = generations_of(api, deployment)
    if dig(deployment, "spec.paused") or _was_resized(deployment, generations):
        _spread(api, deployment, generations)
    elif dig(deployment, "spec.strategy.type") == "Recreate":
        _recreate(api, deployment, generations)
    else:
        _roll(api, deployment, generations)
    _forget_oldest(api, deployment)


def _roll(api: Api, deployment: Object, generations: Generations) -> None:
    if generations.newest is None:
        room = replicas_of(deployment) + most_surge(deployment) - generations.wanted_pods
        create_newest(api, deployment, generations, max(min(room, replicas_of(deployment)), 0))
        return
    mark_newest(api, deployment, generations)
    wanted = _newest_size(deployment, generations, generations.newest)
    if wanted != replicas_of(generations.newest):
        scale(api, deployment, generations.newest, wanted)
        return
    _shrink_older(api, deployment, generations, generations.newest)


def _newest_size(deployment: Object, generations: Generations, newest: Object) -> int:
    wanted, has = replicas_of(deployment), replicas_of(newest)
    if has >= wanted:
        return wanted
    room = wanted + most_surge(deployment) - generations.wanted_pods
    return has + max(min(room, wanted - has), 0)


def _shrink_older(api: Api, deployment: Object, generations: Generations, newest: Object) -> None:
    """Pods that are not available go first, for nobody misses them; then as many as the newest can stand in for."""
    least = replicas_of(deployment) - most_unavailable(deployment)
    room = generations.wanted_pods - least - (replicas_of(newest) - available_in(newest))
    for older in generations.older:
        dead = min(max(room, 0), replicas_of(older) - available_in(older))
        if dead > 0:
            room -= dead
            scale(api, deployment, older, replicas_of(older) - dead)
    generations = generations_of(api, deployment)
    spare = min(generations.available_pods - least, room)
    for older in generations.older:
        going = min(max(spare, 0), replicas_of(older))
        if going > 0:
            spare -= going
            scale(api, deployment, older, replicas_of(older) - going)


def _recreate(api: Api, deployment: Object, generations: Generations) -> None:
    """Nothing new before everything old has ended."""
    for older in generations.older:
        scale(api, deployment, older, 0)
    if any(not is_finished(pod) for older in generations.older for pod in owned_pods(api, older)):
        return
    if generations.newest is None:
        create_newest(api, deployment, generations, replicas_of(deployment))
        return
    mark_newest(api, deployment, generations)
    scale(api, deployment, generations.newest, replicas_of(deployment))


def _was_resized(deployment: Object, generations: Generations) -> bool:
    """Somebody changed ``spec.replicas`` since a ReplicaSet with pods was last written."""
    return any(
        annotations_of(rs).get(DESIRED, str(replicas_of(deployment))) != str(replicas_of(deployment))
        for rs in generations.every
        if replicas_of(rs)
    )


def _spread(api: Api, deployment: Object, generations: Generations) -> None:
    """Resize without rolling out: in the midst of a rollout each ReplicaSet gets its share."""
    active = [rs for rs in generations.every if replicas_of(rs)]
    if len(active) <= 1:
        only = active[0] if active else generations.newest or next(reversed(generations.older), None)
        if only is not None:
            scale(api, deployment, only, replicas_of(deployment))
        return
    newest = generations.newest
    if newest is not None and _is_saturated(deployment, newest):
        for older in generations.older:
            scale(api, deployment, older, 0)
    elif dig(deployment, "spec.strategy.type") != "Recreate":
        _share_out(api, deployment, active)


def _is_saturated(deployment: Object, newest: Object) -> bool:
    wanted = replicas_of(deployment)
    annotated = annotations_of(newest).get(DESIRED) == str(wanted)
    return annotated and replicas_of(newest) == wanted == available_in(newest)


def _share_out(api: Api, deployment: Object, active: list[Object]) -> None:
    """In proportion, the largest first and of equals the newest; what rounding leaves is the first one's."""
    wanted = replicas_of(deployment)
    whole = sum(map(replicas_of, active))
    change = (wanted + most_surge(deployment) if wanted else 0) - whole
    ordered = sorted(active, key=lambda rs: (-replicas_of(rs), -revision_of(rs)))
    sizes, left = {}, change
    for rs in ordered:
        share = _share_of(deployment, rs)
        share = max(min(share, left), 0) if change > 0 else min(max(share, left), 0)
        sizes[name_of(rs)] = replicas_of(rs) + share
        left -= share
    sizes[name_of(ordered[0])] += left
    for rs in ordered:
        scale(api, deployment, rs, max(sizes[name_of(rs)], 0))


def _share_of(deployment: Object, rs: Object) -> int:
    """How much larger it is to be, from how large the deployment was at most when this one was last written."""
    if not replicas_of(deployment):
        return -replicas_of(rs)
    most = replicas_of(deployment) + most_surge(deployment)
    before = int(annotations_of(rs).get(MOST) or dig(deployment, "status.replicas") or 0)
    return math.floor(replicas_of(rs) * most / before + 0.5) - replicas_of(rs) if before else 0


def _forget_oldest(api: Api, deployment: Object) -> None:
    """Empty ones beyond ``revisionHistoryLimit``."""
    older = generations_of(api, deployment).older
    surplus = len(older) - int(dig(deployment, "spec.revisionHistoryLimit", 10))
    for rs in sorted(older, key=revision_of)[: max(surplus, 0)]:
        if not replicas_of(rs) and not dig(rs, "status.replicas"):
            api.delete(kinds.REPLICASETS, namespace_of(rs), name_of(rs))


def deployment_controller(timings: Timings) -> Controller:
    """Deadlines pass without anything changing, hence the tick."""
    watched = (kinds.DEPLOYMENTS, kinds.REPLICASETS, kinds.PODS)
    return Controller("deployment", watched, sync_deployments, timings.first_retry_s / 2)
