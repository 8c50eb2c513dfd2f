"""What can be wrong with a cluster: how it is planted, and what has to be said of it."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model import labels
from agent.model.doctor import Code
from agent.model.drift import Drift
from agent.model.gate import Gate
from agent.model.operation import Operation
from agent.plan.advertise import HARDWARE_ALONE
from hack.devcluster import gpu_operator, kinds
from hack.devcluster.objects import Object
from tests.cli.planting import (
    NODE,
    PLUGIN,
    Plant,
    agent_not_ready,
    agent_says,
    annotated,
    both,
    budget,
    daemon_set_patch,
    file,
    gone,
    labelled,
    merged,
    no_more_agents,
    of_daemon_set,
    other_image,
    plugin_without_config,
    plugin_without_strategy,
    pod,
    policy_about_another,
    said,
    silent_node,
    state_beside_models,
    void,
)
from tests.fakes.devcluster import bare_node
from tests.fakes.furnished import AGENTS, CATALOG, LARGE, LAYOUTS, PLUGIN_CONFIG, PREWARMING, SETTINGS, SLICE

OPERATION = Operation("r1-1", "r1", "day", "boot", 1.0, True, {}).to_json()
HUB: Object = {
    "containers": [
        {"name": "tool", "image": "example.org/tool:1", "volumeMounts": [{"name": "hub", "mountPath": "/hub"}]}
    ],
    "volumes": [{"name": "hub", "hostPath": {"path": "/var/lib/warmslice"}}],
}
DRA: Object = {"name": "gpus", "env": [{"name": "FEATURE_GATES", "value": "DynamicMIG=true"}]}
DRA_LABELS = {"nvidia-dra-driver-gpu-component": "kubelet-plugin"}
SHUTDOWN = {
    "phase": "Failed",
    "reason": "Terminated",
    "message": "Pod was terminated in response to imminent node shutdown.",
}
ADMISSION = {"phase": "Failed", "reason": "UnexpectedAdmissionError", "message": "Allocate failed"}


@dataclass(frozen=True, slots=True)
class Case:
    """What is planted, and words of what is found and of what is to be done about it."""

    code: Code
    plant: Plant
    what: str
    fix: str


CASES = (
    Case(
        Code.MIG_MANAGER_RUNS,
        of_daemon_set("nvidia-mig-manager", {"app": "nvidia-mig-manager"}, "gpu-operator"),
        "mig-manager",
        '{"spec":{"migManager":{"enabled":false}}}',
    ),
    Case(
        Code.MIG_MANAGER_ENABLED,
        merged(kinds.CLUSTER_POLICIES, "cluster-policy", {"spec": {"migManager": {"enabled": True}}}),
        "spec.migManager.enabled is true",
        "kubectl patch clusterpolicies.nvidia.com cluster-policy --type merge",
    ),
    Case(
        Code.MIG_MANAGER_ENABLED,
        merged(kinds.CLUSTER_POLICIES, "cluster-policy", {"spec": {"migManager": None}}),
        "is not set, which means true",
        "migManager.enabled=false",
    ),
    Case(
        Code.SECOND_OWNER,
        of_daemon_set("dra", DRA_LABELS, "dra", DRA),
        "dynamic MIG",
        "featureGates.DynamicMIG=false",
    ),
    Case(
        Code.HOST_PLUGIN,
        of_daemon_set("nvidia-gpu-device-plugin", {"k8s-app": "nvidia-gpu-device-plugin"}),
        "GKE's own device plugin",
        "gke-no-default-nvidia-gpu-device-plugin=true",
    ),
    Case(
        Code.TWO_ADVERTISERS,
        of_daemon_set("dra", DRA_LABELS, "dra", {"name": "gpus"}),
        "NVIDIA's DRA driver",
        "nvidia.com/gpu.deploy.device-plugin=false",
    ),
    Case(
        Code.TWO_ADVERTISERS,
        of_daemon_set("hami", {"app.kubernetes.io/component": "hami-device-plugin"}),
        "HAMi's device plugin",
        "kubectl label node gpu-1 gpu-",
    ),
    Case(
        Code.TWO_ADVERTISERS,
        of_daemon_set(
            "nvdp", {"app.kubernetes.io/name": "nvidia-device-plugin"}, container={"name": "nvidia-device-plugin-ctr"}
        ),
        "more than one thing",
        "delete the DaemonSet",
    ),
    Case(
        Code.STRATEGY_NONE,
        labelled(labels.STRATEGY, "none"),
        "strategy is none",
        '{"spec":{"mig":{"strategy":"mixed"}}}',
    ),
    Case(
        Code.STRATEGY_NONE,
        both(
            labelled(labels.STRATEGY, None),
            merged(kinds.CLUSTER_POLICIES, "cluster-policy", {"spec": {"mig": None}}),
            gone(kinds.DAEMONSETS, PLUGIN, gpu_operator.NAMESPACE),
        ),
        "ClusterPolicy cluster-policy, spec.mig.strategy",
        "kubectl patch clusterpolicies.nvidia.com",
    ),
    Case(
        Code.STRATEGY_NONE,
        both(
            labelled(labels.STRATEGY, None),
            gone(kinds.CLUSTER_POLICIES, "cluster-policy"),
            plugin_without_config,
            plugin_without_strategy,
        ),
        "which does not set it",
        "MIG_STRATEGY=mixed",
    ),
    Case(Code.STRATEGY_SINGLE, labelled(labels.STRATEGY, "single"), "2 kinds of slices", "slices of one kind"),
    Case(
        Code.PLUGIN_WITHOUT_CONFIG,
        both(plugin_without_config, labelled(labels.CONFIG, "shared")),
        "warmslice-time-slicing_1g.10gb-4",
        "devicePlugin.config.name=warmslice-device-plugin",
    ),
    Case(
        Code.PLUGIN_CONFIG_MISSING,
        both(
            labelled(labels.CONFIG, "shared"),
            merged(
                kinds.CONFIGMAPS,
                PLUGIN_CONFIG,
                {"data": {"warmslice-time-slicing_1g.10gb-4": None}},
                gpu_operator.NAMESPACE,
            ),
        ),
        "needs the configuration warmslice-time-slicing_1g.10gb-4",
        "warmslice layouts --device-plugin-config layouts.yaml",
    ),
    Case(
        Code.PLUGIN_CONFIG_MISSING,
        labelled(labels.PLUGIN_CONFIG, "theirs"),
        "is theirs",
        "kubectl label node gpu-1 nvidia.com/device-plugin.config-",
    ),
    Case(
        Code.WISH_UNKNOWN,
        labelled(labels.CONFIG, "noon"),
        "'noon' is neither in the layouts file",
        "the file has day, night",
    ),
    Case(
        Code.WISH_FAILED,
        said("failed", "no-placement", "layout 'day': 4x3g.40gb do not fit together"),
        "no-placement: layout 'day': 4x3g.40gb do not fit together",
        "nvidia.com/mig.config=LAYOUT",
    ),
    Case(
        Code.WISH_WAITING,
        said("pending", "blocked", "held by ml/train-0", hours=5),
        "pending for 5 h, blocked: held by ml/train-0",
        "annotate pod POD warmslice.dev/evict=true",
    ),
    Case(
        Code.NOT_ADVERTISED,
        said("success", "applied", f"'day' {HARDWARE_ALONE}"),
        "layout 'day' is applied, and nobody gives its slices to pods",
        "kubectl label node gpu-1 nvidia.com/gpu.deploy.device-plugin=true",
    ),
    Case(
        Code.DRIFTS,
        said("pending", "drift", "changed", drift=Drift(1.0, 2.0, times=3)),
        "3 times in a row",
        "kubectl label node gpu-1 nvidia.com/mig.config-",
    ),
    Case(
        Code.WISH_WITHOUT_AGENT,
        labelled("nvidia.com/gpu.present", "false"),
        "its labels ask for 'day'",
        "kubectl label node gpu-1 nvidia.com/gpu.present=true",
    ),
    Case(
        Code.AGENT_ABSENT,
        gone(kinds.DAEMONSETS, AGENTS, AGENTS),
        "2 nodes have NVIDIA GPUs",
        "kubectl apply -k manifests/base",
    ),
    Case(
        Code.GPU_NODE_NOT_SELECTED,
        lambda cluster: void(
            cluster.create(
                kinds.NODES, bare_node("gpu-9", labels={"feature.node.kubernetes.io/pci-10de.present": "true"})
            )
        ),
        "pci-10de.present=true",
        "kubectl label node gpu-9 nvidia.com/gpu.present=true",
    ),
    Case(
        Code.AGENT_NOT_TOLERATED,
        both(
            daemon_set_patch({"tolerations": []}),
            merged(kinds.NODES, NODE, {"spec": {"taints": [{"key": "tenant", "value": "a", "effect": "NoSchedule"}]}}),
        ),
        "taint tenant=a:NoSchedule",
        "{operator: Exists}",
    ),
    Case(
        Code.AGENT_MISSING, no_more_agents, "has none of its pods", "kubectl -n warmslice describe daemonset warmslice"
    ),
    Case(
        Code.AGENT_NOT_READY,
        agent_not_ready({"reason": "CrashLoopBackOff"}),
        "container partition waits, CrashLoopBackOff after 7 restarts",
        "--previous --tail=20",
    ),
    Case(
        Code.AGENT_NOT_READY,
        agent_not_ready({"reason": "ImagePullBackOff", "message": "no such image"}),
        "ImagePullBackOff after 7 restarts: no such image",
        "kubectl -n warmslice describe pod",
    ),
    Case(
        Code.AGENT_NOT_READY,
        silent_node,
        "its node is not Ready",
        "kubectl describe node gpu-1",
    ),
    Case(Code.AGENT_NOT_READY, agent_not_ready(None), "runs and is not ready", "kubectl -n warmslice logs"),
    Case(Code.AGENT_OUTDATED, other_image, "names example.org/warmslice:9.9.9", "kubectl -n warmslice rollout status"),
    Case(
        Code.RUNTIME_CLASS_MISSING,
        gone(kinds.RUNTIME_CLASSES, "nvidia"),
        "runtimeClassName is nvidia",
        "NVIDIA Container Toolkit",
    ),
    Case(
        Code.RIGHT_MISSING,
        merged(
            kinds.CLUSTER_ROLES, "warmslice", {"rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}]}
        ),
        "it may not list nodes, watch nodes, patch nodes",
        "kubectl apply -k manifests/base",
    ),
    Case(
        Code.PREWARM_RIGHT_MISSING,
        both(file("settings", PREWARMING), gone(kinds.CLUSTER_ROLE_BINDINGS, "warmslice-prewarm")),
        "may not list deployments.apps",
        "kubectl apply -f manifests/components/prewarm/rbac.yaml",
    ),
    Case(
        Code.POLICY_MISSING,
        gone(kinds.ADMISSION_POLICIES, "warmslice-node"),
        "is not there",
        "kubectl apply -f manifests/base/admission.yaml",
    ),
    Case(
        Code.POLICY_UNBOUND,
        gone(kinds.ADMISSION_BINDINGS, "warmslice-node"),
        "validationActions [Deny]",
        "kubectl apply -f manifests/base/admission.yaml",
    ),
    Case(
        Code.POLICY_ELSEWHERE,
        policy_about_another,
        "system:serviceaccount:warmslice:warmslice",
        "write system:serviceaccount:warmslice:warmslice into matchConditions",
    ),
    Case(
        Code.CLIENTS_LEFT_PAUSED,
        labelled(labels.DEVICE_PLUGIN, labels.PAUSED),
        "nvidia.com/gpu.deploy.device-plugin is paused-for-mig-change",
        "kubectl label node gpu-1 nvidia.com/gpu.deploy.device-plugin=true --overwrite",
    ),
    Case(
        Code.CLIENTS_LEFT_PAUSED,
        labelled(labels.DEVICE_PLUGIN, "paused-for-driver-upgrade"),
        "no upgrade of the driver is under way",
        "nvidia.com/gpu.deploy.device-plugin=true",
    ),
    Case(
        Code.OPERATION_STUCK,
        both(annotated({labels.OPERATION: OPERATION}, cordoned=True), agent_not_ready({"reason": "CrashLoopBackOff"})),
        "records a change to 'day'",
        "warmslice doctor gpu-1",
    ),
    Case(Code.OPERATION_UNREADABLE, annotated({labels.OPERATION: "{"}), "cannot be read", "put its last value back"),
    Case(
        Code.CORDON_LEFT,
        annotated(labels.AUTOSCALER_GUARDS, cordoned=True),
        "karpenter.sh/do-not-disrupt",
        "kubectl uncordon gpu-1",
    ),
    Case(
        Code.KEPT_CORDONED,
        annotated({labels.KEEP_CORDONED: "true"}, cordoned=True),
        "keep-cordoned=true",
        "kubectl annotate node gpu-1 warmslice.dev/keep-cordoned-",
    ),
    Case(
        Code.GATE_WITHOUT_AGENT,
        both(
            merged(kinds.NODES, NODE, {"spec": {"taints": [{"key": labels.WARMING, "effect": "NoSchedule"}]}}),
            annotated({labels.GATE: Gate(1.0, "layout", "waits").to_json()}),
            agent_not_ready(None),
        ),
        "warmslice.dev/warming:NoSchedule",
        "kubectl taint node gpu-1 warmslice.dev/warming:NoSchedule-",
    ),
    Case(
        Code.DRIVER_UPGRADE_FAILED,
        labelled(labels.DRIVER_UPGRADE_STATE, "upgrade-failed"),
        "is upgrade-failed",
        "nvidia.com/gpu-driver-upgrade-state=upgrade-required",
    ),
    Case(
        Code.DRIVER_UPGRADING,
        both(labelled(labels.DRIVER_UPGRADE_STATE, "pod-restart-required"), annotated({}, cordoned=True)),
        "is pod-restart-required",
        "reason=GPUDriverUpgrade",
    ),
    Case(
        Code.LATENCY_ON_SHARED,
        both(labelled(f"{SLICE}.replicas", "4"), labelled(f"{SLICE}.sharing-strategy", "time-slicing")),
        f"priority is 1000000 (realtime), and it has {SLICE}",
        f"resources.limits {SLICE}",
    ),
    Case(
        Code.LATENCY_ON_SHARED,
        both(
            labelled(labels.PLUGIN_CONFIG, "warmslice-time-slicing_1g.10gb-4"),
        ),
        "time-sliced on gpu-1",
        "by mps instead",
    ),
    Case(
        Code.PODS_LEFT_FAILED,
        both(
            pod("train-0", SHUTDOWN, resources={LARGE: 1}),
            pod("train-1", ADMISSION, resources={LARGE: 1}),
        ),
        "train-0, train-1 stay Failed",
        "kubectl -n default delete pod train-0 train-1",
    ),
    Case(
        Code.RESOURCE_UNKNOWN,
        pod("big", node="", resources={"nvidia.com/mig-7g.80gb": 1}),
        "nvidia.com/mig-7g.80gb, which no node has",
        "nvidia.com/mig.config=night",
    ),
    Case(
        Code.RESOURCE_UNKNOWN,
        pod("odd", node="", resources={"nvidia.com/mig-2g.20gb": 1}),
        "no layout of the file makes it",
        "nvidia.com/mig.config=1x2g.20gb",
    ),
    Case(
        Code.TWO_BUDGETS,
        budget("more", maxUnavailable=1),
        "chat and more both cover it",
        "make their selectors disjoint",
    ),
    Case(
        Code.BUDGET_NEVER_MET,
        both(gone(kinds.BUDGETS, "chat", "default"), budget("never", maxUnavailable=0)),
        "maxUnavailable is 0",
        "set maxUnavailable: 1",
    ),
    Case(
        Code.BUDGET_NEVER_MET,
        both(gone(kinds.BUDGETS, "chat", "default"), budget("never", minAvailable=1)),
        "minAvailable is 1 and it counts 1 pods",
        "one replica more than minAvailable",
    ),
    Case(
        Code.BUDGET_NEVER_MET,
        both(gone(kinds.BUDGETS, "chat", "default"), budget("never", minAvailable="50%")),
        "minAvailable is 50% and it counts 1 pods",
        "one replica more than minAvailable",
    ),
    Case(Code.HUB_WRITABLE, pod("tool", spec=HUB), "has /var/lib/warmslice of the node writable", "readOnly: true"),
    Case(
        Code.MODEL_UNKNOWN,
        pod("lost", node="", spec={"nodeSelector": {f"{labels.MODEL_PREFIX}chatt": "ready"}}),
        "models.warmslice.dev/chatt, and no model of that name",
        "name: chatt",
    ),
    Case(
        Code.MODEL_FAILED,
        both(
            labelled(f"{labels.MODEL_PREFIX}embed", "failed"),
            agent_says("model-failed", "embed: 401: it is gated; give a token that may read it"),
        ),
        "failed on gpu-1: embed: 401: it is gated",
        "kubectl -n warmslice logs ds/warmslice -c cache",
    ),
    Case(
        Code.MODEL_SET_UNKNOWN,
        labelled(labels.MODEL_SET, "batch"),
        "'batch', a model set that the catalog does not have",
        "with one of the catalog (serving)",
    ),
    Case(
        Code.TOKEN_MISSING,
        file("catalog", "models:\n- {repository: acme/chat, name: chat, token: acme}\n" + CATALOG.split("\n", 2)[2]),
        "token 'acme', and the setting hub_tokens_directory is not set",
        "hub_tokens_directory",
    ),
    Case(
        Code.TOKEN_MISSING,
        both(
            file(
                "catalog", "models:\n- {repository: acme/chat, name: chat, token: acme}\n" + CATALOG.split("\n", 2)[2]
            ),
            file("settings", SETTINGS + "hub_tokens_directory: /etc/warmslice-hub\n"),
        ),
        "the Secret warmslice/warmslice-hub-token is not there",
        "mount a Secret",
    ),
    Case(
        Code.CACHE_MEMORY_SHORT,
        agent_says(
            "model-not-in-memory",
            "chat: its weights are 16.1 GB, and the agent's memory limit leaves 0.9 GB for the page cache: raise the limit of "
            "the cache container",
        ),
        "leaves 0.9 GB for the page cache",
        "resources.limits.memory of the container cache",
    ),
    Case(
        Code.CONFIG_MISSING,
        gone(kinds.CONFIGMAPS, "warmslice-layouts", AGENTS),
        "ConfigMap warmslice/warmslice-layouts",
        "kubectl apply -k manifests/base",
    ),
    Case(
        Code.SETTINGS_UNREADABLE,
        file("settings", "prewarm: declared\ncache_budget: 5\n"),
        "unknown setting 'cache_budget'",
        "kubectl -n warmslice rollout restart daemonset/warmslice",
    ),
    Case(
        Code.LAYOUTS_UNREADABLE,
        file("layouts", LAYOUTS.replace("mig-enabled", "mig-on", 1)),
        "/etc/warmslice/layouts.yaml:3:",
        "warmslice check layouts.yaml",
    ),
    Case(Code.CATALOG_UNREADABLE, file("catalog", "models: {}"), "models is {}", "warmslice check catalog.yaml"),
    Case(
        Code.STATE_IN_CACHE,
        state_beside_models,
        "/var/lib/warmslice/state of the node, inside /var/lib/warmslice",
        "/var/lib/warmslice-state",
    ),
)
