"""What NVIDIA's GPU operator brings to a cluster, as far as the simulated nodes take notice of it."""

from __future__ import annotations

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.kubelet.config_manager import CONTAINER, ENTRIES_AT, INIT_CONTAINER, NODE_LABEL
from hack.devcluster.kubelet.device_plugin import PLUGIN_LABEL
from hack.devcluster.objects import Object

NAMESPACE = "gpu-operator"
DEVICE_PLUGIN = "nvidia-device-plugin-daemonset"
DEPLOY_DEVICE_PLUGIN = "nvidia.com/gpu.deploy.device-plugin"

# What the operator writes on a node with GPUs.
NODE_LABELS = {"nvidia.com/gpu.present": "true", DEPLOY_DEVICE_PLUGIN: "true"}


def install(api: Api, config: str = "", default: str = "") -> None:
    """``config``: the ConfigMap of the device plugin's configurations (``devicePlugin.config.name``), in the operator's
    namespace; ``default``: the entry for nodes without a label (``devicePlugin.config.default``), else nothing is configured."""
    daemonset = _device_plugin()
    if config:
        _add_config_manager(daemonset["spec"]["template"]["spec"], config, default)
    api.create(kinds.NAMESPACES, "", {"metadata": {"name": NAMESPACE}})
    api.create(kinds.DAEMONSETS, NAMESPACE, daemonset)


def _add_config_manager(spec: Object, config: str, default: str) -> None:
    container: Object = {
        "image": spec["containers"][0]["image"],
        "command": ["config-manager"],
        "env": [
            {"name": "NODE_LABEL", "value": NODE_LABEL},
            {"name": "DEFAULT_CONFIG", "value": default},
            {"name": "FALLBACK_STRATEGIES", "value": "empty"},
        ],
        "volumeMounts": [{"name": config, "mountPath": ENTRIES_AT}, {"name": "config", "mountPath": "/config"}],
    }
    spec["initContainers"] = [{"name": INIT_CONTAINER, **container}]
    spec["containers"].append({"name": CONTAINER, **container})
    spec["volumes"] = [{"name": config, "configMap": {"name": config}}, {"name": "config", "emptyDir": {}}]


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
