"""The ReplicaSets of a deployment, one per template: found, made, resized, and numbered by revision.

Annotations are those of the real controller; ``kubectl rollout`` reads the revision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hack.devcluster import kinds
from hack.devcluster.api import Api
from hack.devcluster.controllers.rollout_limits import most_surge, replicas_of
from hack.devcluster.controllers.workloads import is_owned_by, template_hash
from hack.devcluster.objects import (
    Object,
    annotations_of,
    clone,
    dig,
    is_deleting,
    labels_of,
    name_of,
    namespace_of,
    owner_reference,
)

REVISION = "deployment.kubernetes.io/revision"
DESIRED = "deployment.kubernetes.io/desired-replicas"
MOST = "deployment.kubernetes.io/max-replicas"
_HASH = "pod-template-hash"


@dataclass(frozen=True, slots=True)
class Generations:
    """``newest`` is the ReplicaSet of the present template, None before it is made; ``older`` begin with the oldest."""

    newest: Object | None
    older: Sequence[Object]

    @property
    def every(self) -> list[Object]:
        return [*self.older, *([self.newest] if self.newest is not None else [])]

    @property
    def wanted_pods(self) -> int:
        return sum(map(replicas_of, self.every))

    @property
    def available_pods(self) -> int:
        return sum(map(available_in, self.every))


def generations_of(api: Api, deployment: Object) -> Generations:
    owned = [rs for rs in api.all(kinds.REPLICASETS, namespace_of(deployment)) if is_owned_by(rs, deployment)]
    owned = sorted((rs for rs in owned if not is_deleting(rs)), key=_age)
    present = template_hash(deployment)
    newest = next((rs for rs in owned if labels_of(rs).get(_HASH) == present), None)
    return Generations(newest, [rs for rs in owned if rs is not newest])


def create_newest(api: Api, deployment: Object, generations: Generations, replicas: int) -> None:
    revision = str(_last_revision(generations.older) + 1)
    replicaset = _replicaset(deployment, replicas)
    replicaset["metadata"]["annotations"] = _kept_annotations(deployment) | _sizes(deployment) | {REVISION: revision}
    api.create(kinds.REPLICASETS, namespace_of(deployment), replicaset)
    _annotate_revision(api, deployment, revision)


def mark_newest(api: Api, deployment: Object, generations: Generations) -> None:
    """A template that comes back is a new revision of an old ReplicaSet."""
    newest = generations.newest
    assert newest is not None
    last, own = _last_revision(generations.older), revision_of(newest)
    revision = str(own if own > last else last + 1)
    wanted = annotations_of(newest) | _kept_annotations(deployment) | _sizes(deployment) | {REVISION: revision}
    if annotations_of(newest) != wanted:
        _change(api, newest, wanted, replicas_of(newest))
    _annotate_revision(api, deployment, revision)


def _annotate_revision(api: Api, deployment: Object, revision: str) -> None:
    def annotated(current: Object) -> Object:
        changed = clone(current)
        changed["metadata"].setdefault("annotations", {})[REVISION] = revision
        return changed

    api.change(kinds.DEPLOYMENTS, namespace_of(deployment), name_of(deployment), annotated)


def _replicaset(deployment: Object, replicas: int) -> Object:
    present = template_hash(deployment)
    spec = clone(deployment["spec"])
    template = spec["template"]
    labels = {**(dig(template, "metadata.labels") or {}), _HASH: present}
    template.setdefault("metadata", {})["labels"] = labels
    selector = {**spec["selector"], "matchLabels": {**(spec["selector"].get("matchLabels") or {}), _HASH: present}}
    body = {"replicas": replicas, "selector": selector, "template": template}
    if spec.get("minReadySeconds"):
        body["minReadySeconds"] = spec["minReadySeconds"]
    return {
        "metadata": {
            "name": f"{name_of(deployment)}-{present}",
            "labels": labels,
            "ownerReferences": [owner_reference(deployment)],
        },
        "spec": body,
    }


def _kept_annotations(deployment: Object) -> dict[str, str]:
    own = ("kubectl.kubernetes.io/last-applied-configuration", REVISION, DESIRED, MOST)
    return {key: value for key, value in annotations_of(deployment).items() if key not in own}


def _sizes(deployment: Object) -> dict[str, str]:
    wanted = replicas_of(deployment)
    return {DESIRED: str(wanted), MOST: str(wanted + most_surge(deployment))}


def scale(api: Api, deployment: Object, rs: Object, replicas: int) -> None:
    """Remembers with it for which size of the deployment that was."""
    _change(api, rs, annotations_of(rs) | _sizes(deployment), replicas)


def _change(api: Api, rs: Object, annotations: dict[str, str], replicas: int) -> None:
    def changed(current: Object) -> Object:
        result = clone(current)
        result["metadata"]["annotations"] = annotations
        result["spec"]["replicas"] = replicas
        return result

    api.change(kinds.REPLICASETS, namespace_of(rs), name_of(rs), changed)


def _last_revision(older: Sequence[Object]) -> int:
    return max(map(revision_of, older), default=0)


def revision_of(rs: Object) -> int:
    return int(annotations_of(rs).get(REVISION, 0))


def available_in(rs: Object) -> int:
    return int(dig(rs, "status.availableReplicas") or 0)


def _age(rs: Object) -> tuple[str, int]:
    """Creation times have seconds only; revisions tell the rest apart."""
    return str(dig(rs, "metadata.creationTimestamp")), revision_of(rs)
