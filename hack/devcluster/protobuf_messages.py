"""The messages that kubectl sends as protobuf, with the fields that its commands can fill.

Field numbers are those of the ``generated.proto`` files of k8s.io/api and k8s.io/apimachinery 1.34 (from memory; what
kubectl's own commands send is tested).
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Field:
    """``form`` is text, bytes, bool, int, nonzero (a number that is left out where it is 0), int_or_text, message, or a
    map to text, bytes or quantities; ``of`` is a message's own fields."""

    name: str
    form: str = "text"
    repeated: bool = False
    of: Message = field(default_factory=dict)


Message = dict[int, Field]

_OWNER: Message = {
    1: Field("kind"), 3: Field("name"), 4: Field("uid"), 5: Field("apiVersion"),
    6: Field("controller", "bool"), 7: Field("blockOwnerDeletion", "bool"),
}  # fmt: skip
_METADATA: Message = {
    1: Field("name"), 2: Field("generateName"), 3: Field("namespace"), 5: Field("uid"), 6: Field("resourceVersion"),
    11: Field("labels", "text_map"), 12: Field("annotations", "text_map"),
    13: Field("ownerReferences", "message", repeated=True, of=_OWNER), 14: Field("finalizers", repeated=True),
}  # fmt: skip
_META = Field("metadata", "message", of=_METADATA)
_PRECONDITIONS: Message = {1: Field("uid"), 2: Field("resourceVersion")}
_DELETE_OPTIONS: Message = {
    1: Field("gracePeriodSeconds", "int"), 2: Field("preconditions", "message", of=_PRECONDITIONS),
    3: Field("orphanDependents", "bool"), 4: Field("propagationPolicy"), 5: Field("dryRun", repeated=True),
}  # fmt: skip
_RESOURCE_ATTRIBUTES: Message = {
    1: Field("namespace"), 2: Field("verb"), 3: Field("group"), 4: Field("version"), 5: Field("resource"),
    6: Field("subresource"), 7: Field("name"),
}  # fmt: skip
_ACCESS_SPEC: Message = {
    1: Field("resourceAttributes", "message", of=_RESOURCE_ATTRIBUTES),
    2: Field("nonResourceAttributes", "message", of={1: Field("path"), 2: Field("verb")}),
}
_BOUND_OBJECT: Message = {1: Field("kind"), 2: Field("apiVersion"), 3: Field("name"), 4: Field("uid")}
_TOKEN_SPEC: Message = {
    1: Field("audiences", repeated=True), 3: Field("boundObjectRef", "message", of=_BOUND_OBJECT),
    4: Field("expirationSeconds", "int"),
}  # fmt: skip
_RULE: Message = {
    1: Field("verbs", repeated=True), 2: Field("apiGroups", repeated=True), 3: Field("resources", repeated=True),
    4: Field("resourceNames", repeated=True), 5: Field("nonResourceURLs", repeated=True),
}  # fmt: skip
_RULES = Field("rules", "message", repeated=True, of=_RULE)
_REQUIREMENT: Message = {1: Field("key"), 2: Field("operator"), 3: Field("values", repeated=True)}
_SELECTOR: Message = {
    1: Field("matchLabels", "text_map"), 2: Field("matchExpressions", "message", repeated=True, of=_REQUIREMENT)
}  # fmt: skip
_SELECTORS = Field("clusterRoleSelectors", "message", repeated=True, of=_SELECTOR)
_SUBJECTS = Field(
    "subjects", "message", repeated=True,
    of={1: Field("kind"), 2: Field("apiGroup"), 3: Field("name"), 4: Field("namespace")},
)  # fmt: skip
_ROLE_REF = Field("roleRef", "message", of={1: Field("apiGroup"), 2: Field("kind"), 3: Field("name")})
_SCOPE: Message = {1: Field("scopeName"), 2: Field("operator"), 3: Field("values", repeated=True)}
_QUOTA_SPEC: Message = {
    1: Field("hard", "quantity_map"), 2: Field("scopes", repeated=True),
    3: Field(
        "scopeSelector", "message", of={1: Field("matchExpressions", "message", repeated=True, of=_SCOPE)}
    ),
}  # fmt: skip
_BUDGET_SPEC: Message = {
    1: Field("minAvailable", "int_or_text"), 2: Field("selector", "message", of=_SELECTOR),
    3: Field("maxUnavailable", "int_or_text"), 4: Field("unhealthyPodEvictionPolicy"),
}  # fmt: skip
_SERVICE_PORT: Message = {
    1: Field("name"), 2: Field("protocol"), 3: Field("port", "int"), 4: Field("targetPort", "int_or_text"),
    5: Field("nodePort", "nonzero"), 6: Field("appProtocol"),
}  # fmt: skip
_SERVICE_SPEC: Message = {
    1: Field("ports", "message", repeated=True, of=_SERVICE_PORT), 2: Field("selector", "text_map"),
    3: Field("clusterIP"), 4: Field("type"), 7: Field("sessionAffinity"), 10: Field("externalName"),
}  # fmt: skip
_CONTAINER_PORT: Message = {
    1: Field("name"), 2: Field("hostPort", "nonzero"), 3: Field("containerPort", "int"), 4: Field("protocol"),
}  # fmt: skip
_RESOURCES: Message = {1: Field("limits", "quantity_map"), 2: Field("requests", "quantity_map")}
_CONTAINER: Message = {
    1: Field("name"), 2: Field("image"), 3: Field("command", repeated=True), 4: Field("args", repeated=True),
    5: Field("workingDir"), 6: Field("ports", "message", repeated=True, of=_CONTAINER_PORT),
    7: Field("env", "message", repeated=True, of={1: Field("name"), 2: Field("value")}),
    8: Field("resources", "message", of=_RESOURCES), 14: Field("imagePullPolicy"),
}  # fmt: skip
_POD_SPEC: Message = {
    2: Field("containers", "message", repeated=True, of=_CONTAINER), 3: Field("restartPolicy"),
    4: Field("terminationGracePeriodSeconds", "int"), 7: Field("nodeSelector", "text_map"),
    8: Field("serviceAccountName"), 10: Field("nodeName"), 24: Field("priorityClassName"),
}  # fmt: skip
_TEMPLATE = Field("template", "message", of={1: _META, 2: Field("spec", "message", of=_POD_SPEC)})
_ROLLING: Message = {1: Field("maxUnavailable", "int_or_text"), 2: Field("maxSurge", "int_or_text")}
_DEPLOYMENT_SPEC: Message = {
    1: Field("replicas", "int"), 2: Field("selector", "message", of=_SELECTOR), 3: _TEMPLATE,
    4: Field("strategy", "message", of={1: Field("type"), 2: Field("rollingUpdate", "message", of=_ROLLING)}),
    5: Field("minReadySeconds", "nonzero"), 6: Field("revisionHistoryLimit", "int"), 7: Field("paused", "bool"),
    9: Field("progressDeadlineSeconds", "int"),
}  # fmt: skip
_JOB_SPEC: Message = {
    1: Field("parallelism", "int"), 2: Field("completions", "int"), 3: Field("activeDeadlineSeconds", "int"),
    6: _TEMPLATE, 7: Field("backoffLimit", "int"), 8: Field("ttlSecondsAfterFinished", "int"),
    10: Field("suspend", "bool"),
}  # fmt: skip
MESSAGES: dict[str, Message] = {
    "SelfSubjectAccessReview": {1: _META, 2: Field("spec", "message", of=_ACCESS_SPEC)},
    "SelfSubjectRulesReview": {1: _META, 2: Field("spec", "message", of={1: Field("namespace")})},
    "SelfSubjectReview": {1: _META},
    "TokenRequest": {1: _META, 2: Field("spec", "message", of=_TOKEN_SPEC)},
    "DeleteOptions": _DELETE_OPTIONS,
    "Eviction": {1: _META, 2: Field("deleteOptions", "message", of=_DELETE_OPTIONS)},
    "Role": {1: _META, 2: _RULES},
    "ClusterRole": {1: _META, 2: _RULES, 3: Field("aggregationRule", "message", of={1: _SELECTORS})},
    "RoleBinding": {1: _META, 2: _SUBJECTS, 3: _ROLE_REF},
    "ClusterRoleBinding": {1: _META, 2: _SUBJECTS, 3: _ROLE_REF},
    "ResourceQuota": {1: _META, 2: Field("spec", "message", of=_QUOTA_SPEC)},
    "PodDisruptionBudget": {1: _META, 2: Field("spec", "message", of=_BUDGET_SPEC)},
    "PriorityClass": {
        1: _META,
        2: Field("value", "int"),
        3: Field("globalDefault", "bool"),
        4: Field("description"),
        5: Field("preemptionPolicy"),
    },
    "Service": {1: _META, 2: Field("spec", "message", of=_SERVICE_SPEC)},
    "Deployment": {1: _META, 2: Field("spec", "message", of=_DEPLOYMENT_SPEC)},
    "Job": {1: _META, 2: Field("spec", "message", of=_JOB_SPEC)},
    "Scale": {1: _META, 2: Field("spec", "message", of={1: Field("replicas", "int")})},
    "Namespace": {1: _META},
    "ServiceAccount": {1: _META},
    "ConfigMap": {1: _META, 2: Field("data", "text_map"), 3: Field("binaryData", "bytes_map")},
    "Secret": {1: _META, 2: Field("data", "bytes_map"), 3: Field("type"), 4: Field("stringData", "text_map")},
}
