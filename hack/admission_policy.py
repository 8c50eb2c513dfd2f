"""``python -m hack.admission_policy`` writes ``manifests/base/admission.yaml``: what an agent's token may write.

The keys come from the table in ``agent/model/labels.py``, so that a key which the agent comes to write is let through, and
one that it gives up is not. A test keeps the committed file equal to what this makes.
"""

from __future__ import annotations

from pathlib import Path

from agent.model.labels import KEYS, WARMING_EFFECT

MANIFEST = Path(__file__).resolve().parent.parent / "manifests" / "base" / "admission.yaml"
ACCOUNT = "system:serviceaccount:warmslice:warmslice"


def own(where: str, key: str = "key") -> str:
    """CEL: whether ``key`` is of a label (an annotation, a taint) that the agent writes. A name in the table ends with ``*`` or
    ``<...>`` where only its beginning is fixed."""
    names = [one.name for one in KEYS if one.where == where and one.written]
    starts = [start_of(name) for name in names]
    whole = [name for name, start in zip(names, starts, strict=True) if not start]
    listed = ",\n        ".join(f"'{name}'" for name in whole)
    return "\n        || ".join(
        [f"{key} in [{listed}]", *(f"{key}.startsWith('{start}')" for start in starts if start)]
    )


def start_of(name: str) -> str:
    """What is fixed of a name that is open at its end; '' for a whole name. ValueError for one that is open elsewhere."""
    cut = min((position for position in map(name.find, "*<") if position >= 0), default=-1)
    if cut < 0:
        return ""
    if cut == 0 or not name.endswith(("*", ">")):
        raise ValueError(f"{name} is not open at its end only: the policy cannot say it")
    return name[:cut]


def manifest() -> str:
    """The file's text."""
    bindings = {f"{name}_binding": _BINDING.format(name=name) for name in ("node", "pods", "evictions", "events")}
    gate = f"taint.effect == '{WARMING_EFFECT}' && {own('taint', 'taint.key')}"
    return _TEMPLATE.format(
        account=ACCOUNT, own_label=own("label"), own_annotation=own("annotation"), gate=gate, **bindings
    )


_BINDING = """\
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: warmslice-{name}
spec:
  policyName: warmslice-{name}
  validationActions: [Deny]
"""

