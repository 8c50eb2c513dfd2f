"""The Node object as its kubelet registers and reports it."""

from __future__ import annotations

from hack.devcluster.discovery import GIT_VERSION
from hack.devcluster.kubelet.devices import DeviceManager
from hack.devcluster.kubelet.pod_worker import HOST_IP
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.objects import Object, now

MOST_PODS = 110


def registration(settings: KubeletSettings, boot_id: str, devices: DeviceManager) -> Object:
    """The first object; later only the status is written, and labels stay as others set them."""
    own_labels = {
        "kubernetes.io/hostname": settings.node,
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "amd64",
    }
    first_status = status(settings, boot_id, devices)
    for condition in first_status["conditions"]:
        condition["lastTransitionTime"] = now()
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": settings.node, "labels": {**own_labels, **settings.labels}},
        "spec": {"providerID": f"devcluster://{settings.node}", "taints": list(settings.taints)},
        "status": first_status,
    }


def status(settings: KubeletSettings, boot_id: str, devices: DeviceManager) -> Object:
    """Capacity of a device counts what was registered last; allocatable what can be had now."""
    base = {"cpu": str(settings.cpus), "memory": settings.memory, "pods": str(MOST_PODS)}
    base |= {"ephemeral-storage": "1Ti", "hugepages-2Mi": "0"}
    return {
        "capacity": base | {name: str(count) for name, count in devices.capacity().items()},
        "allocatable": base | {name: str(count) for name, count in devices.allocatable().items()},
        "conditions": _conditions(),
        "addresses": [
            {"type": "InternalIP", "address": HOST_IP},
            {"type": "Hostname", "address": settings.node},
        ],
        "nodeInfo": _node_info(settings, boot_id),
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 10250}},
    }


def without_heartbeats(reported: Object) -> Object:
    """What has to differ for a report to be due before its long interval is over."""
    return reported | {
        "conditions": [
            {key: value for key, value in condition.items() if not key.endswith("Time")}
            for condition in reported["conditions"]
        ]
    }


def _conditions() -> list[Object]:
    pressures = (
        ("MemoryPressure", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    )
    conditions = [_condition(kind, "False", reason, message) for kind, reason, message in pressures]
    return [*conditions, _condition("Ready", "True", "KubeletReady", "kubelet is posting ready status")]


def _condition(kind: str, met: str, reason: str, message: str) -> Object:
    return {"type": kind, "status": met, "reason": reason, "message": message, "lastHeartbeatTime": now()}


def _node_info(settings: KubeletSettings, boot_id: str) -> Object:
    return {
        "bootID": boot_id,
        "machineID": settings.node,
        "systemUUID": settings.node,
        "kernelVersion": "6.8.0-devcluster",
        "osImage": "devcluster",
        "containerRuntimeVersion": "devcluster://1",
        "kubeletVersion": GIT_VERSION,
        "kubeProxyVersion": "",
        "operatingSystem": "linux",
        "architecture": "amd64",
    }
