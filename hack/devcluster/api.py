"""The verbs of the API, without HTTP: what a request does to the store and what it answers.

Controllers and the scheduler call these directly; the HTTP server translates to them. Objects go in and come out in
the form of the kind that was asked for.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from hack.devcluster import kinds, managed_fields, rules
from hack.devcluster.access.users import INTERNAL, Caller
from hack.devcluster.admission.policies import Policies
from hack.devcluster.admission.priorities import admit_priority_class, with_priority
from hack.devcluster.admission.quotas import admit_within_quotas
from hack.devcluster.admission.request import AdmissionRequest
from hack.devcluster.dra.rules import check_admin_access
from hack.devcluster.errors import (
    already_exists,
    bad_request,
    conflict,
    expired,
    invalid,
    not_found,
    stale,
)
from hack.devcluster.event_views import shown_as, stored_form
from hack.devcluster.kinds import Kind
from hack.devcluster.managed_fields import Application
from hack.devcluster.objects import (
    Object,
    clone,
    dig,
    is_deleting,
    is_finished,
    name_of,
    namespace_of,
    now,
    random_suffix,
    uid_of,
    with_condition,
)
from hack.devcluster.patch import apply_patch
from hack.devcluster.selectors import Selection
from hack.devcluster.store import Store

Edit = Callable[[Object], Object]


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    grace_seconds: int | None = None
    uid: str = ""
    resource_version: str = ""

    @classmethod
    def from_body(cls, body: Object | None) -> DeleteOptions:
        body = body or {}
        conditions = body.get("preconditions") or {}
        grace = body.get("gracePeriodSeconds")
        if grace is not None and int(grace) < 0:
            raise bad_request("gracePeriodSeconds must not be negative")
        return cls(grace, conditions.get("uid") or "", conditions.get("resourceVersion") or "")


@dataclass(frozen=True, slots=True)
class Listing:
    """One page. ``next_key`` is where the next one begins, None at the end."""

    items: list[Object]
    revision: int
    next_key: tuple[str, str] | None = None
    remaining: int = 0


@dataclass(frozen=True, slots=True)
class Deletion:
    """``object`` as it is now; ``gone`` tells whether it has left the store."""

    object: Object
    gone: bool


@dataclass(slots=True)
class Api:
    """``by`` says whose write it is: admission judges it, and ``managedFields`` remember it."""

    store: Store = field(default_factory=Store)

    def get(self, kind: Kind, namespace: str, name: str) -> Object:
        return shown_as(kind, self._stored(kind, namespace, name))

    def find(self, kind: Kind, namespace: str, name: str) -> Object | None:
        stored = self.store.get(kind, namespace, name)
        return None if stored is None else shown_as(kind, stored)

    def all(self, kind: Kind, namespace: str = "", selection: Selection | None = None) -> list[Object]:
        name = selection.only_name if selection is not None else ""
        shown = (shown_as(kind, obj) for obj in self.store.all(kind, namespace, name))
        return [obj for obj in shown if selection is None or selection.matches(obj)]

    def list_page(
        self, kind: Kind, namespace: str, selection: Selection, limit: int, after: tuple[str, str] | None
    ) -> Listing:
        found = self.all(kind, namespace, selection)
        if after is not None:
            found = [obj for obj in found if (namespace_of(obj), name_of(obj)) > after]
        page = found[:limit] if limit else found
        rest = len(found) - len(page)
        last = (namespace_of(page[-1]), name_of(page[-1])) if page and rest else None
        return Listing(page, self.store.revision, last, rest)

    def admit(self, request: AdmissionRequest) -> None:
        """Raises ApiError for a write that a policy or a quota refuses."""
        admit_priority_class(self.store, request)
        Policies(self.store).admit(request)
        admit_within_quotas(self.store, request)

    def create(
        self, kind: Kind, namespace: str, obj: Object, *, dry_run: bool = False, by: Caller = INTERNAL
    ) -> Object:
        rules.check_form(kind, obj)
        fresh = rules.normalise(kind, obj)
        self._name_new(kind, namespace, fresh)
        rules.check_values(kind, fresh)
        name = name_of(fresh)
        if kind.namespaced:
            home = self.store.get(kinds.NAMESPACES, "", namespace)
            rules.check_namespace_accepts(kind, home, name, namespace)
            check_admin_access(kind, fresh, home)
        if self.store.get(kind, namespace, name) is not None:
            raise already_exists(kind, name)
        fresh = rules.with_defaults(kind, fresh)
        if kind is kinds.PODS:
            fresh = with_priority(self.store, fresh)
        fresh["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": now()}
        self.admit(AdmissionRequest("CREATE", kind, "", namespace, name, fresh, None, by.user, dry_run))
        if not managed_fields.managers_of(fresh):
            fresh = managed_fields.after_update(kind, None, fresh, by.manager, "")
        return self._put(kind, fresh, dry_run)

    def update(
        self, kind: Kind, namespace: str, name: str, obj: Object, *,
        subresource: str = "", dry_run: bool = False, by: Caller = INTERNAL,
    ) -> Object:  # fmt: skip
        if name_of(obj) not in ("", name):
            raise bad_request(f"the name of the object ({name_of(obj)}) does not match the name on the URL ({name})")
        if kind.needs_revision_to_update and not dig(obj, "metadata.resourceVersion"):
            why = "Invalid value: 0: must be specified for an update"
            raise invalid(kind, name, [("metadata.resourceVersion", why)])
        return self.change(kind, namespace, name, lambda _: obj, subresource=subresource, dry_run=dry_run, by=by)

    def patch(
        self, kind: Kind, namespace: str, name: str, media_type: str, patch: Any, *,
        subresource: str = "", dry_run: bool = False, by: Caller = INTERNAL,
    ) -> Object:  # fmt: skip
        def apply(current: Object) -> Object:
            return apply_patch(media_type, current, patch)

        return self.change(kind, namespace, name, apply, subresource=subresource, dry_run=dry_run, by=by)

    def apply(
        self, kind: Kind, namespace: str, name: str, application: Application, *,
        dry_run: bool = False, by: Caller = INTERNAL,
    ) -> tuple[Object, bool]:  # fmt: skip
        """Server-side apply; whether the object was created. Raises 409 where others own what would change."""
        if name_of(application.wanted) not in ("", name):
            raise bad_request(f"name in the body ({name_of(application.wanted)}) does not match the URL ({name})")
        if self.store.get(kind, namespace, name) is None:
            if application.subresource:
                raise not_found(kind, name)
            fresh = managed_fields.apply(kind, None, application)
            fresh["metadata"]["name"] = name
            return self.create(kind, namespace, fresh, dry_run=dry_run, by=by), True

        def edit(live: Object) -> Object:
            return managed_fields.apply(kind, live, application)

        subresource = application.subresource
        return self.change(kind, namespace, name, edit, subresource=subresource, dry_run=dry_run, by=by), False

    def change(
        self, kind: Kind, namespace: str, name: str, edit: Edit, *,
        subresource: str = "", dry_run: bool = False, by: Caller = INTERNAL,
    ) -> Object:  # fmt: skip
        """Replace the object by what ``edit`` makes of it. Nothing is written, and no revision spent, when that is
        the same object. Raises 409 when the new one carries another resourceVersion or uid."""
        old = self._stored(kind, namespace, name)
        new = edit(shown_as(kind, old))
        rules.check_form(kind, new)
        metadata = new.get("metadata") or {}
        if metadata.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
            raise stale(kind, name)
        _check_uid(kind, old, metadata.get("uid") or "")
        result = stored_form(
            kind, rules.replacement(kind, shown_as(kind, old), rules.normalise(kind, new), subresource)
        )
        rules.check_values(kind, shown_as(kind, result))
        rules.check_change(kind, old, result)
        if result == old:
            return shown_as(kind, old)
        shown, before = shown_as(kind, result), shown_as(kind, old)
        self.admit(AdmissionRequest("UPDATE", kind, subresource, namespace, name, shown, before, by.user, dry_run))
        if dig(result, "metadata.managedFields") == dig(old, "metadata.managedFields"):
            result = managed_fields.after_update(kind, old, result, by.manager, subresource)
        if _has_nothing_left_to_wait_for(kind, result):
            return self._remove(kind, result, dry_run).object
        return self._put(kind, shown_as(kind, result), dry_run)

    def delete(
        self, kind: Kind, namespace: str, name: str, options: DeleteOptions | None = None, *,
        dry_run: bool = False, by: Caller = INTERNAL,
    ) -> Deletion:  # fmt: skip
        """A bound, running pod only begins to go: its kubelet deletes it again with grace 0 when it has ended."""
        options = options or DeleteOptions()
        obj = self._stored(kind, namespace, name)
        _check_uid(kind, obj, options.uid)
        if options.resource_version not in ("", obj["metadata"]["resourceVersion"]):
            raise stale(kind, name)
        shown = shown_as(kind, obj)
        self.admit(AdmissionRequest("DELETE", kind, "", namespace, name, None, shown, by.user, dry_run))
        grace = _grace_seconds(kind, obj, options)
        if grace == 0 and not _finalizers(kind, obj):
            return self._remove(kind, obj, dry_run)
        going = _marked_as_going(kind, obj, grace)
        return Deletion(self._put(kind, going, dry_run) if going != obj else obj, gone=False)

    def bind(self, namespace: str, name: str, node: str, *, dry_run: bool = False) -> None:
        pod = self._stored(kinds.PODS, namespace, name)
        bound_to = dig(pod, "spec.nodeName")
        if bound_to:
            raise conflict(kinds.PODS, name, f'pod {name} is already assigned to node "{bound_to}"')
        if is_deleting(pod):
            raise conflict(kinds.PODS, name, f"pod {name} is being deleted, cannot be assigned to a host")
        bound = clone(pod)
        bound["spec"]["nodeName"] = node
        scheduled = {"type": "PodScheduled", "status": "True"}
        bound["status"]["conditions"] = with_condition(bound["status"].get("conditions") or [], scheduled)
        self._put(kinds.PODS, bound, dry_run)

    def check_watchable(self, revision: int) -> None:
        """Raises 410 when the changes after this revision are no longer known."""
        oldest = self.store.oldest_watchable_revision()
        if revision < oldest:
            raise expired(f"too old resource version: {revision} ({oldest})")

    def _stored(self, kind: Kind, namespace: str, name: str) -> Object:
        stored = self.store.get(kind, namespace, name)
        if stored is None:
            raise not_found(kind, name)
        return stored

    def _name_new(self, kind: Kind, namespace: str, obj: Object) -> None:
        metadata = obj["metadata"]
        if metadata.get("resourceVersion"):
            raise bad_request("resourceVersion should not be set on objects to be created")
        if metadata.get("namespace", namespace) != namespace:
            raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
        if kind.namespaced:
            metadata["namespace"] = namespace
        if not metadata.get("name") and metadata.get("generateName"):
            if kind is kinds.NEW_EVENTS:
                raise invalid(kind, "", [("metadata.name", "Required value: events have names of their own")])
            metadata["name"] = metadata["generateName"] + random_suffix()

    def _put(self, kind: Kind, obj: Object, dry_run: bool) -> Object:
        if dry_run:
            return obj
        return shown_as(kind, self.store.put(kind, stored_form(kind, obj)))

    def _remove(self, kind: Kind, obj: Object, dry_run: bool) -> Deletion:
        return Deletion(obj if dry_run else shown_as(kind, self.store.remove(kind, obj)), gone=True)


def _check_uid(kind: Kind, obj: Object, uid: str) -> None:
    if uid not in ("", uid_of(obj)):
        why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {uid_of(obj)}"
        raise conflict(kind, name_of(obj), why)


def _grace_seconds(kind: Kind, obj: Object, options: DeleteOptions) -> int:
    """Only a pod that some kubelet may be running has a grace period; a second delete can only shorten it."""
    if kind is not kinds.PODS or not dig(obj, "spec.nodeName") or is_finished(obj):
        return 0
    asked = options.grace_seconds
    grace = int(dig(obj, "spec.terminationGracePeriodSeconds", 30) if asked is None else asked)
    already = dig(obj, "metadata.deletionGracePeriodSeconds")
    return grace if already is None else min(grace, int(already))


def _finalizers(kind: Kind, obj: Object) -> list[str]:
    """Who still has work to do before the object may go; a namespace waits for its content."""
    where = "spec.finalizers" if kind is kinds.NAMESPACES else "metadata.finalizers"
    return list(dig(obj, where) or [])


def _has_nothing_left_to_wait_for(kind: Kind, obj: Object) -> bool:
    running = kind is kinds.PODS and dig(obj, "metadata.deletionGracePeriodSeconds") != 0
    return is_deleting(obj) and not running and not _finalizers(kind, obj)


def _marked_as_going(kind: Kind, obj: Object, grace: int) -> Object:
    metadata = obj["metadata"]
    if is_deleting(obj) and metadata.get("deletionGracePeriodSeconds", 0) <= grace:
        return obj
    going = clone(obj)
    ends = datetime.now(UTC) + timedelta(seconds=grace)
    going["metadata"]["deletionTimestamp"] = ends.strftime("%Y-%m-%dT%H:%M:%SZ")
    going["metadata"]["deletionGracePeriodSeconds"] = grace
    if kind is kinds.NAMESPACES:
        going["status"] = {"phase": "Terminating"}
    return going
