"""The kinds that the development API server knows, and what is particular about each on the wire."""

from __future__ import annotations

from dataclasses import dataclass, field

_NAME_FIELDS = ("metadata.name", "metadata.namespace")


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource. ``group`` is empty for the core group; ``storage`` names the shelf its objects lie on."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    selectable_fields: tuple[str, ...] = ()
    counts_generation: bool = False
    needs_revision_to_update: bool = False
    create_only: bool = False
    shelf: str = field(default="")

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def storage(self) -> str:
        """Kinds with the same shelf are two views of the same objects."""
        return self.shelf or f"{self.group}/{self.plural}"

    @property
    def singular(self) -> str:
        return self.name.lower()

    @property
    def has_status(self) -> bool:
        return "status" in self.subresources

    @property
    def fields(self) -> tuple[str, ...]:
        """Field selectors besides these are refused with 400, as the real server does."""
        return _NAME_FIELDS + self.selectable_fields


_REFERENCE_PARTS = ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
_EVENT_FIELDS = (
    *(f"involvedObject.{part}" for part in _REFERENCE_PARTS), "reason", "reportingComponent", "source", "type",
)  # fmt: skip
_NEW_EVENT_FIELDS = (*(f"regarding.{part}" for part in _REFERENCE_PARTS), "reason", "reportingController", "type")

NODES = Kind(
    "", "v1", "nodes", "Node", namespaced=False, short_names=("no",), subresources=("status",),
    selectable_fields=("spec.unschedulable",),
)  # fmt: skip
PODS = Kind(
    "", "v1", "pods", "Pod", short_names=("po",), categories=("all",),
    subresources=("status", "binding", "eviction"), counts_generation=True,
    selectable_fields=(
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork",
        "status.phase", "status.podIP", "status.nominatedNodeName",
    ),
)  # fmt: skip
EVENTS = Kind("", "v1", "events", "Event", short_names=("ev",), selectable_fields=_EVENT_FIELDS, shelf="events")
CONFIGMAPS = Kind("", "v1", "configmaps", "ConfigMap", short_names=("cm",))
NAMESPACES = Kind(
    "", "v1", "namespaces", "Namespace", namespaced=False, short_names=("ns",), subresources=("status",),
    selectable_fields=("status.phase",),
)  # fmt: skip
SECRETS = Kind("", "v1", "secrets", "Secret", selectable_fields=("type",))
SERVICES = Kind("", "v1", "services", "Service", short_names=("svc",), categories=("all",), subresources=("status",))
SERVICE_ACCOUNTS = Kind("", "v1", "serviceaccounts", "ServiceAccount", short_names=("sa",), subresources=("token",))
LEASES = Kind("coordination.k8s.io", "v1", "leases", "Lease", needs_revision_to_update=True)
NEW_EVENTS = Kind(
    "events.k8s.io", "v1", "events", "Event", short_names=("ev",), selectable_fields=_NEW_EVENT_FIELDS, shelf="events"
)
BUDGETS = Kind(
    "policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", short_names=("pdb",), subresources=("status",),
    counts_generation=True, needs_revision_to_update=True,
)  # fmt: skip
DAEMONSETS = Kind(
    "apps", "v1", "daemonsets", "DaemonSet", short_names=("ds",), categories=("all",), subresources=("status",),
    counts_generation=True,
)  # fmt: skip
DEPLOYMENTS = Kind(
    "apps", "v1", "deployments", "Deployment", short_names=("deploy",), categories=("all",), subresources=("status",),
    counts_generation=True,
)  # fmt: skip
REPLICASETS = Kind(
    "apps", "v1", "replicasets", "ReplicaSet", short_names=("rs",), categories=("all",), subresources=("status",),
    counts_generation=True,
)  # fmt: skip

