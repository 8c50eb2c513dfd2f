"""The API server's objects as the nouns of `warmslice doctor`. Reads only; what an object lacks is empty, never an error."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent.model.cluster_view import (
    AdmissionPolicy,
    Container,
    DaemonSet,
    Mount,
    OperatorPolicy,
    SeenBudget,
    SeenPod,
)
from agent.model.labels import CLIENTS, DEVICE_PLUGIN
from agent.model.place import Place
from agent.observe.cluster import budget_of, is_dra_driver, pod_of

Object = Mapping[str, Any]

AGENT_APP = "warmslice"
PLUGIN_APPS = next(client.apps for client in CLIENTS if client.label == DEVICE_PLUGIN)
_APP_KEYS = ("app", "app.kubernetes.io/name", "name")
_CONFIG_MANAGER = "config-manager"
_ENTRIES_AT = "/available-configs"


def seen_pod(item: Object, place: Place) -> SeenPod:
    """A v1 Pod; ``place`` is where its specification lets it run."""
    metadata, spec, status = item["metadata"], item.get("spec") or {}, item.get("status") or {}
    pod = pod_of(item)
    conditions = {one.get("type"): one.get("status") for one in status.get("conditions") or []}
    owned = pod.owner_kind == "DaemonSet"
    return SeenPod(
        pod=pod,
        node=spec.get("nodeName") or "",
        place=place,
        containers=_containers(spec, status),
        mounts=_mounts(spec),
        ready=conditions.get("Ready") == "True",
        message=" ".join(str(status.get("message") or "").split()),
        priority_class=spec.get("priorityClassName") or "",
        daemon_set=f"{metadata['namespace']}/{pod.owner_name}" if owned else "",
    )


def daemon_set(item: Object, place: Place) -> DaemonSet:
    """An apps/v1 DaemonSet; ``place`` is that of its template."""
    template = (item.get("spec") or {}).get("template") or {}
    spec, labels = template.get("spec") or {}, (template.get("metadata") or {}).get("labels") or {}
    return DaemonSet(
        namespace=item["metadata"]["namespace"],
        name=item["metadata"]["name"],
        app=_app_of([labels[key] for key in _APP_KEYS if labels.get(key)]),
        place=place,
        containers=_containers(spec, {}),
        mounts=_mounts(spec),
        account=spec.get("serviceAccountName") or "default",
        runtime_class=spec.get("runtimeClassName") or "",
        rolled_out=_rolled_out(item),
    )


def _app_of(names: list[str]) -> str:
    """One that means something here, where somebody has added a label to what he installs."""
    known = (name for name in names if name == AGENT_APP or name in PLUGIN_APPS)
    return next(known, names[0] if names else "")


def _rolled_out(item: Object) -> bool:
    status = item.get("status") or {}
    current = status.get("observedGeneration") == item["metadata"].get("generation")
    return current and status.get("updatedNumberScheduled") == status.get("desiredNumberScheduled")


def is_silent(node: Object) -> bool:
    """Whether the node's kubelet does not say that it is Ready."""
    conditions = (node.get("status") or {}).get("conditions") or []
    return any(one.get("type") == "Ready" and one.get("status") != "True" for one in conditions)


def gives_by_claims(item: Object) -> bool:
    """Whether it is the DaemonSet of NVIDIA's DRA driver."""
    template = (item.get("spec") or {}).get("template") or {}
    return is_dra_driver(template.get("metadata") or {}, template.get("spec") or {})


def plugin_config_map(item: Object) -> str:
    """The ConfigMap whose entries the device plugin of this DaemonSet can be told to take; empty where it was given none."""
    spec = ((item.get("spec") or {}).get("template") or {}).get("spec") or {}
    mounts = (mount for mount in _mounts(spec) if mount.path == _ENTRIES_AT or _CONFIG_MANAGER in mount.container)
    return next((mount.config_maps[0] for mount in mounts if mount.config_maps), "")


