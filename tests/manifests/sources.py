"""The manifests as files, and as kubectl renders them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from hack.kubectl import kubectl

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "manifests"
BASE = MANIFESTS / "base"
OBSERVABILITY = MANIFESTS / "observability"

Object = dict[str, Any]


@cache
def rendered(directory: Path = BASE) -> tuple[Object, ...]:
    """What ``kubectl apply -k`` would send."""
    command = [str(kubectl()), "kustomize", str(directory)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    return tuple(yaml.safe_load_all(output))


def only(kind: str, name: str = "") -> Object:
    """The one object of that kind (and name) in the base."""
    (found,) = (o for o in rendered() if o["kind"] == kind and name in ("", o["metadata"]["name"]))
    return found


def containers() -> dict[str, Object]:
    """The agent's containers by name."""
    return {one["name"]: one for one in only("DaemonSet")["spec"]["template"]["spec"]["containers"]}


def configured(name: str) -> str:
    """The file that a ConfigMap carries."""
    (text,) = only("ConfigMap", f"warmslice-{name}")["data"].values()
    return str(text)
