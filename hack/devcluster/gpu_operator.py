"""What NVIDIA's GPU operator brings to a cluster, as far as the simulated nodes take notice of it."""

from __future__ import annotations

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.kubelet.device_plugin import PLUGIN_LABEL
from hack.devcluster.objects import Object

NAMESPACE = "gpu-operator"
DEVICE_PLUGIN = "nvidia-device-plugin-daemonset"
DEPLOY_DEVICE_PLUGIN = "nvidia.com/gpu.deploy.device-plugin"

# What the operator writes on a node with GPUs.
NODE_LABELS = {"nvidia.com/gpu.present": "true", DEPLOY_DEVICE_PLUGIN: "true"}


def install(api: Api) -> None:
    api.create(kinds.NAMESPACES, "", {"metadata": {"name": NAMESPACE}})
    api.create(kinds.DAEMONSETS, NAMESPACE, _device_plugin())


def _device_plugin() -> Object:
    labels = dict([PLUGIN_LABEL])
    return {
        "metadata": {"name": DEVICE_PLUGIN, "labels": labels},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "nodeSelector": {DEPLOY_DEVICE_PLUGIN: "true"},
                    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                    "containers": [
                        {
                            "name": "nvidia-device-plugin",
                            "image": "nvcr.io/nvidia/k8s-device-plugin:v0.18.0",
                            "env": [{"name": "MIG_STRATEGY", "value": "mixed"}],
                        }
                    ],
                },
            },
        },
    }
