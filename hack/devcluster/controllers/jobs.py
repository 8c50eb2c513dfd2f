"""Jobs: pods until enough have succeeded or too many have failed; gone some time after that where asked.

Left out: indexed completions, pod failure policies and success policies. Pods that somebody deletes are not counted.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.controllers.back_off import BackOff
from hack.devcluster.controllers.loop import Controller
from hack.devcluster.controllers.timings import Timings
from hack.devcluster.controllers.workloads import owned_pods, pod_from_template, write_status
from hack.devcluster.objects import (
    Object,
    conditions_of,
    dig,
    is_deleting,
    is_finished,
    is_ready,
    name_of,
    namespace_of,
    now,
    parse_time,
    phase_of,
    uid_of,
)

_BACKOFF_LIMIT = 6


class Jobs:
    def __init__(self, backoff: BackOff) -> None:
        self._backoff = backoff

    def sync(self, api: Api) -> None:
        for job in api.all(kinds.JOBS):
            if is_deleting(job):
                continue
            if _is_over(job):
                _expire(api, job)
            else:
                self._sync_one(api, job)

    def _sync_one(self, api: Api, job: Object) -> None:
        pods = owned_pods(api, job)
        failed = [pod for pod in pods if phase_of(pod) == "Failed"]
        succeeded = sum(phase_of(pod) == "Succeeded" for pod in pods)
        active = [pod for pod in pods if not is_finished(pod) and not is_deleting(pod)]
        wanted = _completions(job)
        if len(failed) > int(dig(job, "spec.backoffLimit", _BACKOFF_LIMIT)):
            _stop(api, active)
            _finish(api, job, "Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit", pods)
            return
        if succeeded >= wanted:
            _stop(api, active)
            _finish(api, job, "Complete", "CompletionsReached", "Reached expected number of succeeded pods", pods)
            return
        if not dig(job, "spec.suspend") and self._may_start(job, failed):
            room = min(int(dig(job, "spec.parallelism", 1)), wanted - succeeded) - len(active)
            for _ in range(room):
                api.create(kinds.PODS, namespace_of(job), _pod(job))
        write_status(api, kinds.JOBS, job, _counts(job, owned_pods(api, job)))

    def _may_start(self, job: Object, failed: list[Object]) -> bool:
        """The first failure waits 10 s, each further one twice as long, at most 10 minutes."""
        return not failed or self._backoff.is_over(uid_of(job), ",".join(sorted(map(uid_of, failed))))


def _completions(job: Object) -> int:
    return int(dig(job, "spec.completions", dig(job, "spec.parallelism", 1)))


def _pod(job: Object) -> Object:
    pod = pod_from_template(job)
    own = {"job-name": name_of(job), "controller-uid": uid_of(job)}
    prefixed = {f"batch.kubernetes.io/{key}": value for key, value in own.items()}
    pod["metadata"]["labels"] = {**pod["metadata"]["labels"], **own, **prefixed}
    return pod


def _stop(api: Api, pods: list[Object]) -> None:
    for pod in pods:
        api.delete(kinds.PODS, namespace_of(pod), name_of(pod))


def _counts(job: Object, pods: list[Object]) -> dict[str, Any]:
    active = [pod for pod in pods if not is_finished(pod) and not is_deleting(pod)]
    counts: dict[str, Any] = {
        "active": len(active),
        "ready": sum(map(is_ready, active)),
        "succeeded": sum(phase_of(pod) == "Succeeded" for pod in pods),
        "failed": sum(phase_of(pod) == "Failed" for pod in pods),
        "startTime": dig(job, "status.startTime") or now(),
    }
    return {key: value for key, value in counts.items() if value or key == "ready"}


def _finish(api: Api, job: Object, kind: str, reason: str, message: str, pods: list[Object]) -> None:
    """The interim condition that 1.31 and later set first stays beside the final one."""
    interim = "SuccessCriteriaMet" if kind == "Complete" else "FailureTarget"
    body = {"status": "True", "reason": reason, "message": message, "lastProbeTime": now(), "lastTransitionTime": now()}
    status = _counts(job, pods) | {"conditions": [{"type": interim, **body}, {"type": kind, **body}]}
    status.pop("active", None)
    if kind == "Complete":
        status["completionTime"] = now()
    write_status(api, kinds.JOBS, job, status)


def _is_over(job: Object) -> bool:
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions_of(job))


def _expire(api: Api, job: Object) -> None:
    lasts = dig(job, "spec.ttlSecondsAfterFinished")
    if lasts is None:
        return
    ended = next(parse_time(c["lastTransitionTime"]) for c in conditions_of(job) if c["type"] in ("Complete", "Failed"))
    if datetime.now(UTC) >= ended + timedelta(seconds=int(lasts)):
        api.delete(kinds.JOBS, namespace_of(job), name_of(job))


def job_controller(timings: Timings) -> Controller:
    jobs = Jobs(BackOff(timings.job_first_retry_s, timings.job_longest_retry_s))
    return Controller("job", (kinds.JOBS, kinds.PODS), jobs.sync, min(1.0, timings.job_first_retry_s / 2))
