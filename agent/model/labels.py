"""Every label, annotation and resource name that the agent reads or writes, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

DOMAIN = "warmslice.dev"

CONFIG = "nvidia.com/mig.config"
STATE = "nvidia.com/mig.config.state"
STRATEGY = "nvidia.com/mig.strategy"
PLUGIN_CONFIG = "nvidia.com/device-plugin.config"
DRIVER_UPGRADE_STATE = "nvidia.com/gpu-driver-upgrade-state"
GPU_LAYOUT_PREFIX = f"{DOMAIN}/gpu-"
GPU_LAYOUT_SUFFIX = ".layout"
MODEL_PREFIX = f"models.{DOMAIN}/"
MODEL_SET = f"{DOMAIN}/model-set"

STATUS = f"{DOMAIN}/status"
OPERATION = f"{DOMAIN}/operation"
MODELS = f"{DOMAIN}/models"
DRY_RUN = f"{DOMAIN}/dry-run"
PLAN = f"{DOMAIN}/plan"
KEEP_CORDONED = f"{DOMAIN}/keep-cordoned"
GATE = f"{DOMAIN}/gate"
WARMING = f"{DOMAIN}/warming"
WARMING_EFFECT = "NoSchedule"
"""The only effect with which the taint of that key is the start-up gate."""
EVICT = f"{DOMAIN}/evict"
SAFE_TO_EVICT = "cluster-autoscaler.kubernetes.io/safe-to-evict"

PAUSED = "paused-for-mig-change"
DEPLOY_PREFIX = "nvidia.com/gpu.deploy."
DEVICE_PLUGIN = "nvidia.com/gpu.deploy.device-plugin"


@dataclass(frozen=True, slots=True)
class Client:
    """Something on the node that uses GPUs and is started by a deploy label.

    ``apps`` are the values of the pod labels ``app``, ``app.kubernetes.io/name`` or ``name`` that its pods carry, with GPU
    Operator and without. ``every_change`` is False for a client that stands in the way of a mode change only.
    """

    label: str
    apps: frozenset[str]
    every_change: bool


CLIENTS: tuple[Client, ...] = (
    Client(
        DEVICE_PLUGIN,
        frozenset({"nvidia-device-plugin-daemonset", "nvidia-device-plugin", "nvidia-device-plugin-ds"}),
        True,
    ),
    Client(f"{DEPLOY_PREFIX}dcgm-exporter", frozenset({"nvidia-dcgm-exporter", "dcgm-exporter"}), True),
    Client(f"{DEPLOY_PREFIX}dcgm", frozenset({"nvidia-dcgm"}), True),
    Client(
        f"{DEPLOY_PREFIX}gpu-feature-discovery",
        frozenset({"gpu-feature-discovery"}),
        False,
    ),
    Client(f"{DEPLOY_PREFIX}nvsm", frozenset({"nvidia-nvsm"}), False),
    Client(f"{DEPLOY_PREFIX}client", frozenset(), False),
)
"""The clients of mig-manager's protocol; those that this node has not are never created."""

CHECKERS = frozenset({"nvidia-operator-validator"})
"""Applications of GPU Operator that look at the GPUs once, when they start: started anew after each change, and never paused."""

AUTOSCALER_GUARDS: dict[str, str] = {
    "karpenter.sh/do-not-disrupt": "true",
    "cluster-autoscaler.kubernetes.io/scale-down-disabled": "true",
}
"""Set while a change runs, so that no autoscaler deletes the node under it."""


@dataclass(frozen=True, slots=True)
class Key:
    """One row of the reference: a key on the node object (or on a pod), and whether the agent writes it. A taint it only takes
    away."""

    name: str
    where: Literal["label", "annotation", "pod annotation", "taint"]
    written: bool
    meaning: str


KEYS: tuple[Key, ...] = (
    Key(CONFIG, "label", False, "the wish: a named layout or an inline one"),
    Key(f"{GPU_LAYOUT_PREFIX}<8 hex>{GPU_LAYOUT_SUFFIX}", "label", False, "inline layout for one GPU"),
    Key(STATE, "label", True, "pending, success, failed or rebooting"),
    Key(f"{DEPLOY_PREFIX}*", "label", True, "paused for a change and put back, only where present"),
    Key(
        PLUGIN_CONFIG,
        "label",
        True,
        "which configuration the device plugin takes; a value of somebody else is left alone",
    ),
    Key(STRATEGY, "label", False, "how the device plugin advertises slices: none, single or mixed"),
    Key(f"{MODEL_PREFIX}<name>", "label", True, "ready, fetching or failed"),
    Key(MODEL_SET, "label", False, "name of a model set from the catalog"),
    Key(STATUS, "annotation", True, "what the agent wants, what it waits for and since when (JSON)"),
    Key(OPERATION, "annotation", True, "journal of a change in progress (JSON)"),
    Key(MODELS, "annotation", True, "how pods with models of this node started, by where their weights were (JSON)"),
    Key(DRY_RUN, "annotation", False, '"true": plan only, touch nothing'),
    Key(PLAN, "annotation", True, "the plan of a dry run (JSON)"),
    Key(KEEP_CORDONED, "annotation", False, "leave the node cordoned at the end"),
    *(Key(name, "annotation", True, "autoscaler guard while a change runs") for name in AUTOSCALER_GUARDS),
    Key(GATE, "annotation", True, "since when the start-up gate is watched, and what it waits for (JSON)"),
    Key(
        WARMING,
        "taint",
        True,
        f"start-up gate, with effect {WARMING_EFFECT}: set by whoever registers the node, taken away by the agent",
    ),
    Key(EVICT, "pod annotation", False, '"true", "false" or "wait"'),
    Key(SAFE_TO_EVICT, "pod annotation", False, '"true" or "false", where the one above says nothing'),
)


def gpu_named_by(key: str) -> str | None:
    """The GPU that a layout label of its own names, by index or by the first 8 hexadecimal digits of its UUID; None for any other
    label."""
    if not (key.startswith(GPU_LAYOUT_PREFIX) and key.endswith(GPU_LAYOUT_SUFFIX)):
        return None
    return key.removeprefix(GPU_LAYOUT_PREFIX).removesuffix(GPU_LAYOUT_SUFFIX)


def asked_layout(known: Mapping[str, str], label_key: str) -> str:
    """How the layouts that a node's labels ask for are called together; empty where they ask for none."""
    listed = ", ".join(f"gpu-{which}={value}" for which, value in sorted(own_layouts(known).items()))
    return known.get(label_key, "") or listed


def own_layouts(known: Mapping[str, str]) -> dict[str, str]:
    """The layouts that a node's labels ask for single GPUs, by what names the GPU."""
    return {which: value for key, value in known.items() if value and (which := gpu_named_by(key)) is not None}


def models_of(known: Mapping[str, str]) -> dict[str, str]:
    """How the models stand by a node's labels, by their name."""
    return {key.removeprefix(MODEL_PREFIX): value for key, value in known.items() if key.startswith(MODEL_PREFIX)}
