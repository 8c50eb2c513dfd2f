"""What a kubelet writes into a pod's status, for each stage of its life."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from hack.devcluster.objects import Object, dig, name_of, namespace_of, now, phase_of, uid_of


@dataclass(frozen=True, slots=True)
class Past:
    """How often the containers were made again, and how they ended the last time."""

    restarts: int = 0
    last: Object | None = None
    started: str = ""

    @classmethod
    def of(cls, pod: Object) -> Past:
        """As the status tells it."""
        statuses = dig(pod, "status.containerStatuses") or [{}]
        return cls(int(statuses[0].get("restartCount", 0)), (statuses[0].get("lastState") or {}).get("terminated"))

    def with_end(self, exit_code: int) -> Past:
        return replace(self, last=_terminated(exit_code, self.started or now()))

    def started_again(self) -> Past:
        return replace(self, restarts=self.restarts + 1)


def says_running(pod: Object) -> bool:
    states = [status.get("state") or {} for status in dig(pod, "status.containerStatuses") or []]
    return phase_of(pod) == "Running" and bool(states) and all("running" in state for state in states)


def running(pod: Object, host_ip: str, past: Past, *, ready: bool = True, since: str = "") -> Object:
    """``since``: when its containers started; now where that is not said."""
    started = dig(pod, "status.startTime") or now()
    state = {"running": {"startedAt": since or now()}}
    through = {"terminated": {"exitCode": 0, "reason": "Completed"}}
    initialized = [
        {"name": c["name"], "ready": True, "restartCount": 0, "state": through}
        for c in dig(pod, "spec.initContainers") or []
    ]
    return ({"initContainerStatuses": initialized} if initialized else {}) | {
        "phase": "Running",
        "hostIP": host_ip,
        "podIP": pod_ip(pod, host_ip),
        "podIPs": [{"ip": pod_ip(pod, host_ip)}],
        "startTime": started,
        "conditions": _conditions(pod, ready=ready, started=True, reason="" if ready else "ContainersNotReady"),
        "containerStatuses": _containers(pod, state, past, ready=ready),
    }


def waiting(pod: Object, reason: str, message: str, past: Past) -> Object:
    return {
        "phase": "Running" if past.last is not None else "Pending",
        "startTime": dig(pod, "status.startTime") or now(),
        "conditions": _conditions(pod, ready=False, reason="ContainersNotReady"),
        "containerStatuses": _containers(pod, {"waiting": {"reason": reason, "message": message}}, past, ready=False),
    }


def crash_loop(pod: Object, waits_s: float, past: Past) -> Object:
    """Between an end and the next start; the pod goes on counting as Running."""
    name = f"{name_of(pod)}_{namespace_of(pod)}({uid_of(pod)})"
    message = f"back-off {_duration(waits_s)} restarting failed container={_first_container(pod)} pod={name}"
    return waiting(pod, "CrashLoopBackOff", message, past)


def init_crash_loop(pod: Object, message: str, failures: int, past: Past) -> Object:
    """Its first init container ended in a failure, and is started again."""
    container = (dig(pod, "spec.initContainers") or [{}])[0]
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
    status = {"name": container.get("name", ""), "ready": False, "restartCount": failures, "state": state}
    waits = waiting(pod, "PodInitializing", "", past)
    conditions = [c | ({"status": "False"} if c["type"] == "Initialized" else {}) for c in waits["conditions"]]
    return waits | {"conditions": conditions, "initContainerStatuses": [status]}


def _first_container(pod: Object) -> str:
    containers: list[Object] = dig(pod, "spec.containers") or [{}]
    return str(containers[0].get("name", ""))


def _duration(seconds: float) -> str:
    """As Go prints it."""
    minutes, rest = divmod(seconds, 60)
    return (f"{int(minutes)}m" if minutes else "") + f"{rest:g}s"


def restarting(pod: Object, past: Past) -> Object:
    """After a reboot of the machine: containers are made anew and counted."""
    statuses = _containers(pod, {"waiting": {"reason": "ContainerCreating"}}, past, ready=False)
    conditions = _conditions(pod, ready=False, reason="ContainersNotReady")
    return {**(pod.get("status") or {}), "phase": "Pending", "conditions": conditions, "containerStatuses": statuses}


def ended(pod: Object, exit_code: int, past: Past) -> Object:
    """For good."""
    terminated = _terminated(exit_code, dig(pod, "status.startTime") or now())
    return {
        "phase": "Succeeded" if exit_code == 0 else "Failed",
        "conditions": _conditions(pod, ready=False, reason="PodCompleted" if exit_code == 0 else "PodFailed"),
        "containerStatuses": _containers(pod, {"terminated": terminated}, past, ready=False),
    }


def _terminated(exit_code: int, since: str) -> Object:
    """A container that was killed with its grace period over says Error and 137, as containerd has it."""
    reason = "Completed" if exit_code == 0 else "Error"
    return {"exitCode": exit_code, "reason": reason, "startedAt": since, "finishedAt": now()}


def rejected(reason: str, message: str) -> Object:
    """The pod came to the node but cannot be run here; it stays so until someone deletes it."""
    return {"phase": "Failed", "reason": reason, "message": message, "startTime": now()}


def pod_ip(pod: Object, host_ip: str) -> str:
    """A pod in its node's network has the node's address."""
    if dig(pod, "spec.hostNetwork"):
        return host_ip
    digest = hashlib.sha256(uid_of(pod).encode()).digest()
    return f"10.244.{digest[0]}.{digest[1] or 1}"


def _conditions(pod: Object, *, ready: bool, started: bool = False, reason: str = "") -> list[Object]:
    """One that stays as it was keeps its time."""
    before = {one["type"]: one for one in dig(pod, "status.conditions") or []}

    def condition(kind: str, met: bool) -> Object:
        same = before.get(kind, {}).get("status") == str(met)
        since = before[kind].get("lastTransitionTime") if same else None
        entry: Object = {"type": kind, "status": str(met), "lastTransitionTime": since or now()}
        return entry | ({"reason": reason} if reason and not met else {})

    return [
        condition("PodReadyToStartContainers", ready or started),
        condition("Initialized", True),
        condition("Ready", ready),
        condition("ContainersReady", ready),
        condition("PodScheduled", True),
    ]


def _containers(pod: Object, state: Object, past: Past, *, ready: bool) -> list[Object]:
    return [
        {
            "name": container["name"],
            "image": container.get("image", ""),
            "imageID": "",
            "containerID": f"devcluster://{uid_of(pod)}/{container['name']}",
            "ready": ready,
            "started": ready,
            "restartCount": past.restarts,
            "state": state,
            "lastState": {"terminated": past.last} if past.last is not None else {},
        }
        for container in dig(pod, "spec.containers") or []
    ]