_TEMPLATE = """\
# Made by `python -m hack.admission_policy` from the table of keys in agent/model/labels.py. Kubernetes 1.30 or later.
#
# RBAC lets every agent patch every node and remove every pod. These policies hold an agent's token to the node that its pod
# runs on, by the node's name that the API server itself puts into a pod's token. SECURITY.md says what is left.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: warmslice-node
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups: [""]
        apiVersions: [v1]
        operations: [UPDATE]
        resources: [nodes, nodes/*]
  matchConditions:
    - name: an-agent
      expression: request.userInfo.username == '{account}'
  variables:
    - name: node
      expression: request.userInfo.extra[?'authentication.kubernetes.io/node-name'][0].orValue('')
    - name: labels
      expression: object.metadata.?labels.orValue({{}})
    - name: oldLabels
      expression: oldObject.metadata.?labels.orValue({{}})
    - name: annotations
      expression: object.metadata.?annotations.orValue({{}})
    - name: oldAnnotations
      expression: oldObject.metadata.?annotations.orValue({{}})
  validations:
    - message: an agent writes the node that its own pod runs on, and no other
      expression: variables.node != '' && request.name == variables.node
    - message: an agent adds and changes no label but its own
      expression: >-
        variables.labels.all(key,
        {own_label}
        || (key in variables.oldLabels && variables.oldLabels[key] == variables.labels[key]))
    - message: an agent removes no label but its own
      expression: >-
        variables.oldLabels.all(key, key in variables.labels
        || {own_label})
    - message: an agent adds and changes no annotation but its own
      expression: >-
        variables.annotations.all(key,
        {own_annotation}
        || (key in variables.oldAnnotations && variables.oldAnnotations[key] == variables.annotations[key]))
    - message: an agent removes no annotation but its own
      expression: >-
        variables.oldAnnotations.all(key, key in variables.annotations
        || {own_annotation})
    - message: an agent leaves owners and finalizers of its node alone
      expression: >-
        object.metadata.?ownerReferences.orValue([]) == oldObject.metadata.?ownerReferences.orValue([])
        && object.metadata.?finalizers.orValue([]) == oldObject.metadata.?finalizers.orValue([])
    - message: of its node's taints an agent takes the start-up gate away, and changes nothing else
      expression: >-
        object.spec.?taints.orValue([]) == oldObject.spec.?taints.orValue([])
        || object.spec.?taints.orValue([]) == oldObject.spec.?taints.orValue([]).filter(taint,
        !({gate}))
    - message: of its node's specification an agent changes unschedulable, and nothing else
      expression: >-
        object.spec.?podCIDR.orValue('') == oldObject.spec.?podCIDR.orValue('')
        && object.spec.?podCIDRs.orValue([]) == oldObject.spec.?podCIDRs.orValue([])
        && object.spec.?providerID.orValue('') == oldObject.spec.?providerID.orValue('')
        && has(object.spec.configSource) == has(oldObject.spec.configSource)
    - message: an agent leaves its node's status to the kubelet
      expression: >-
        has(object.status) == has(oldObject.status)
        && (!has(object.status) || object.status == oldObject.status)
{node_binding}---
# GPU clients are restarted by deleting their pods; the other pods that the agent moves are evicted.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: warmslice-pods
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups: [""]
        apiVersions: [v1]
        operations: [DELETE]
        resources: [pods]
  matchConditions:
    - name: an-agent
      expression: request.userInfo.username == '{account}'
  variables:
    - name: node
      expression: request.userInfo.extra[?'authentication.kubernetes.io/node-name'][0].orValue('')
  validations:
    - message: an agent deletes pods of the node that its own pod runs on, and no others
      expression: variables.node != '' && oldObject.spec.?nodeName.orValue('') == variables.node
{pods_binding}---
# An Eviction does not say which node its pod is on, so that evictions cannot be held to one node. Asking for the pod's UID
# keeps a mistaken or replayed request from hitting a pod of the same name that came later.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: warmslice-evictions
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups: [""]
        apiVersions: [v1]
        operations: [CREATE]
        resources: [pods/eviction]
  matchConditions:
    - name: an-agent
      expression: request.userInfo.username == '{account}'
  validations:
    - message: an agent whose token names no node evicts nothing
      expression: request.userInfo.extra[?'authentication.kubernetes.io/node-name'][0].orValue('') != ''
    - message: an agent evicts a pod by its UID
      expression: object.?deleteOptions.?preconditions.?uid.orValue('') != ''
    - message: an agent evicts nothing from kube-system
      expression: request.namespace != 'kube-system'
{evictions_binding}---
# What an agent says it says of its own node, or, under its node's name, of a pod there or that pod's owner; and it counts on no
# Event but its own that it is said again. Which pods run on which node the policy cannot see.
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: warmslice-events
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups: [""]
        apiVersions: [v1]
        operations: [CREATE, UPDATE]
        resources: [events]
  matchConditions:
    - name: an-agent
      expression: request.userInfo.username == '{account}'
  variables:
    - name: node
      expression: request.userInfo.extra[?'authentication.kubernetes.io/node-name'][0].orValue('')
  validations:
    - message: an agent writes Events of the node that its own pod runs on, of no other, and under no other's name
      expression: >-
        variables.node != '' && object.?reportingComponent.orValue('') == 'warmslice.dev/agent'
        && object.?reportingInstance.orValue('') == variables.node
        && (object.involvedObject.?kind.orValue('') != 'Node' || object.involvedObject.?name.orValue('') == variables.node)
    - message: an agent changes no Event but its own
      expression: >-
        request.operation == 'CREATE' || (oldObject.?reportingInstance.orValue('') == variables.node
        && oldObject.?reportingComponent.orValue('') == 'warmslice.dev/agent')
{events_binding}"""


def main() -> int:
    MANIFEST.write_text(manifest(), "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
