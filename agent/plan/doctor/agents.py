"""The agents themselves: whether each GPU node has one that works, with the rights and the fences that it needs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.model import labels
from agent.model.cluster_view import AdmissionPolicy, ClusterView, Container, DaemonSet, SeenPod
from agent.model.doctor import Code, Finding
from agent.model.node import Node
from agent.model.rights import Right
from agent.plan.doctor.nodes import agents_meant_for, barred_by, ready_agents, sign_of_gpus, wish_of
from agent.plan.upgrade import upgrading

POLICIES = ("warmslice-node", "warmslice-pods", "warmslice-evictions", "warmslice-events")
"""Those of `manifests/base/admission.yaml`."""
_APPLY_BASE = "`kubectl apply -k manifests/base`"


def agents(view: ClusterView) -> Iterator[Finding]:
    """All of it."""
    if view.agents is None:
        return
    if not view.agents:
        yield from _absent(view)
        return
    yield from _access(view)
    for node in view.nodes:
        meant = agents_meant_for(view, node)
        if not meant:
            yield from _not_selected(view, node)
        for daemon_set in meant:
            yield from _pods_of(view, node, daemon_set)
        if node.name not in view.young:
            yield from _gate(view, node)


def _absent(view: ClusterView) -> Iterator[Finding]:
    with_gpus = [node.name for node in view.nodes if sign_of_gpus(node)]
    if with_gpus:
        yield Finding(
            Code.AGENT_ABSENT,
            "cluster",
            f"{len(with_gpus)} nodes have NVIDIA GPUs ({_some(with_gpus)}), and no DaemonSet has the label "
            "app.kubernetes.io/name=warmslice",
            _APPLY_BASE,
        )


def _not_selected(view: ClusterView, node: Node) -> Iterator[Finding]:
    """An upgrade of the driver may have taken the label for a while; a node whose GPUs have no MIG may be left out on purpose."""
    sign, wish = sign_of_gpus(node), wish_of(view, node) or node.labels.get(labels.MODEL_SET, "")
    if upgrading(node) or not (sign or wish):
        return
    lacks = _lacking_label(view, node)
    fix = f"`kubectl label node {node.name} {lacks} --overwrite`, or another nodeSelector in the DaemonSet"
    if wish:
        what = f"its labels ask for {wish!r}, and it lacks the label {lacks}, by which the DaemonSet selects nodes"
        yield Finding(Code.WISH_WITHOUT_AGENT, f"node {node.name}", what, fix, node.name)
    elif node.labels.get("nvidia.com/mig.capable") != "false":
        what = f"it has NVIDIA GPUs ({sign}), and lacks the label {lacks}, by which the DaemonSet selects nodes"
        yield Finding(Code.GPU_NODE_NOT_SELECTED, f"node {node.name}", what, fix, node.name)


def _lacking_label(view: ClusterView, node: Node) -> str:
    place = (view.agents or ())[0].place
    lacking = [f"{key}={value}" for key, value in place.selector if node.labels.get(key) != value]
    return " ".join(lacking) or "that its node affinity asks for"


def _pods_of(view: ClusterView, node: Node, daemon_set: DaemonSet) -> Iterator[Finding]:
    taint = barred_by(daemon_set.place, node)
    if taint is not None:
        written = f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}"
        yield Finding(
            Code.AGENT_NOT_TOLERATED,
            f"node {node.name}",
            f"its taint {written} is not tolerated by DaemonSet {daemon_set}",
            "add `{operator: Exists}` to spec.template.spec.tolerations of the DaemonSet, as manifests/base has it",
            node.name,
        )
        return
    pods = [one for one in view.on(node) if one.daemon_set == str(daemon_set)]
    if view.pods is None:
        return
    if not pods and node.name not in view.young:
        yield Finding(
            Code.AGENT_MISSING,
            f"node {node.name}",
            f"DaemonSet {daemon_set} selects it, and it has none of its pods",
            f"`kubectl -n {daemon_set.namespace} describe daemonset {daemon_set.name}` says why (quota, admission, RuntimeClass)",
            node.name,
        )
    for one in pods:
        if node.name in view.silent:
            yield _beyond_reach(one, node)
        else:
            yield from _state_of(one, daemon_set, node, node.name in view.young)


def _beyond_reach(one: SeenPod, node: Node) -> Finding:
    return Finding(
        Code.AGENT_NOT_READY,
        f"pod {one.pod.ref}",
        "its node is not Ready: the kubelet does not report, so that nothing is known of the agent there",
        f"`kubectl describe node {node.name}`, and mend what its conditions name",
        node.name,
    )


def _state_of(one: SeenPod, daemon_set: DaemonSet, node: Node, young: bool) -> Iterator[Finding]:
    meant = {container.name: container.image for container in daemon_set.containers}
    if not one.ready and not one.pod.terminating and not young:
        bad = next((c for c in one.containers if c.name in meant and not c.ready), None)
        yield Finding(Code.AGENT_NOT_READY, f"pod {one.pod.ref}", _why(one, bad), _look(one, bad), node.name)
    other = [c for c in one.containers if c.image != meant.get(c.name, c.image)]
    # A registry's webhook may rewrite the images of all pods: then each is another, and none is old.
    if other and not daemon_set.rolled_out:
        yield Finding(
            Code.AGENT_OUTDATED,
            f"pod {one.pod.ref}",
            f"its container {other[0].name} has image {other[0].image}, and DaemonSet {daemon_set} names {meant[other[0].name]}",
            f"`kubectl -n {daemon_set.namespace} rollout status daemonset/{daemon_set.name}`; where it stands still, "
            f"`kubectl -n {one.pod.ref.namespace} delete pod {one.pod.ref.name}`",
            node.name,
        )


def _why(one: SeenPod, bad: Container | None) -> str:
    if bad is None:
        return f"it is {one.pod.phase} and not ready"
    if bad.waiting:
        more = f": {bad.message}" if bad.message else ""
        times = f" after {bad.restarts} restarts" if bad.restarts else ""
        return f"its container {bad.name} waits, {bad.waiting}{times}{more}"
    return f"its container {bad.name} runs and is not ready: the loop fails, or has not finished a pass"


def _look(one: SeenPod, bad: Container | None) -> str:
    where = f"-n {one.pod.ref.namespace}"
    if bad is not None and bad.waiting and bad.waiting != "CrashLoopBackOff":
        return f"`kubectl {where} describe pod {one.pod.ref.name}`, and mend what its last Event names"
    container = f" -c {bad.name}" if bad is not None else ""
    previous = " --previous" if bad is not None and bad.waiting else ""
    return f"mend what its log ends with: `kubectl {where} logs {one.pod.ref.name}{container}{previous} --tail=20`"


def _gate(view: ClusterView, node: Node) -> Iterator[Finding]:
    if node.gated and view.pods is not None and not ready_agents(view, node):
        yield Finding(
            Code.GATE_WITHOUT_AGENT,
            f"node {node.name}",
            f"it has the taint {labels.WARMING}:{labels.WARMING_EFFECT}, and no agent here is ready to take it away",
            f"get an agent to run there, or `kubectl taint node {node.name} {labels.WARMING}:{labels.WARMING_EFFECT}-`",
            node.name,
        )


def _access(view: ClusterView) -> Iterator[Finding]:
    first = (view.agents or ())[0]
    account = f"ServiceAccount {first.namespace}/{first.account}"
    if view.runtime_class_missing:
        yield Finding(
            Code.RUNTIME_CLASS_MISSING,
            f"DaemonSet {first}",
            f"spec.template.spec.runtimeClassName is {view.runtime_class_missing}, and there is no such RuntimeClass",
            "install the NVIDIA Container Toolkit with its RuntimeClass (GPU Operator makes it), or take runtimeClassName from "
            "the DaemonSet where nvidia is the default runtime",
        )
    if view.lacking:
        yield _lacking(Code.RIGHT_MISSING, account, view.lacking, _APPLY_BASE)
    if view.lacking_prewarm and view.config.prewarm:
        fix = "`kubectl apply -f manifests/components/prewarm/rbac.yaml`, or set prewarm: off"
        yield _lacking(Code.PREWARM_RIGHT_MISSING, account, view.lacking_prewarm, fix)
    if view.admission is not None:
        yield from _policies(view.admission, first)


def _lacking(code: Code, account: str, rights: Sequence[Right], fix: str) -> Finding:
    return Finding(code, account, f"it may not {_some([str(right) for right in rights], 6)}", fix)


def _policies(found: Sequence[AdmissionPolicy], agents_set: DaemonSet) -> Iterator[Finding]:
    fix = "`kubectl apply -f manifests/base/admission.yaml`"
    for name in POLICIES:
        policy = _policy_like(name, found)
        where = f"ValidatingAdmissionPolicy {name}"
        if policy is None:
            yield Finding(
                Code.POLICY_MISSING, where, "it is not there: a stolen token of an agent is not held to its node", fix
            )
        elif not policy.denies:
            what = "no ValidatingAdmissionPolicyBinding with validationActions [Deny] names it, so that it does nothing"
            yield Finding(Code.POLICY_UNBOUND, where, what, fix)
        elif not policy.account:
            account = f"system:serviceaccount:{agents_set.namespace}:{agents_set.account}"
            what = f"its matchConditions do not name {account}, the account of DaemonSet {agents_set}"
            yield Finding(Code.POLICY_ELSEWHERE, where, what, f"write {account} into matchConditions of the policies")


def _policy_like(name: str, found: Sequence[AdmissionPolicy]) -> AdmissionPolicy | None:
    """A release of another name has it before the last word."""
    like = (one for one in found if one.account and one.name.endswith(f"-{name.rpartition('-')[2]}"))
    return next((one for one in found if one.name == name), None) or next(like, None)


def _some(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
