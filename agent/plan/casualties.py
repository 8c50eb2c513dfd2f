"""Pods that a reboot cost: the kubelet admits its pods before the slices are back, and fails those that want one.

Such a pod stays Failed until somebody deletes it. The kubelet leaves the start time of a pod that ran before as it was, so when
it failed shows only in when the kubelet last wrote its status.
"""

from __future__ import annotations

from agent.model.node import Pod
from agent.model.operation import Operation
from agent.model.report import SINCE_BOOT, NodeStatus
from agent.model.snapshot import Snapshot

_MOST_NAMED = 20


def failed_since_boot(seen: Snapshot, operation: Operation, last: NodeStatus | None) -> str:
    """Who they are, to be said behind the first success of a boot; empty where there are none, and later."""
    boot = seen.node.boot_id
    applied_before = last is not None and last.boot_id not in ("", boot)
    if not (applied_before or operation.boot_id != boot) or not seen.boot_began:
        return ""
    lost = sorted(f"{pod.ref} ({pod.reason})" for pod in seen.pods if _is_lost(pod, seen.boot_began))
    if not lost:
        return ""
    more = f" and {len(lost) - _MOST_NAMED} more" if len(lost) > _MOST_NAMED else ""
    return f"{SINCE_BOOT}{', '.join(lost[:_MOST_NAMED])}{more}; delete those that no controller makes anew"


def _is_lost(pod: Pod, began: float) -> bool:
    """Failed by the kubelet for want of a GPU: no device of that kind, or fewer than are asked for."""
    for_want = pod.reason == "UnexpectedAdmissionError" or pod.reason.startswith("OutOfnvidia.com/")
    return pod.phase == "Failed" and for_want and bool(pod.gpus) and pod.reported is not None and pod.reported >= began
