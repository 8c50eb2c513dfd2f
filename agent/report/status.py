"""What is said of a pass: the status, the labels and annotations that carry it, and the Event. All pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from agent.model import labels
from agent.model.desired import Desired, Refusal, Wish
from agent.model.drift import found_drift
from agent.model.mig import Gpu
from agent.model.node import Node
from agent.model.report import SINCE_BOOT, JobsWait, NodeStatus, ScheduleNow, State
from agent.model.schedule import InForce
from agent.model.snapshot import Snapshot
from agent.model.steps import AnnounceReboot, Change, End, Outcome, Plan, Settled, Waiting
from agent.report.events import node_event

FIRST_RETRY_SECONDS = 30.0
LAST_RETRY_SECONDS = 3600.0
_MOST_DOUBLINGS = 10
_NOT_BY_TIME = frozenset({"reboot-required", "reboot-did-not-help"})
"""Failures that only a reboot, or another wish, leads out of."""
_NAMING = frozenset(
    {
        "blocked",
        "job-running",
        "budget",
        "draining",
        "device-busy",
        "gpu-unknown",
        "second-owner",
        "model-not-ready",
    }
)
"""Waits whose sentence says for whom: another name is news."""


def status_of(outcome: Outcome, wish: Wish, seen: Snapshot, last: NodeStatus | None, now: float) -> NodeStatus | None:
    """The status after this outcome; None where nothing is to be said. ``last`` is the one on the node."""
    layout = wish.layout if isinstance(wish, Desired | Refusal) else ""
    revision = wish.revision if isinstance(wish, Desired) else ""
    match outcome:
        case Settled(asked=False):
            # A wish that is gone leaves nothing to go back to.
            return replace(last, owed={}) if last is not None and last.owed else None
        case Settled():
            message = _with_lost(f"{layout!r} {outcome.message}", last, seen)
            return _as_applied(_status("success", "applied", message, layout, revision, last, now), seen, now)
        case Refusal():
            return _status("failed", outcome.reason, outcome.message, layout, revision, last, now)
        case Waiting(reason="back-off") if last is not None and last.state == "failed":
            return last
        case Waiting(reason="drift"):
            status = _status("pending", outcome.reason, outcome.message, layout, revision, last, now)
            return replace(status, drift=found_drift(status.drift, now))
        case Waiting(reason="job-running"):
            status = _status("pending", outcome.reason, outcome.message, layout, revision, last, now)
            begun = status.jobs is not None and status.jobs.revision == revision
            return status if begun else replace(status, jobs=JobsWait(revision, now))
        case Waiting():
            # What an operation has given up on stays failed while it is still so.
            given_up = last is not None and (last.state, last.reason) == ("failed", outcome.reason)
            state: State = "failed" if given_up else "rebooting" if outcome.reason == "rebooting" else "pending"
            return _status(state, outcome.reason, outcome.message, layout, revision, last, now)
        case Plan():
            end = next((step for step in outcome.steps if isinstance(step, End)), None)
            if end is not None:
                return _at_end(end, layout, revision, seen, last, now)
            reboot = next((step for step in outcome.steps if isinstance(step, AnnounceReboot)), None)
            if reboot is not None:
                return _status("rebooting", "rebooting", reboot.message, layout, revision, last, now)
            return _status("pending", "changing", in_words(outcome.change, seen.gpus), layout, revision, last, now)


def _with_lost(message: str, last: NodeStatus | None, seen: Snapshot) -> str:
    """What the first success of this boot said of pods stays said."""
    told = last is not None and (last.state, last.boot_id) == ("success", seen.node.boot_id)
    return last.message if last is not None and told and last.message.startswith(message + SINCE_BOOT) else message


def _at_end(end: End, layout: str, revision: str, seen: Snapshot, last: NodeStatus | None, now: float) -> NodeStatus:
    status = _status(end.state, end.reason, end.message, layout, revision, last, now)
    if end.state == "success":
        return _as_applied(status, seen, now, anew=True)
    owed = {uuid: before for uuid, before in status.owed.items() if uuid not in end.operation.before}
    owed |= {uuid: before for uuid, before in end.operation.before.items() if uuid in end.operation.given_up}
    status = replace(status, owed=owed, owed_in=seen.node.boot_id, reboot=end.reboot)
    if end.reason in _NOT_BY_TIME:
        return status
    attempts = status.attempts + 1 if status.tried == revision else 1
    wait = min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2 ** min(attempts - 1, _MOST_DOUBLINGS))
    return replace(status, attempts=attempts, next_try=now + wait, tried=revision)


def _status(
    state: State, reason: str, message: str, layout: str, revision: str, last: NodeStatus | None, now: float
) -> NodeStatus:
    same = last is not None and (last.state, last.reason, last.revision) == (state, reason, revision)
    # Another wish, or success, ends the row of attempts; what is said in between does not.
    row = last if last is not None and state != "success" and last.tried and revision in ("", last.tried) else None
    return NodeStatus(
        state=state,
        reason=reason,
        message=message,
        since=last.since if last is not None and same else now,
        layout=layout,
        revision=revision,
        gpus=last.gpus if last is not None else None,
        placements=last.placements if last is not None else {},
        attempts=row.attempts if row is not None else 0,
        next_try=row.next_try if row is not None else None,
        tried=row.tried if row is not None else "",
        applied=last.applied if last is not None else "",
        boot_id=last.boot_id if last is not None else "",
        drift=last.drift if last is not None else None,
        owed=last.owed if last is not None else {},
        owed_in=last.owed_in if last is not None else "",
        reboot=last.reboot if last is not None else None,
        jobs=last.jobs if last is not None and state != "success" else None,
        offers=last.offers if last is not None else None,
    )


def _as_applied(status: NodeStatus, seen: Snapshot, now: float, anew: bool = False) -> NodeStatus:
    """What the hardware has now is what was asked for. Only a layout that is applied ``anew`` lowers the number of GPUs: by it is
    known that indices have shifted."""
    count = sum(gpu.listed for gpu in seen.gpus)
    return replace(
        status,
        gpus=count if anew else max(count, status.gpus or 0),
        placements={gpu.uuid: [str(slot) for slot in gpu.layout] for gpu in seen.gpus if gpu.mig_enabled},
        applied=status.revision,
        boot_id=seen.node.boot_id,
        # A mode that an earlier wish left pending on a GPU that this one does not name is ours still.
        reboot=status.reboot.narrowed_to(seen.gpus) if status.reboot is not None else None,
        drift=status.drift.put_right(now) if status.drift is not None else None,
        owed={},
    )


def worth_a_write(status: NodeStatus, node: Node, last: NodeStatus | None) -> bool:
    """Whether the node says something else: another state, reason or wish; another message where it is an end, or names who is
    waited for."""
    status = status.cut
    if last is None or node.labels.get(labels.STATE) != status.state:
        return True
    if (last.state, last.reason, last.revision) != (status.state, status.reason, status.revision):
        return True
    if last.schedule != status.schedule:
        return True
    if status.reason in _NAMING and last.message != status.message:
        return True
    if status.reason == "fleet-slot" and _without_count(last.message) != _without_count(status.message):
        return True
    settled = status.state != "pending"
    return settled and any(
        getattr(last, name) != getattr(status, name) for name in ("message", "placements", "applied", "boot_id", "owed")
    )


def _without_count(text: str) -> str:
    """How many are in change now the leader's Lease tells: a thousand nodes that wait would each write every number."""
    return re.sub(r"\d+ of \d+ nodes in change", "", text)


