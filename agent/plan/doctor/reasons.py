"""What to do about a layout that failed or waits, by the reason that the agent gives. Pure."""

from __future__ import annotations

from agent.model.labels import EVICT, PLUGIN_CONFIG

_RELABEL = "`kubectl label node {node} {label}=LAYOUT --overwrite`"
_CAN_HAVE = f"{_RELABEL} with a layout that this node can have; `warmslice layouts --gpu MODEL` lists what fits"
_BY_UUID = (
    "name GPUs by the first 8 digits of their UUID (`warmslice.dev/gpu-<8 digits>.layout`), which `nvidia-smi -L` shows"
)
_PLUGIN = "look at the pod of the device plugin (or of NVIDIA's DRA driver) on {node}: its log says what it found"
_HARDWARE = (
    "look for Xid in `dmesg` of {node} and at `nvidia-smi` there; the agent goes on by itself once the GPU answers"
)
_ALLOW = (
    f"`kubectl -n NAMESPACE annotate pod POD {EVICT}=true` lets the agent move a pod that it names, and a process "
    "outside pods has to end; or wish for a layout that leaves them alone: `warmslice layouts --here` there lists these"
)
_PODS = "`kubectl get pods -A --field-selector spec.nodeName={node}`"
_TRIED_AGAIN = "mend what the message names; it is tried again by itself, and at once when the label changes"

FIXES: dict[str, str] = {
    "unknown-layout": _CAN_HAVE,
    "unparsable-layout": _CAN_HAVE,
    "unknown-profile": _CAN_HAVE,
    "no-placement": _CAN_HAVE,
    "no-mig": _CAN_HAVE,
    "layouts-unreadable": "mend the layouts file: `warmslice check layouts.yaml` says where its mistakes are",
    "unknown-gpu": _BY_UUID,
    "gpu-count-changed": _BY_UUID,
    "sharing-unsupported": f"{_RELABEL} with a layout that is shared otherwise; `warmslice check layouts.yaml` says why",
    "single-strategy": f"set the device plugin's MIG strategy to mixed, or {_RELABEL} with slices of one kind on every GPU",
    "sharing-config-taken": f"`kubectl label node {{node}} {PLUGIN_CONFIG}-`, or {_RELABEL} with a layout that is not shared",
    "host-plugin": "set refresh_commands to what starts the device plugin anew, or take the label from the node",
    "rolled-back": _TRIED_AGAIN,
    "drain-timeout": f"let the pods go that it names (their budgets, their grace periods): {_TRIED_AGAIN}",
    "withdrawn": f"nothing: the label was taken away in mid-change; {_RELABEL} to wish again",
    "reboot-required": "`kubectl drain {node} --ignore-daemonsets`, reboot the machine, `kubectl uncordon {node}`",
    "reboot-failed": "mend reboot_command in the settings: run it by hand where the agent runs, and see why it fails",
    "reboot-did-not-help": "look at the driver of {node}: the MIG mode was asked for and not in force after a reboot",
    "rebooting": "see that the machine reboots: it was asked to by reboot_command",
    "not-advertised": _PLUGIN,
    "rollback-failed": _HARDWARE,
    "gpu-unknown": _HARDWARE,
    "blocked": _ALLOW,
    "job-running": "let the Jobs end that it names, or set a smaller wait_for_jobs_seconds",
    "budget": "give the workload one replica more, or its PodDisruptionBudget room for one: `kubectl get pdb -A`",
    "changing": "look at the agent's log there: a step takes long",
    "draining": "see why the pods that it names do not end: `kubectl describe pod`; finalizers and grace periods are theirs",
    "device-busy": "end the processes that it names on the GPU",
    "pod-starting": "see why the pod that it names does not start: it may come to hold a slice; delete it where it never will",
    "clients-stopping": f"see why the GPU client's pod does not end: {_PODS}",
    "clients-restarting": f"see why the GPU client does not start: {_PODS}",
    "gpu-in-use": "end what has the GPU open on {node}: `fuser -v /dev/nvidia*` there; before_commands stops services",
    "driver-failing": _HARDWARE,
    "before-failing": "mend before_commands in the settings: the message says what the command answered",
    "refresh-failing": "mend refresh_commands in the settings: the message says what the command answered",
    "eviction-failing": "mend what keeps the API server from evicting the pod that it names, such as two budgets or a webhook",
    "going-back": "wait: the old layout is being put back; the message says what failed",
    "fault": "see why the driver is away on {node}: the driver's pod, or `nvidia-smi` there",
    "back-off": "wait for the next attempt, which the message names",
    "kubelet-unreachable": "see why PodResources does not answer on {node}: the kubelet, and the agent's mount of pod-resources",
    "drift": "find who changes the GPUs of {node}; by hand only without the label: `kubectl label node {node} {label}-`",
    "second-owner": "turn the other owner off, as the message says",
    "driver-upgrade": "wait for GPU Operator, or see why it does not go on: the driver's pod on {node}",
    "operation-unreadable": "put the annotation's last value back, or remove it after looking at cordon and gpu.deploy labels",
    "refused": "give the agent the right that the API server refused: `kubectl apply -k manifests/base`",
    "fleet-slot": "wait for its turn, or the window that the message names; `kubectl -n warmslice get leases` shows who "
    "changes, max_unavailable says how many may",
    "model-not-ready": "see why the models that it names are not ready, or take gate: true from them",
    "dry-run": "`kubectl annotate node {node} warmslice.dev/dry-run-` makes it so",
}


def fix_of(reason: str, node: str, label: str) -> str:
    """For that node, whose wish stands in that label."""
    return FIXES.get(reason, _TRIED_AGAIN).format(node=node, label=label)
