"""What the API server fills in, ignores and refuses when an object is written."""

from __future__ import annotations

import base64
import re
from typing import Any

from hack.devcluster import kinds
from hack.devcluster.admission.priorities import PREEMPTS
from hack.devcluster.dra import rules as device_rules
from hack.devcluster.errors import ApiError, bad_request, forbidden, invalid
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object, clone, containers_of, dig, name_of, namespace_of
from hack.devcluster.workload_defaults import with_workload_defaults

_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")
_MICRO_TIME_FIELDS = {
    "Lease": ("spec.acquireTime", "spec.renewTime"),
    "Event": ("eventTime", "series.lastObservedTime"),
}
_ANNOTATIONS_LIMIT = 256 * 1024
_EVENT_NAMESPACES_FOR_CLUSTER_OBJECTS = ("default", "kube-system")

Causes = list[tuple[str, str]]


def normalise(kind: Kind, obj: Object) -> Object:
    """As a typed server would print it again: no nulls, no empty optional fields, no unknown type words, and what a
    workload leaves out filled in."""
    tidy: Object = _without_nulls(obj)
    tidy |= {"apiVersion": kind.api_version, "kind": kind.name}
    metadata = tidy.setdefault("metadata", {})
    for optional in ("labels", "annotations", "finalizers", "ownerReferences"):
        if not metadata.get(optional, True):
            del metadata[optional]
    if kind is kinds.NODES:
        spec = tidy.setdefault("spec", {})
        for optional in ("unschedulable", "taints"):
            if not spec.get(optional, True):
                del spec[optional]
    return with_workload_defaults(kind, tidy)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value]
    return value


def check_form(kind: Kind, obj: Object) -> None:
    """Raises 400 for what a typed server cannot decode: wrong kind, labels that are no strings, lax MicroTimes."""
    given = (obj.get("apiVersion", kind.api_version), obj.get("kind", kind.name))
    if given != (kind.api_version, kind.name):
        raise bad_request(f"{given[0]} {given[1]} in the body does not match {kind.api_version} {kind.name}")
    for field in ("labels", "annotations"):
        words = dig(obj, f"metadata.{field}") or {}
        if not isinstance(words, dict) or any(not isinstance(value, str) for value in words.values()):
            raise _undecodable(kind, f"metadata.{field} must be an object of strings")
    for path in _MICRO_TIME_FIELDS.get(kind.name, ()):
        text = dig(obj, path)
        if text is not None and not _MICRO_TIME.fullmatch(str(text)):
            raise _undecodable(kind, f'parsing time "{text}" as "2006-01-02T15:04:05.000000Z07:00": cannot parse')


def _undecodable(kind: Kind, why: str) -> ApiError:
    return bad_request(f'{kind.name} in version "{kind.version}" cannot be handled as a {kind.name}: {why}')