def schedule_now(period: InForce | None) -> ScheduleNow | None:
    """As the status has it."""
    return None if period is None else ScheduleNow(period.schedule.name, period.period.name, period.until)


def said(status: NodeStatus) -> dict[str, Any]:
    """The labels and annotations that carry a status."""
    return {"labels": {labels.STATE: status.state}, "annotations": {labels.STATUS: status.to_json()}}


def in_words(change: Change, gpus: tuple[Gpu, ...]) -> str:
    """A change in one sentence."""
    index = {gpu.uuid: gpu.index for gpu in gpus}
    parts = []
    for gpu in change.gpus:
        if gpu.empty:
            continue
        acts = []
        if gpu.mode is not None:
            acts.append(f"MIG {'on' if gpu.mode else 'off'}")
        if gpu.destroyed:
            acts.append("destroy " + ", ".join(gpu.destroyed))
        if gpu.finish or gpu.create:
            acts.append("create " + ", ".join(str(slot) for slot in (*gpu.finish, *gpu.create)))
        if gpu.keep:
            acts.append(f"keep {len(gpu.keep)}")
        parts.append(f"GPU {index.get(gpu.gpu)}: {', '.join(acts)}")
    if change.moves:
        parts.append("move " + ", ".join(str(ref) for ref in change.moves))
    if change.sharing:
        parts.append(change.sharing)
    return "; ".join(parts) or "putting clients back"


def status_event(node: Node, status: NodeStatus, now: float) -> dict[str, Any]:
    """The Event that says the same as the status."""
    warning = status.state != "success" and not _expected(status)
    return node_event(node, status.reason, status.message, "Partition", now, warning, status.since)


def _expected(status: NodeStatus) -> bool:
    """Waits that belong to any change."""
    return status.reason in (
        "changing",
        "job-running",
        "draining",
        "clients-stopping",
        "clients-restarting",
        "pod-starting",
        "device-busy",
        "gpu-in-use",
        "rebooting",
        "dry-run",
        "fleet-slot",
        "model-not-ready",
    )
