"""The examples, as files."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import yaml

from tests.manifests.sources import MANIFESTS, Object

EXAMPLES = MANIFESTS / "examples"
OF_THE_AGENT = ("layouts.yaml", "catalog.yaml", "settings.yaml")
"""Files that the agent itself reads."""


@cache
def objects(*parts: str) -> tuple[Object, ...]:
    """Every object of the folders with these names, or of all."""
    files = [
        path for path in sorted(EXAMPLES.rglob("*.yaml")) if path.name not in (*OF_THE_AGENT, "kustomization.yaml")
    ]
    chosen = [path for path in files if not parts or path.parent.name in parts]
    return tuple(one for path in chosen for one in yaml.safe_load_all(path.read_text()))


def of_kind(kind: str, *parts: str) -> dict[str, Object]:
    """By name; of several namespaces by ``namespace/name`` as well."""
    chosen = [one for one in objects(*parts) if one["kind"] == kind]
    names = [one["metadata"]["name"] for one in chosen]
    if len(set(names)) == len(names):
        return dict(zip(names, chosen, strict=True))
    return {f"{one['metadata']['namespace']}/{one['metadata']['name']}": one for one in chosen}


def pod_specs(*parts: str) -> dict[str, Object]:
    """Of every workload and pod, by name."""
    found = {}
    for one in objects(*parts):
        spec = one.get("spec") or {}
        if one["kind"] == "Pod":
            found[one["metadata"]["name"]] = spec
        elif "template" in spec:
            found[one["metadata"]["name"]] = spec["template"]["spec"]
    return found


def file(name: str) -> Path:
    """One of the agent's, such as ``agent/layouts.yaml``."""
    return EXAMPLES / name