def with_defaults(kind: Kind, obj: Object) -> Object:
    """A new object as it is stored after a create; a pod begins Pending whatever its status says."""
    filled = clone(obj)
    if kind is kinds.PODS:
        _default_pod(filled)
    elif kind is kinds.NAMESPACES:
        filled["status"] = {"phase": "Active"}
        filled["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name_of(obj)
        filled["spec"] = {"finalizers": ["kubernetes"]}
    elif kind is kinds.SECRETS:
        filled.setdefault("type", "Opaque")
        for key, value in filled.pop("stringData", {}).items():
            filled.setdefault("data", {})[key] = _base64(value)
    elif kind is kinds.PRIORITY_CLASSES:
        filled.setdefault("preemptionPolicy", PREEMPTS)
    elif kind.has_status and kind is not kinds.NODES:
        filled["status"] = {}
    if (claim := device_rules.claim_spec_of(kind, filled)) is not None:
        device_rules.fill_in_claim(claim)
    if kind.counts_generation:
        filled["metadata"]["generation"] = 1
    return filled


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _default_pod(pod: Object) -> None:
    spec = pod.setdefault("spec", {})
    for field, value in (
        ("restartPolicy", "Always"),
        ("terminationGracePeriodSeconds", 30),
        ("dnsPolicy", "ClusterFirst"),
        ("serviceAccountName", "default"),
        ("schedulerName", "default-scheduler"),
        ("enableServiceLinks", True),
        ("securityContext", {}),
    ):
        spec.setdefault(field, value)
    for key in ("not-ready", "unreachable"):
        _tolerate_for_a_while(spec, f"node.kubernetes.io/{key}")
    for container in containers_of(pod):
        resources = container.setdefault("resources", {})
        if resources.get("limits"):
            resources["requests"] = {**resources["limits"], **(resources.get("requests") or {})}
        container.setdefault("imagePullPolicy", "IfNotPresent")
        container.setdefault("terminationMessagePath", "/dev/termination-log")
    pod["status"] = {"phase": "Pending", "qosClass": _qos_class(pod)}


def _tolerate_for_a_while(spec: Object, key: str) -> None:
    tolerations = spec.setdefault("tolerations", [])
    if not any(t.get("key") in (None, "", key) and t.get("effect") in (None, "", "NoExecute") for t in tolerations):
        tolerations.append({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300})


def _qos_class(pod: Object) -> str:
    resources = [container.get("resources") or {} for container in containers_of(pod)]
    named = [
        {key: value for key, value in (r.get(part) or {}).items() if key in ("cpu", "memory")}
        for r in resources
        for part in ("requests", "limits")
    ]
    if not any(named):
        return "BestEffort"
    guaranteed = all(
        (r.get("requests") or {}).get(key) == (r.get("limits") or {}).get(key) is not None
        for r in resources
        for key in ("cpu", "memory")
    )
    return "Guaranteed" if guaranteed else "Burstable"


def check_values(kind: Kind, obj: Object) -> None:
    """Raises 422 with every bad field named."""
    causes = _metadata_causes(kind, obj)
    if kind is kinds.PODS and not dig(obj, "spec.containers"):
        causes.append(("spec.containers", "Required value"))
    if kind is kinds.NODES:
        causes += _taint_causes(obj)
    if kind.name == "Event":
        causes += _event_causes(kind, obj)
    if kind in (kinds.DAEMONSETS, kinds.DEPLOYMENTS, kinds.REPLICASETS) and not dig(obj, "spec.selector"):
        causes.append(("spec.selector", "Required value"))
    causes += device_rules.causes(kind, obj)
    if causes:
        raise invalid(kind, name_of(obj), causes)


def _metadata_causes(kind: Kind, obj: Object) -> Causes:
    causes: Causes = []
    name = name_of(obj)
    if not name:
        causes.append(("metadata.name", "Required value: name or generateName is required"))
    elif kind.group == kinds.RBAC:
        if name in (".", "..") or "/" in name or "%" in name:
            causes.append(("metadata.name", f'Invalid value: "{name}": may not contain / or %'))
    elif len(name) > 253 or not _DNS_SUBDOMAIN.fullmatch(name):
        causes.append(("metadata.name", f'Invalid value: "{name}": a lowercase RFC 1123 subdomain is expected'))
    for key, value in (dig(obj, "metadata.labels") or {}).items():
        causes += _key_causes("metadata.labels", key)
        if value and not _LABEL_NAME.fullmatch(value):
            causes.append(("metadata.labels", f'Invalid value: "{value}": a valid label has at most 63 characters'))
    annotations = dig(obj, "metadata.annotations") or {}
    for key in annotations:
        causes += _key_causes("metadata.annotations", key.lower())
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > _ANNOTATIONS_LIMIT:
        causes.append(("metadata.annotations", f"Too long: may not be more than {_ANNOTATIONS_LIMIT} bytes"))
    return causes


def _key_causes(field: str, key: str) -> Causes:
    prefix, slash, name = key.rpartition("/")
    good_prefix = not slash or (len(prefix) <= 253 and _DNS_SUBDOMAIN.fullmatch(prefix))
    if good_prefix and _LABEL_NAME.fullmatch(name):
        return []
    return [(field, f'Invalid value: "{key}": a qualified name is expected')]


def _taint_causes(node: Object) -> Causes:
    causes: Causes = []
    seen: set[tuple[str, str]] = set()
    for position, taint in enumerate(dig(node, "spec.taints") or []):
        field = f"spec.taints[{position}]"
        effect = taint.get("effect")
        if effect not in ("NoSchedule", "PreferNoSchedule", "NoExecute"):
            causes.append((f"{field}.effect", f'Unsupported value: "{effect}"'))
        if (taint.get("key"), effect) in seen:
            causes.append((field, "Duplicate value: taints must be unique by key and effect pair"))
        seen.add((taint.get("key"), str(effect)))
    return causes


def _event_causes(kind: Kind, event: Object) -> Causes:
    """``event`` in the form of ``kind``; an event with an eventTime must name its controller, action and reason."""
    new = kind is kinds.NEW_EVENTS
    causes: Causes = []
    about = "regarding" if new else "involvedObject"
    if not dig(event, f"{about}.namespace"):
        if namespace_of(event) not in _EVENT_NAMESPACES_FOR_CLUSTER_OBJECTS:
            causes.append((f"{about}.namespace", "Invalid value: does not match event.namespace"))
    elif dig(event, f"{about}.namespace") != namespace_of(event):
        causes.append((f"{about}.namespace", "Invalid value: does not match event.namespace"))
    if new and not event.get("eventTime"):
        causes.append(("eventTime", "Required value"))
    if event.get("eventTime"):
        reporter = "reportingController" if new else "reportingComponent"
        causes += [
            (field, "Required value")
            for field in (reporter, "reportingInstance", "action", "reason")
            if not event.get(field)
        ]
    message = event.get("note" if new else "message") or ""
    if len(message) > 1024:
        causes.append(("message", "Invalid value: can have at most 1024 characters"))
    return causes


def replacement(kind: Kind, old: Object, new: Object, subresource: str) -> Object:
    """What is stored when ``new`` replaces ``old``: through ``status`` only the status and the labels and annotations,
    otherwise all but the status. What the server owns in the metadata stays as it was."""
    result = clone(new)
    if subresource == "status":
        result = {**clone(old), "status": clone(new.get("status") or {})}
        for field in ("labels", "annotations"):
            _take(result["metadata"], dig(new, "metadata") or {}, field)
    elif kind.has_status:
        _take(result, old, "status")
    if "managedFields" in (new.get("metadata") or {}):
        _take(result["metadata"], new["metadata"], "managedFields")
    else:
        _take(result["metadata"], old["metadata"], "managedFields")
    for field in ("name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "generation",
                  "deletionGracePeriodSeconds", "resourceVersion"):  # fmt: skip
        _take(result["metadata"], old["metadata"], field)
    if kind.counts_generation and result.get("spec") != old.get("spec"):
        result["metadata"]["generation"] = int(old["metadata"].get("generation", 0)) + 1
    return result


def _take(target: Object, source: Object, field: str) -> None:
    if field in source:
        target[field] = clone(source[field])
    else:
        target.pop(field, None)


def check_change(kind: Kind, old: Object, new: Object) -> None:
    """Raises 422 for a change of what is fixed once written."""
    if kind is kinds.PODS:
        check_pod_spec_unchanged(old, new)
    if causes := device_rules.change_causes(kind, old, new):
        raise invalid(kind, name_of(old), causes)


_CHANGEABLE_POD_SPEC = ("activeDeadlineSeconds", "tolerations", "terminationGracePeriodSeconds", "schedulingGates")


def check_pod_spec_unchanged(old: Object, new: Object) -> None:
    """Raises 422: once created, a pod's spec is fixed but for its images, tolerations and deadlines."""
    if _fixed_spec(old) != _fixed_spec(new):
        why = "Forbidden: pod updates may not change fields other than the image, tolerations and deadlines"
        raise invalid(kinds.PODS, name_of(old), [("spec", why)])


def _fixed_spec(pod: Object) -> Object:
    spec = clone(pod.get("spec") or {})
    for field in _CHANGEABLE_POD_SPEC:
        spec.pop(field, None)
    for field in ("containers", "initContainers"):
        for container in spec.get(field) or []:
            container.pop("image", None)
    return spec


def check_namespace_accepts(kind: Kind, namespace: Object | None, name: str, where: str) -> None:
    """Raises 404 for a namespace that is not there, 403 for one that is going."""
    if namespace is None:
        raise ApiError(404, f'namespaces "{where}" not found', details={"name": where, "kind": "namespaces"})
    if dig(namespace, "metadata.deletionTimestamp"):
        why = f"unable to create new content in namespace {where} because it is being terminated"
        cause = {"reason": "NamespaceTerminating", "message": f"namespace {where} is being terminated"}
        raise forbidden(kind, name, why, [{**cause, "field": "metadata.namespace"}])