def operator_policy(item: Object) -> OperatorPolicy:
    """GPU Operator's ClusterPolicy (nvidia.com/v1)."""
    spec = item.get("spec") or {}
    enabled = (spec.get("migManager") or {}).get("enabled")
    return OperatorPolicy(item["metadata"]["name"], enabled, (spec.get("mig") or {}).get("strategy") or "")


def seen_budget(item: Object) -> SeenBudget:
    """A policy/v1 PodDisruptionBudget."""
    spec, status = item.get("spec") or {}, item.get("status") or {}
    least, most = (spec.get(name) for name in ("minAvailable", "maxUnavailable"))
    return SeenBudget(
        budget_of(item),
        "" if least is None else str(least),
        "" if most is None else str(most),
        status.get("expectedPods") or 0,
    )


def admission_policies(
    policies: Iterable[Object], bindings: Iterable[Object], account: str
) -> tuple[AdmissionPolicy, ...]:
    """Of ValidatingAdmissionPolicies those of the agent, with what their bindings do: by their names, or whatever a release calls
    them, by the user name ``account``."""
    denied = {
        (one.get("spec") or {}).get("policyName")
        for one in bindings
        if "Deny" in ((one.get("spec") or {}).get("validationActions") or [])
    }
    named = ((one["metadata"]["name"], (one.get("spec") or {}).get("matchConditions") or []) for one in policies)
    found = (AdmissionPolicy(name, account in json.dumps(conditions), name in denied) for name, conditions in named)
    return tuple(one for one in found if one.account or one.name.startswith(f"{AGENT_APP}-"))


def event_words(item: Object) -> tuple[str, str, str]:
    """(the node that an Event is about, its reason, its message)."""
    about = item.get("involvedObject") or {}
    return str(about.get("name") or ""), str(item.get("reason") or ""), str(item.get("message") or "")


def _containers(spec: Object, status: Object) -> tuple[Container, ...]:
    states = {one.get("name"): one for one in status.get("containerStatuses") or []}
    return tuple(_container(one, states.get(one["name"]) or {}) for one in spec.get("containers") or [])


def _container(one: Object, status: Object) -> Container:
    waiting = (status.get("state") or {}).get("waiting") or {}
    limits = (one.get("resources") or {}).get("limits") or {}
    return Container(
        name=one["name"],
        image=one.get("image") or "",
        args=tuple(map(str, (*(one.get("command") or ()), *(one.get("args") or ())))),
        env={each["name"]: str(each["value"]) for each in one.get("env") or [] if "value" in each},
        memory_limit=str(limits.get("memory") or ""),
        ready=bool(status.get("ready")),
        waiting=waiting.get("reason") or "",
        message=" ".join(str(waiting.get("message") or "").split())[:300],
        restarts=status.get("restartCount") or 0,
    )


def _mounts(spec: Object) -> tuple[Mount, ...]:
    volumes = {one["name"]: one for one in spec.get("volumes") or [] if one.get("name")}
    containers = [*(spec.get("containers") or []), *(spec.get("initContainers") or [])]
    return tuple(
        _mount(one["name"], mount, volumes.get(mount.get("name")) or {})
        for one in containers
        for mount in one.get("volumeMounts") or []
    )


def _mount(container: str, mount: Object, volume: Object) -> Mount:
    secret = volume.get("secret") or {}
    host, below = (volume.get("hostPath") or {}).get("path") or "", mount.get("subPath") or ""
    return Mount(
        container=container,
        path=mount.get("mountPath") or "",
        read_only=bool(mount.get("readOnly")),
        host_path=f"{host.rstrip('/')}/{below}" if host and below else host,
        secret=secret.get("secretName") or "",
        optional=bool(secret.get("optional")),
        config_maps=tuple(_config_maps(volume)),
    )


def _config_maps(volume: Object) -> Iterator[str]:
    sources = (volume.get("projected") or {}).get("sources") or []
    for one in (volume, *sources):
        config_map = one.get("configMap") or {}
        name = config_map.get("name")
        if name:
            yield str(name)
