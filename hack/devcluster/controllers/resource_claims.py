"""Claims on devices that follow pods: made from templates, given back when nobody uses them, gone with their pod."""

from __future__ import annotations

from dataclasses import dataclass, field

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.controllers.loop import Controller
from hack.devcluster.dra.claims import (
    FINALIZER,
    POD_CLAIM_NAME,
    allocation_of,
    can_be_reserved,
    claim_name,
    consumers_of,
    entries_of,
    is_made_for,
    is_reserved_for,
    is_usable,
    reserved,
    with_status,
)
from hack.devcluster.errors import ApiError
from hack.devcluster.objects import (
    Object,
    annotations_of,
    clone,
    controller_of,
    dig,
    is_deleting,
    is_finished,
    name_of,
    namespace_of,
    now,
    owner_reference,
    random_suffix,
    uid_of,
)

# What leaves room for a hyphen and five random characters in a name of 63.
_LONGEST_BASE = 57


@dataclass(slots=True)
class ResourceClaims:
    """A failure is said once for each pod and message, as if the back-off between tries were long."""

    _said: set[tuple[str, str]] = field(default_factory=set)

    def sync(self, api: Api) -> None:
        for pod in api.all(kinds.PODS):
            if entries_of(pod) and not is_deleting(pod) and not is_finished(pod):
                self._sync_pod(api, pod)
        for claim in api.all(kinds.RESOURCE_CLAIMS):
            _sync_claim(api, claim)

    def _sync_pod(self, api: Api, pod: Object) -> None:
        for entry in entries_of(pod):
            try:
                _keep_generated(api, pod, entry)
            except ApiError as error:
                self._say(api, pod, f"PodResourceClaim {entry['name']}: {error.message}")
                return
        if dig(pod, "spec.nodeName"):
            _reserve_for_bound(api, pod)

    def _say(self, api: Api, pod: Object, message: str) -> None:
        if (uid_of(pod), message) in self._said:
            return
        self._said.add((uid_of(pod), message))
        reference = {"kind": "Pod", "apiVersion": "v1", "name": name_of(pod), "namespace": namespace_of(pod)}
        event: Object = {
            "metadata": {"name": f"{name_of(pod)}.{random_suffix(16)}"},
            "involvedObject": {**reference, "uid": uid_of(pod)},
            "type": "Warning",
            "reason": "FailedResourceClaimCreation",
            "message": message[:1024],
            "source": {"component": "resource_claim"},
            "firstTimestamp": now(),
            "lastTimestamp": now(),
            "count": 1,
        }
        api.create(kinds.EVENTS, namespace_of(pod), event)


def _keep_generated(api: Api, pod: Object, entry: Object) -> None:
    """The claim that the pod's entry asks a template for. One that was deleted under the pod is made again."""
    template_name = entry.get("resourceClaimTemplateName")
    if not template_name:
        return
    recorded = api.find(kinds.RESOURCE_CLAIMS, namespace_of(pod), claim_name(pod, entry))
    if recorded is not None and is_made_for(recorded, pod):
        return
    claim = _made_before(api, pod, entry)
    if claim is None:
        template = api.get(kinds.CLAIM_TEMPLATES, namespace_of(pod), template_name)
        claim = api.create(kinds.RESOURCE_CLAIMS, namespace_of(pod), _from_template(template, pod, entry))
    made = {"name": entry["name"], "resourceClaimName": name_of(claim)}

    def recording(current: Object) -> Object:
        changed = clone(current)
        known = dig(changed, "status.resourceClaimStatuses") or []
        changed["status"]["resourceClaimStatuses"] = [*(each for each in known if each["name"] != made["name"]), made]
        return changed

    api.change(kinds.PODS, namespace_of(pod), name_of(pod), recording, subresource="status")


