"""What the API server fills in and refuses in the kinds of ``resource.k8s.io``.

From memory of 1.34: the limits, and which fields are fixed once written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from hack.devcluster import kinds
from hack.devcluster.dra.selectors import check_selector
from hack.devcluster.errors import invalid
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object, dig, name_of

MOST_CONSUMERS = 256
ADMIN_ACCESS_LABEL = "resource.kubernetes.io/admin-access"
_MOST_REQUESTS = 32
_MOST_DEVICES = 128
_MOST_ATTRIBUTES = 32
_LONGEST_TEXT = 64
_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_C_IDENTIFIER = re.compile(r"[A-Za-z_]\w{0,31}")
_VALUE_TYPES = ("string", "int", "bool", "version")
_IMMUTABLE = "Invalid value: field is immutable"
_ONE_PLACE = ("nodeName", "nodeSelector", "allNodes", "perDeviceNodeSelection")

Cause = tuple[str, str]


def fill_in_claim(spec: Object) -> None:
    """In place: one device for each request that does not say how many."""
    for request in dig(spec, "devices.requests") or []:
        for asked in [request.get("exactly"), *(request.get("firstAvailable") or [])]:
            if asked is None:
                continue
            if asked.setdefault("allocationMode", "ExactCount") == "ExactCount":
                asked.setdefault("count", 1)


def claim_spec_of(kind: Kind, obj: Object) -> Object | None:
    """The claim's spec that the object carries: its own, or a template's."""
    where = {kinds.RESOURCE_CLAIMS: "spec", kinds.CLAIM_TEMPLATES: "spec.spec"}.get(kind)
    return None if where is None else dig(obj, where)


def causes(kind: Kind, obj: Object) -> list[Cause]:
    """Every bad field; empty for kinds of other groups."""
    match kind:
        case kinds.RESOURCE_SLICES:
            return list(_slice_causes(obj.get("spec") or {}))
        case kinds.DEVICE_CLASSES:
            return list(_selector_causes("spec.selectors", dig(obj, "spec.selectors") or []))
        case kinds.RESOURCE_CLAIMS:
            return [*_claim_causes("spec", obj.get("spec") or {}), *_status_causes(obj)]
        case kinds.CLAIM_TEMPLATES:
            return list(_claim_causes("spec.spec", dig(obj, "spec.spec") or {}))
        case kinds.PODS:
            return list(_pod_causes(obj))
        case _:
            return []


def check_admin_access(kind: Kind, obj: Object, namespace: Object | None) -> None:
    """Raises 422: only in a namespace with a label for it may a claim look into devices that others hold."""
    allowed = (dig(namespace or {}, "metadata.labels") or {}).get(ADMIN_ACCESS_LABEL) == "true"
    asked = dig(claim_spec_of(kind, obj) or {}, "devices.requests") or []
    field = {kinds.RESOURCE_CLAIMS: "spec", kinds.CLAIM_TEMPLATES: "spec.spec"}.get(kind, "")
    why = f"Forbidden: admin access to devices requires the `{ADMIN_ACCESS_LABEL}: true` label on the containing namespace"
    refused = [
        (f"{field}.devices.requests[{position}].exactly.adminAccess", why)
        for position, request in enumerate(asked)
        if dig(request, "exactly.adminAccess") and not allowed
    ]
    if refused:
        raise invalid(kind, name_of(obj), refused)


def change_causes(kind: Kind, old: Object, new: Object) -> list[Cause]:
    """What an update may not change."""
    fixed = {
        kinds.RESOURCE_SLICES: ("spec.driver", "spec.nodeName", "spec.pool.name"),
        kinds.RESOURCE_CLAIMS: ("spec",),
        kinds.CLAIM_TEMPLATES: ("spec",),
    }.get(kind, ())
    found = [(field, _IMMUTABLE) for field in fixed if dig(old, field) != dig(new, field)]
    before, after = dig(old, "status.allocation"), dig(new, "status.allocation")
    if kind is kinds.RESOURCE_CLAIMS and before and after and before != after:
        found.append(("status.allocation", _IMMUTABLE))
    return found


def _slice_causes(spec: Object) -> Iterator[Cause]:
    if not _DNS_SUBDOMAIN.fullmatch(str(spec.get("driver", ""))):
        yield "spec.driver", f'Invalid value: "{spec.get("driver", "")}": a lowercase RFC 1123 subdomain is expected'
    pool = spec.get("pool") or {}
    if not pool.get("name"):
        yield "spec.pool.name", "Required value"
    if int(pool.get("resourceSliceCount", 0)) <= 0:
        yield "spec.pool.resourceSliceCount", "Invalid value: must be greater than zero"
    if int(pool.get("generation", 0)) < 0:
        yield "spec.pool.generation", "Invalid value: must be greater than or equal to zero"
    if sum(bool(spec.get(field)) for field in _ONE_PLACE) != 1:
        yield "spec", f"Invalid value: exactly one of {', '.join(_ONE_PLACE)} is required"
    devices = spec.get("devices") or []
    if len(devices) > _MOST_DEVICES:
        yield "spec.devices", f"Too many: {len(devices)}: must have at most {_MOST_DEVICES} items"
    yield from _name_causes("spec.devices", devices)
    counter_sets = {each.get("name"): each.get("counters") or {} for each in spec.get("sharedCounters") or []}
    for position, device in enumerate(devices):
        yield from _device_causes(f"spec.devices[{position}]", device)
        yield from _counter_causes(f"spec.devices[{position}].consumesCounters", device, counter_sets)


def _device_causes(field: str, device: Object) -> Iterator[Cause]:
    attributes, capacity = device.get("attributes") or {}, device.get("capacity") or {}
    if len(attributes) + len(capacity) > _MOST_ATTRIBUTES:
        yield field, f"Too many: the total number of attributes and capacities must not exceed {_MOST_ATTRIBUTES}"
    for part, names in (("attributes", attributes), ("capacity", capacity)):
        for name in names:
            domain, slash, word = name.rpartition("/")
            if (slash and not _DNS_SUBDOMAIN.fullmatch(domain)) or not _C_IDENTIFIER.fullmatch(word):
                yield f"{field}.{part}", f'Invalid value: "{name}": a C identifier is expected'
    for name, value in attributes.items():
        if len(value) != 1 or not set(value) <= set(_VALUE_TYPES):
            yield f"{field}.attributes[{name}]", "Invalid value: exactly one value must be specified"
        elif len(str(value.get("string", ""))) > _LONGEST_TEXT:
            yield f"{field}.attributes[{name}].string", f"Too long: may not be more than {_LONGEST_TEXT} bytes"


def _counter_causes(field: str, device: Object, known: dict[str, Object]) -> Iterator[Cause]:
    """In 1.34 a device draws on counter sets of its own slice."""
    for use in device.get("consumesCounters") or []:
        if use.get("counterSet") not in known:
            yield (
                field,
                f'Invalid value: "{use.get("counterSet")}": must reference a counterSet defined in the ResourceSlice',
            )
            continue
        for name in use.get("counters") or {}:
            if name not in known[use["counterSet"]]:
                yield field, f'Invalid value: "{name}": must reference a counter in the ResourceSlice'


def _claim_causes(field: str, spec: Object) -> Iterator[Cause]:
    requests = dig(spec, "devices.requests") or []
    if len(requests) > _MOST_REQUESTS:
        yield f"{field}.devices.requests", f"Too many: must have at most {_MOST_REQUESTS} items"
    yield from _name_causes(f"{field}.devices.requests", requests)
    for position, request in enumerate(requests):
        here = f"{field}.devices.requests[{position}]"
        exactly, alternatives = request.get("exactly"), request.get("firstAvailable") or []
        if (exactly is None) == (not alternatives):
            yield here, "Required value: exactly one of `exactly` or `firstAvailable` is required"
            continue
        yield from _name_causes(f"{here}.firstAvailable", alternatives)
        for asked in alternatives or [exactly]:
            yield from _asked_causes(f"{here}.{'firstAvailable' if alternatives else 'exactly'}", asked)


def _asked_causes(field: str, asked: Object) -> Iterator[Cause]:
    if not asked.get("deviceClassName"):
        yield f"{field}.deviceClassName", "Required value"
    mode, count = asked.get("allocationMode", "ExactCount"), int(asked.get("count", 0))
    if mode not in ("All", "ExactCount"):
        yield f"{field}.allocationMode", f'Unsupported value: "{mode}": supported values: "All", "ExactCount"'
    elif mode == "All" and count:
        yield f"{field}.count", f"Invalid value: {count}: must not be specified when allocationMode is 'All'"
    elif mode == "ExactCount" and "count" in asked and count <= 0:
        yield f"{field}.count", f"Invalid value: {count}: must be greater than zero"
    yield from _selector_causes(f"{field}.selectors", asked.get("selectors") or [])


def _selector_causes(field: str, selectors: list[Object]) -> Iterator[Cause]:
    for position, selector in enumerate(selectors):
        text = str(dig(selector, "cel.expression", ""))
        if not text:
            yield f"{field}[{position}].cel.expression", "Required value"
        elif problem := check_selector(text):
            yield f"{field}[{position}].cel.expression", f'Invalid value: "{text}": {problem}'


def _status_causes(claim: Object) -> Iterator[Cause]:
    consumers = dig(claim, "status.reservedFor") or []
    if consumers and not dig(claim, "status.allocation"):
        yield "status.reservedFor", "Forbidden: may not be specified when `allocated` is not set"
    if len(consumers) > MOST_CONSUMERS:
        yield "status.reservedFor", f"Too many: {len(consumers)}: must have at most {MOST_CONSUMERS} items"
    if len({consumer.get("uid") for consumer in consumers}) != len(consumers):
        yield "status.reservedFor", "Duplicate value"


def _pod_causes(pod: Object) -> Iterator[Cause]:
    entries = dig(pod, "spec.resourceClaims") or []
    yield from _name_causes("spec.resourceClaims", entries)
    for position, entry in enumerate(entries):
        if bool(entry.get("resourceClaimName")) == bool(entry.get("resourceClaimTemplateName")):
            why = "must specify exactly one of: `resourceClaimName`, `resourceClaimTemplateName`"
            yield f"spec.resourceClaims[{position}]", f"Invalid value: {why}"
    known = {entry.get("name") for entry in entries}
    for position, container in enumerate(dig(pod, "spec.containers") or []):
        for use in dig(container, "resources.claims") or []:
            if use.get("name") not in known:
                yield f"spec.containers[{position}].resources.claims", f'Not found: "{use.get("name")}"'


def _name_causes(field: str, named: list[Object]) -> Iterator[Cause]:
    seen: set[str] = set()
    for position, each in enumerate(named):
        name = str(each.get("name", ""))
        if not _DNS_LABEL.fullmatch(name):
            yield f"{field}[{position}].name", f'Invalid value: "{name}": a lowercase RFC 1123 label is expected'
        elif name in seen:
            yield f"{field}[{position}].name", f'Duplicate value: "{name}"'
        seen.add(name)
