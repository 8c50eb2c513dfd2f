"""Workloads as the API server has them: the specifications of their pods. Reads only; what is not there is left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from agent.model.workload import WorkloadKind

Object = Mapping[str, Any]


def pod_specs(kind: WorkloadKind, item: Object) -> tuple[Object, ...]:
    """The specification of each of its kinds of pods; none of a Job that has ended, and of what is being deleted."""
    if (item.get("metadata") or {}).get("deletionTimestamp") or _ended(item):
        return ()
    templates = [found for path in kind.templates for found in _at(item, path.split("."))]
    specs = [template.get("spec") for template in templates if isinstance(template, Mapping)]
    specs += [_with_model(found) for path in kind.bare for found in _at(item, path.split("."))]
    return tuple(spec for spec in specs if isinstance(spec, Mapping))


def owner_words(kind: WorkloadKind, item: Object) -> str:
    """As people name it."""
    metadata = item["metadata"]
    return f"{kind.name} {metadata.get('namespace', '')}/{metadata.get('name', '')}"


def _ended(item: Object) -> bool:
    conditions = (item.get("status") or {}).get("conditions") or []
    return any(one.get("type") in ("Complete", "Failed") and one.get("status") == "True" for one in conditions)


def _with_model(spec: Any) -> Any:
    """A KServe predictor has a pod's fields, and its server beside them: under ``model``, with where the weights are."""
    if not isinstance(spec, Mapping):
        return None
    beside, model = spec.get("containers"), spec.get("model")
    own = [model] if isinstance(model, Mapping) else []
    return {**spec, "containers": [*own, *(beside if isinstance(beside, list) else [])]}


def _at(value: Any, path: list[str]) -> Iterator[Any]:
    if not path:
        yield value
    elif path[0] == "*":
        for one in value if isinstance(value, list) else ():
            yield from _at(one, path[1:])
    elif isinstance(value, Mapping) and path[0] in value:
        yield from _at(value[path[0]], path[1:])
