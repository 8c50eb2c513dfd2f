"""What a kubelet writes into a pod's status, for each stage of its life."""

from __future__ import annotations

import hashlib

from hack.devcluster.objects import Object, dig, now, uid_of


def running(pod: Object, host_ip: str) -> Object:
    started = dig(pod, "status.startTime") or now()
    return {
        "phase": "Running",
        "hostIP": host_ip,
        "podIP": pod_ip(pod),
        "podIPs": [{"ip": pod_ip(pod)}],
        "startTime": started,
        "conditions": _conditions(ready=True),
        "containerStatuses": _containers(pod, {"running": {"startedAt": now()}}, ready=True),
    }


def waiting(pod: Object, reason: str, message: str) -> Object:
    return {
        "phase": "Pending",
        "startTime": dig(pod, "status.startTime") or now(),
        "conditions": _conditions(ready=False, reason="ContainersNotReady"),
        "containerStatuses": _containers(pod, {"waiting": {"reason": reason, "message": message}}, ready=False),
    }


def restarting(pod: Object) -> Object:
    """After a reboot of the machine: containers are made anew and counted."""
    counts = {s["name"]: int(s.get("restartCount", 0)) for s in dig(pod, "status.containerStatuses") or []}
    statuses = _containers(pod, {"waiting": {"reason": "ContainerCreating"}}, ready=False)
    for status in statuses:
        status["restartCount"] = counts.get(status["name"], 0) + 1
    conditions = _conditions(ready=False, reason="ContainersNotReady")
    return {**(pod.get("status") or {}), "phase": "Pending", "conditions": conditions, "containerStatuses": statuses}


def ended(pod: Object, *, exit_code: int) -> Object:
    phase, reason = ("Succeeded", "Completed") if exit_code == 0 else ("Failed", "Error")
    times = {"startedAt": dig(pod, "status.startTime") or now(), "finishedAt": now()}
    terminated = {"exitCode": exit_code, "reason": reason, **times}
    return {
        "phase": phase,
        "conditions": _conditions(ready=False, reason="PodCompleted" if exit_code == 0 else "PodFailed"),
        "containerStatuses": _containers(pod, {"terminated": terminated}, ready=False),
    }


def rejected(reason: str, message: str) -> Object:
    """The pod came to the node but cannot be run here; it stays so until someone deletes it."""
    return {"phase": "Failed", "reason": reason, "message": message, "startTime": now()}


def pod_ip(pod: Object) -> str:
    digest = hashlib.sha256(uid_of(pod).encode()).digest()
    return f"10.244.{digest[0]}.{digest[1] or 1}"


def _conditions(*, ready: bool, reason: str = "") -> list[Object]:
    def condition(kind: str, met: bool) -> Object:
        entry: Object = {"type": kind, "status": str(met), "lastTransitionTime": now()}
        return entry | ({"reason": reason} if reason and not met else {})

    return [
        condition("PodReadyToStartContainers", ready),
        condition("Initialized", True),
        condition("Ready", ready),
        condition("ContainersReady", ready),
        condition("PodScheduled", True),
    ]


def _containers(pod: Object, state: Object, *, ready: bool) -> list[Object]:
    counts = {s["name"]: int(s.get("restartCount", 0)) for s in dig(pod, "status.containerStatuses") or []}
    return [
        {
            "name": container["name"],
            "image": container.get("image", ""),
            "imageID": "",
            "containerID": f"devcluster://{uid_of(pod)}/{container['name']}",
            "ready": ready,
            "started": ready,
            "restartCount": counts.get(container["name"], 0),
            "state": state,
        }
        for container in dig(pod, "spec.containers") or []
    ]