def _made_before(api: Api, pod: Object, entry: Object) -> Object | None:
    for claim in api.all(kinds.RESOURCE_CLAIMS, namespace_of(pod)):
        if is_made_for(claim, pod) and annotations_of(claim).get(POD_CLAIM_NAME) == entry["name"]:
            return claim
    return None


def _from_template(template: Object, pod: Object, entry: Object) -> Object:
    metadata = clone(dig(template, "spec.metadata") or {})
    metadata.setdefault("annotations", {})[POD_CLAIM_NAME] = entry["name"]
    metadata |= {"generateName": _base_name(name_of(pod), entry["name"]), "ownerReferences": [owner_reference(pod)]}
    return {"metadata": metadata, "spec": clone(template["spec"]["spec"])}


def _base_name(pod: str, entry: str) -> str:
    """Both names are cut in proportion where they are too long together."""
    whole = f"{pod}-{entry}-"
    if len(whole) <= _LONGEST_BASE:
        return whole
    return f"{pod[: len(pod) * _LONGEST_BASE // len(whole)]}-{entry[: len(entry) * _LONGEST_BASE // len(whole)]}"


def _reserve_for_bound(api: Api, pod: Object) -> None:
    """A pod that was bound past the scheduler gets what is allocated already."""
    for entry in entries_of(pod):
        claim = api.find(kinds.RESOURCE_CLAIMS, namespace_of(pod), claim_name(pod, entry))
        if claim is None or not is_usable(claim, pod, entry):
            return
        if allocation_of(claim) and not is_reserved_for(claim, pod) and can_be_reserved(claim):
            _write_status(api, reserved(claim, pod))


def _sync_claim(api: Api, claim: Object) -> None:
    """The last consumer's going takes the allocation along; an allocation that nobody ever used stays."""
    consumers = consumers_of(claim)
    valid = [consumer for consumer in consumers if _still_uses(api, namespace_of(claim), consumer)]
    idle = not valid and (bool(consumers) or is_deleting(claim))
    if len(valid) < len(consumers) or (idle and allocation_of(claim)):
        fields: Object = {"reservedFor": valid or None} | ({"allocation": None} if idle else {})
        claim = _write_status(api, with_status(claim, **fields))
    if idle and not allocation_of(claim) and FINALIZER in (dig(claim, "metadata.finalizers") or []):
        api.change(kinds.RESOURCE_CLAIMS, namespace_of(claim), name_of(claim), _unguarded)
    if not valid and not is_deleting(claim) and _owner_is_done(api, claim):
        api.delete(kinds.RESOURCE_CLAIMS, namespace_of(claim), name_of(claim))


def _write_status(api: Api, claim: Object) -> Object:
    return api.update(kinds.RESOURCE_CLAIMS, namespace_of(claim), name_of(claim), claim, subresource="status")


def _unguarded(claim: Object) -> Object:
    freed = clone(claim)
    freed["metadata"]["finalizers"] = [each for each in freed["metadata"]["finalizers"] if each != FINALIZER]
    return freed


def _still_uses(api: Api, namespace: str, consumer: Object) -> bool:
    pod = api.find(kinds.PODS, namespace, consumer["name"])
    return pod is not None and uid_of(pod) == consumer["uid"] and not _is_done(pod)


def _is_done(pod: Object) -> bool:
    """It will not run (any more)."""
    return is_finished(pod) or (is_deleting(pod) and not dig(pod, "spec.nodeName"))


def _owner_is_done(api: Api, claim: Object) -> bool:
    """The garbage collector sees to claims of pods that are gone."""
    owner = controller_of(claim)
    if owner is None or owner["kind"] != "Pod":
        return False
    pod = api.find(kinds.PODS, namespace_of(claim), owner["name"])
    return pod is not None and uid_of(pod) == owner["uid"] and _is_done(pod)


def resource_claim_controller() -> Controller:
    watched = (kinds.PODS, kinds.RESOURCE_CLAIMS, kinds.CLAIM_TEMPLATES)
    return Controller("resource claims", watched, ResourceClaims().sync)
