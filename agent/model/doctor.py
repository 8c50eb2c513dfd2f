"""What `warmslice doctor` says: what is wrong, where, and what to change. Frozen data.

Each kind of mistake has a code that stays the same, so that programs can tell them apart; the table in docs/doctor.md is made
from them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum


class Severity(StrEnum):
    """``ERROR``: something does not work. ``WARNING``: it will not, or it works otherwise than meant. ``NOTE``: to be known."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"

    @property
    def rank(self) -> int:
        """The gravest first."""
        return list(Severity).index(self)


_E, _W, _N = Severity.ERROR, Severity.WARNING, Severity.NOTE


class Code(Enum):
    """``word`` is the code as people and programs see it; ``meaning`` its row in the table of the documentation."""

    # Who else is there.
    MIG_MANAGER_RUNS = (
        "mig-manager-runs",
        _E,
        "NVIDIA's mig-manager runs on a node of the agent: two owners of one label",
    )
    MIG_MANAGER_ENABLED = (
        "mig-manager-enabled",
        _E,
        "GPU Operator's ClusterPolicy has `migManager.enabled` true, or does not say false, though the agent is installed",
    )
    SECOND_OWNER = (
        "second-owner",
        _E,
        "something else cuts the node's GPUs: NVIDIA's DRA driver with dynamic MIG, HAMi in MIG mode, or GKE's device plugin "
        "with a partition size. The agent begins nothing there",
    )
    HOST_PLUGIN = (
        "host-plugin",
        _E,
        "a layout is wished, and the GPUs are advertised by something that does not notice it: GKE's own device plugin, or "
        "Bottlerocket's service without `refresh_commands`",
    )
    TWO_ADVERTISERS = (
        "two-advertisers",
        _E,
        "NVIDIA's device plugin and its DRA driver, HAMi's device plugin, or a second device plugin give the same GPUs away on "
        "one node",
    )
    STRATEGY_NONE = (
        "strategy-none",
        _E,
        "slices are wished, and the device plugin's MIG strategy is `none`, or not set: it shows no slice",
    )
    STRATEGY_SINGLE = (
        "strategy-single",
        _E,
        "the layout has slices of more than one kind, and the device plugin's MIG strategy is `single`",
    )
    PLUGIN_WITHOUT_CONFIG = (
        "plugin-without-config",
        _E,
        "a shared layout is wished, or the node's label chooses a configuration, and the device plugin was given no ConfigMap",
    )
    PLUGIN_CONFIG_MISSING = (
        "plugin-config-missing",
        _E,
        "the node's `nvidia.com/device-plugin.config`, or the wished layout, needs an entry that the device plugin's ConfigMap "
        "lacks",
    )
    # What is wished.
    WISH_UNKNOWN = (
        "wish-unknown",
        _E,
        "the node's label names a layout that is in no file and cannot be read as one",
    )
    WISH_FAILED = "wish-failed", _E, "the agent says `failed` of the node's layout; its reason and message are given"
    WISH_WAITING = (
        "wish-waiting",
        _W,
        "a layout has been pending for more than an hour (for jobs that may end: a day; for its turn or a maintenance window: "
        "three); the agent's reason is given",
    )
    NOT_ADVERTISED = (
        "not-advertised",
        _W,
        "a layout is applied where neither NVIDIA's device plugin nor its DRA driver runs or is asked for: pods get no slice",
    )
    WISH_WITHOUT_AGENT = (
        "wish-without-agent",
        _E,
        "a node asks for a layout or a model set, and no agent is meant for it",
    )
    DRIFTS = "drifts", _W, "somebody else has changed the node's GPUs more than once"
    # The agents.
    AGENT_ABSENT = "agent-absent", _E, "the cluster has GPU nodes and no DaemonSet of the agent"
    GPU_NODE_NOT_SELECTED = (
        "gpu-node-not-selected",
        _W,
        "a node with NVIDIA GPUs lacks what the agent's DaemonSet selects nodes by",
    )
    AGENT_NOT_TOLERATED = "agent-not-tolerated", _E, "a taint of the node keeps the agent away"
    AGENT_MISSING = "agent-missing", _E, "the node should have an agent's pod and has none"
    AGENT_NOT_READY = (
        "agent-not-ready",
        _E,
        "the agent's pod on the node is not ready; why is given as far as it is known",
    )
    AGENT_OUTDATED = "agent-outdated", _W, "the agent's pod runs another image than the DaemonSet names"
    RUNTIME_CLASS_MISSING = (
        "runtime-class-missing",
        _E,
        "the DaemonSet asks for a RuntimeClass that is not there, so that its pods are refused",
    )
    RIGHT_MISSING = "right-missing", _E, "the agent's service account lacks a right that its work needs"
    PREWARM_RIGHT_MISSING = (
        "prewarm-right-missing",
        _E,
        "the setting `prewarm` is on, and the account lacks a right of `manifests/components/prewarm`",
    )
    POLICY_MISSING = "policy-missing", _W, "an admission policy is missing that holds an agent's token to its own node"
    POLICY_UNBOUND = "policy-unbound", _W, "such a policy has no binding that denies, so that it does nothing"
    POLICY_ELSEWHERE = "policy-elsewhere", _W, "such a policy is about another service account than the agent's"
    # What was left behind.
    CLIENTS_LEFT_PAUSED = (
        "clients-left-paused",
        _E,
        "GPU clients are paused by `nvidia.com/gpu.deploy.*`, and no change or upgrade is under way that would start them again",
    )
    OPERATION_STUCK = (
        "operation-stuck",
        _E,
        "the node has the record of a change, and no agent that is ready to go on with it",
    )
    OPERATION_UNREADABLE = "operation-unreadable", _E, "the record of a change on the node cannot be read"
    CORDON_LEFT = (
        "cordon-left",
        _W,
        "the node is cordoned with the guards of a change on it, and no change is under way",
    )
    KEPT_CORDONED = "kept-cordoned", _N, "the node is cordoned, and its annotation tells the agent to leave it so"
    GATE_WITHOUT_AGENT = (
        "gate-without-agent",
        _E,
        "the node has the start-up taint, and no agent that is ready to take it away",
    )
    DRIVER_UPGRADE_FAILED = "driver-upgrade-failed", _E, "GPU Operator's upgrade of the driver failed on the node"
    DRIVER_UPGRADING = (
        "driver-upgrading",
        _N,
        "GPU Operator is replacing the driver, and the node is cordoned; the agent waits. If it lasts, look there",
    )
    # Pods.
    LATENCY_ON_SHARED = (
        "latency-on-shared",
        _W,
        "a pod whose priority says that it is urgent runs on a GPU or slice that is time-sliced",
    )
    PODS_LEFT_FAILED = (
        "pods-left-failed",
        _W,
        "pods failed by a reboot, a node's shutdown or the device manager stay until somebody deletes them",
    )
    RESOURCE_UNKNOWN = (
        "resource-unknown",
        _E,
        "a pending pod asks for a slice that no node has, and that no wished layout will make",
    )
    TWO_BUDGETS = "two-budgets", _W, "two PodDisruptionBudgets cover a pod with GPUs: it can never be evicted"
    BUDGET_NEVER_MET = (
        "budget-never-met",
        _W,
        "a PodDisruptionBudget of pods with GPUs allows no eviction, however many of them run",
    )
    HUB_WRITABLE = (
        "hub-writable",
        _W,
        "a pod mounts the model cache of the node writable, by its path (claims are not looked at)",
    )
    # Models.
    MODEL_UNKNOWN = (
        "model-unknown",
        _E,
        "a pending pod selects nodes by a model's label, and that model is in no catalog and on no node",
    )
    MODEL_FAILED = (
        "model-failed",
        _E,
        "a model's label is `failed`; what the agent said of it is given while its Event lasts",
    )
    MODEL_SET_UNKNOWN = "model-set-unknown", _E, "the node's label names a model set that the catalog does not have"
    TOKEN_MISSING = "token-missing", _E, "a model of the catalog names a token that cannot be had"
    CACHE_MEMORY_SHORT = (
        "cache-memory-short",
        _W,
        "the weights of a model with `page_cache: true` do not fit the memory limit of the container `cache`",
    )
    CONFIG_MISSING = "config-missing", _E, "a ConfigMap that the DaemonSet mounts is not there"
    SETTINGS_UNREADABLE = (
        "settings-unreadable",
        _E,
        "the settings have a mistake: an agent that starts with them ends at once",
    )
    LAYOUTS_UNREADABLE = "layouts-unreadable", _E, "the layouts file has a mistake: no layout of it can be used"
    CATALOG_UNREADABLE = "catalog-unreadable", _E, "the model catalog has a mistake: nothing of it is followed"
    # On the host (`--here`).
    NVML_MISSING = "nvml-missing", _E, "NVML cannot be opened here: no driver, or not in this container"
    DRIVER_TOO_OLD = "driver-too-old", _E, "the driver is older than MIG needs on this GPU"
    GPU_UNKNOWN = "gpu-unknown", _E, "a GPU does not answer"
    CAPABILITY_NODE_MISSING = (
        "capability-node-missing",
        _E,
        "a slice exists and its device node does not: programs on the slice do not find it",
    )
    CACHE_NOT_WRITABLE = "cache-not-writable", _E, "the cache directory is not there, or cannot be written to"
    CACHE_ON_NO_DISK = (
        "cache-on-no-disk",
        _W,
        "the cache directory is in memory, in a container's layer or on a network",
    )
    CACHE_DISK_FULL = "cache-disk-full", _W, "the cache's file system has less free than the agent leaves to others"
    POD_RESOURCES_SILENT = (
        "pod-resources-silent",
        _E,
        "the kubelet's PodResources does not answer: nobody is known to be free",
    )
    NO_PRESSURE_FILES = "no-pressure-files", _N, "the kernel does not tell of waiting (PSI): reading yields to nobody"
    STATE_IN_CACHE = "state-in-cache", _W, "the state directory is inside the directory that the cache container writes"
    NOT_ROOT = "not-root", _E, "this is not root: the driver lets only root change MIG"
    NO_HOST_PIDS = (
        "no-host-pids",
        _W,
        "this container does not see the host's processes: who is on a slice is not known",
    )
    FILE_UNREADABLE = "file-unreadable", _E, "a file that a setting names cannot be read"

    def __init__(self, word: str, severity: Severity, meaning: str) -> None:
        self.word = word
        self.severity = severity
        self.meaning = meaning