# Access, admission, priority, quota and devices.
RBAC, _ADMISSION, _DEVICES = "rbac.authorization.k8s.io", "admissionregistration.k8s.io", "resource.k8s.io"
ROLES = Kind(RBAC, "v1", "roles", "Role")
ROLE_BINDINGS = Kind(RBAC, "v1", "rolebindings", "RoleBinding")
CLUSTER_ROLES = Kind(RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False)
CLUSTER_ROLE_BINDINGS = Kind(RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False)
ADMISSION_POLICIES = Kind(
    _ADMISSION, "v1", "validatingadmissionpolicies", "ValidatingAdmissionPolicy", namespaced=False,
    subresources=("status",), counts_generation=True,
)  # fmt: skip
ADMISSION_BINDINGS = Kind(
    _ADMISSION, "v1", "validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding", namespaced=False
)
PRIORITY_CLASSES = Kind(
    "scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False, short_names=("pc",)
)
QUOTAS = Kind("", "v1", "resourcequotas", "ResourceQuota", short_names=("quota",), subresources=("status",))
RESOURCE_SLICES = Kind(
    _DEVICES, "v1", "resourceslices", "ResourceSlice", namespaced=False,
    selectable_fields=("spec.nodeName", "spec.driver"), counts_generation=True,
)  # fmt: skip
DEVICE_CLASSES = Kind(_DEVICES, "v1", "deviceclasses", "DeviceClass", namespaced=False)
RESOURCE_CLAIMS = Kind(_DEVICES, "v1", "resourceclaims", "ResourceClaim", subresources=("status",))
CLAIM_TEMPLATES = Kind(_DEVICES, "v1", "resourceclaimtemplates", "ResourceClaimTemplate")

# Questions that are answered and never stored.
ACCESS_REVIEWS = Kind(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview",
    namespaced=False, create_only=True,
)  # fmt: skip
RULES_REVIEWS = Kind(
    "authorization.k8s.io", "v1", "selfsubjectrulesreviews", "SelfSubjectRulesReview",
    namespaced=False, create_only=True,
)  # fmt: skip
SUBJECT_REVIEWS = Kind(
    "authorization.k8s.io", "v1", "subjectaccessreviews", "SubjectAccessReview", namespaced=False, create_only=True
)
SELF_REVIEWS = Kind(
    "authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview", namespaced=False, create_only=True
)
TOKEN_REVIEWS = Kind(
    "authentication.k8s.io", "v1", "tokenreviews", "TokenReview", namespaced=False, create_only=True
)  # fmt: skip

# Workloads beside those above.
STATEFULSETS = Kind(
    "apps", "v1", "statefulsets", "StatefulSet", short_names=("sts",), categories=("all",), subresources=("status",),
    counts_generation=True,
)  # fmt: skip
JOBS = Kind("batch", "v1", "jobs", "Job", categories=("all",), subresources=("status",), counts_generation=True)

# Kinds of custom resources, as if their operators had been installed; nothing acts on them.
LEADER_WORKER_SETS = Kind(
    "leaderworkerset.x-k8s.io", "v1", "leaderworkersets", "LeaderWorkerSet", short_names=("lws",),
    subresources=("status",), counts_generation=True, needs_revision_to_update=True,
)  # fmt: skip
INFERENCE_SERVICES = Kind(
    "serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService", short_names=("isvc",),
    subresources=("status",), counts_generation=True, needs_revision_to_update=True,
)  # fmt: skip

CLUSTER_POLICIES = Kind(
    "nvidia.com", "v1", "clusterpolicies", "ClusterPolicy", namespaced=False, subresources=("status",),
    counts_generation=True, needs_revision_to_update=True,
)  # fmt: skip

# What a container runtime can do; nothing here looks whether a pod's is there.
RUNTIME_CLASSES = Kind("node.k8s.io", "v1", "runtimeclasses", "RuntimeClass", namespaced=False)

ALL_KINDS = (
    STATEFULSETS, JOBS, LEADER_WORKER_SETS, INFERENCE_SERVICES, CLUSTER_POLICIES, RUNTIME_CLASSES,
    NODES, PODS, EVENTS, CONFIGMAPS, NAMESPACES, SECRETS, SERVICES, SERVICE_ACCOUNTS,
    LEASES, NEW_EVENTS, BUDGETS, DAEMONSETS, DEPLOYMENTS, REPLICASETS,
    ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS, ADMISSION_POLICIES, ADMISSION_BINDINGS,
    PRIORITY_CLASSES, QUOTAS, RESOURCE_SLICES, DEVICE_CLASSES, RESOURCE_CLAIMS, CLAIM_TEMPLATES,
    ACCESS_REVIEWS, RULES_REVIEWS, SUBJECT_REVIEWS, SELF_REVIEWS, TOKEN_REVIEWS,
)  # fmt: skip


def find_kind(group: str, version: str, plural: str) -> Kind | None:
    return next((k for k in ALL_KINDS if (k.group, k.version, k.plural) == (group, version, plural)), None)


def version_of(group: str) -> str:
    """The one version that is served of a group."""
    return next(kind.version for kind in ALL_KINDS if kind.group == group)


def groups() -> list[str]:
    """The named API groups."""
    return sorted({kind.group for kind in ALL_KINDS if kind.group})
