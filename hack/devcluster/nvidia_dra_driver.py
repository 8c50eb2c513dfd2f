"""What the Helm chart of NVIDIA's DRA driver brings to a cluster: device classes, and a DaemonSet on nodes with GPUs.

From memory of chart 25.x; the part for compute domains is left out. It and the device plugin must not both offer the
GPUs of a node.
"""

from __future__ import annotations

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.kubelet.dra_driver import DRIVER, DRIVER_POD_LABEL
from hack.devcluster.objects import Object

NAMESPACE = "nvidia-dra-driver-gpu"
KUBELET_PLUGIN = "nvidia-dra-driver-gpu-kubelet-plugin"
GPU_CLASS, MIG_CLASS = "gpu.nvidia.com", "mig.nvidia.com"


def install(api: Api) -> None:
    api.create(kinds.NAMESPACES, "", {"metadata": {"name": NAMESPACE}})
    for name, device_type in ((GPU_CLASS, "gpu"), (MIG_CLASS, "mig")):
        api.create(kinds.DEVICE_CLASSES, "", _device_class(name, device_type))
    api.create(kinds.DAEMONSETS, NAMESPACE, _kubelet_plugin())


def _device_class(name: str, device_type: str) -> Object:
    expression = f"device.driver == '{DRIVER}' && device.attributes['{DRIVER}'].type == '{device_type}'"
    return {"metadata": {"name": name}, "spec": {"selectors": [{"cel": {"expression": expression}}]}}


def _kubelet_plugin() -> Object:
    labels = dict([DRIVER_POD_LABEL])
    return {
        "metadata": {"name": KUBELET_PLUGIN, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {"nvidia.com/gpu.present": "true"},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                    "containers": [{"name": "gpus", "image": "nvcr.io/nvidia/k8s-dra-driver-gpu:v25.12.0"}],
                },
            },
        },
    }