@dataclass(frozen=True, slots=True)
class Finding:
    """``where`` is the object; ``what`` says in a sentence what is so, with the field and its value; ``fix`` what to change, with
    commands between backticks. ``node``: on which node, "" where it is none's alone."""

    code: Code
    where: str
    what: str
    fix: str
    node: str = ""


@dataclass(frozen=True, slots=True)
class Gap:
    """What was not looked at, and why. ``refused``: it may be there and was not shown, so that nothing follows from finding
    nothing; otherwise this cluster (or host) has no such thing."""

    what: str
    because: str
    refused: bool = True


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """``looked`` counts what was looked at, by what people call it."""

    findings: tuple[Finding, ...]
    gaps: tuple[Gap, ...]
    looked: Mapping[str, int]

    @property
    def exit_code(self) -> int:
        """1: something was found. 3: nothing was, but not everything could be looked at."""
        if self.findings:
            return 1
        return 3 if any(gap.refused for gap in self.gaps) else 0

    def to_json(self) -> str:
        """For a program."""
        document = {
            "looked_at": dict(self.looked),
            "not_looked_at": [{"what": gap.what, "because": gap.because, "refused": gap.refused} for gap in self.gaps],
            "findings": [
                {
                    "code": one.code.word,
                    "severity": one.code.severity.value,
                    "node": one.node,
                    "where": one.where,
                    "what": one.what,
                    "fix": one.fix,
                }
                for one in self.findings
            ],
        }
        return json.dumps(document)
