"""What the Helm chart takes over from the other manifests and from the code: ``python -m hack.helm_chart`` writes it.

Files are copied, since a chart holds no file outside of its folder. The schema of the values has the settings' own, so that
a setting that is not there, or of another type, is refused before anything is applied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from agent.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
CHART = ROOT / "manifests" / "helm" / "warmslice"

_COPIED = {
    "namespace.yaml": "base/namespace.yaml",
    "rbac.yaml": "base/rbac.yaml",
    "admission.yaml": "base/admission.yaml",
    "settings.yaml": "base/settings.yaml",
    "layouts.yaml": "base/layouts.yaml",
    "catalog.yaml": "base/catalog.yaml",
    "prewarm.yaml": "components/prewarm/rbac.yaml",
    "networkpolicy.yaml": "components/networkpolicy/networkpolicy.yaml",
    "podmonitor.yaml": "observability/podmonitor/podmonitor.yaml",
    "rules.yaml": "observability/rules/rules.yaml",
    "fleet.json": "observability/dashboards/fleet.json",
    "node.json": "observability/dashboards/node.json",
}
_OF_THE_POD = frozenset(
    (
        "node_name",
        "role",
        "namespace",
        "partition_listen",
        "cache_listen",
        "cache_directory",
        "state_directory",
        "status_socket",
    )
)
"""Settings that the chart's pod decides: its ports, mounts and variables would contradict another value."""
_TEXT = {"type": "string"}
_FLAG = {"type": "boolean"}
_OBJECT = {"type": "object"}
_PATH = {"type": "string", "pattern": "^/"}
_NAMED = {"type": "array", "items": {"type": "object", "required": ["name"]}}


def _closed(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _resources() -> dict[str, Any]:
    amounts = {"type": "object", "additionalProperties": {"type": ["string", "number"]}}
    return {**_closed(requests=amounts, limits=amounts), "required": ["requests", "limits"]}


def schema() -> dict[str, Any]:
    """Of values.yaml: JSON Schema, draft 7 in what it uses."""
    settings = dict(msgspec.json.schema(Settings)["$defs"]["Settings"])
    settings.pop("title", None)
    settings["properties"] = {name: of for name, of in settings["properties"].items() if name not in _OF_THE_POD}
    settings["description"] = "The agent's settings, by their names"
    maximum = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^([1-9][0-9]?|100)%$"}]}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart warmslice",
        **_closed(
            **{"global": _OBJECT},
            image=_closed(
                repository={"type": "string", "minLength": 1},
                tag={"type": ["string"], "not": {"const": "latest"}},
                digest={"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
                pullPolicy={"enum": ["Always", "IfNotPresent", "Never"]},
                pullSecrets={"type": "array", "items": _closed(name=_TEXT)},
            ),
            namespace=_closed(create=_FLAG),
            settings=settings,
            layouts=_OBJECT,
            catalog=_closed(models={"type": "array", "items": _OBJECT}, sets=_OBJECT),
            hubTokenSecret={"type": "string", "minLength": 1},
            runtimeClassName=_TEXT,
            visibleDevices={"type": "string", "minLength": 1},
            driver=_closed(hostPath={"type": "string", "pattern": "^(/.*)?$"}),
            waitForToolkit=_FLAG,
            cache=_closed(hostPath=_PATH, env=_NAMED, volumeMounts=_NAMED, volumes=_NAMED),
            state=_closed(hostPath=_PATH),
            nodeSelector={"type": ["object", "null"], "additionalProperties": {"type": ["string", "null"]}},
            affinity=_OBJECT,
            tolerations={"type": "array", "items": _OBJECT},
            priorityClassName={"type": "string", "minLength": 1},
            priorityQuota=_FLAG,
            maxUnavailable=maximum,
            podAnnotations={
                "type": "object",
                "additionalProperties": _TEXT,
                "propertyNames": {"not": {"enum": ["checksum/settings", "kubectl.kubernetes.io/default-container"]}},
            },
            resources=_closed(partition=_resources(), cache=_resources()),
            page=_closed(tokenSecret=_TEXT, tlsSecret=_TEXT, serverName=_TEXT),
            admissionPolicies=_FLAG,
            prewarm=_FLAG,
            networkPolicy=_closed(enabled=_FLAG, namespace={"type": "string", "minLength": 1}),
            podMonitor=_FLAG,
            rules=_FLAG,
            dashboards=_FLAG,
        ),
    }


def written() -> dict[Path, str]:
    """Every file that is written, with what it has."""
    copies = {
        CHART / "files" / name: (ROOT / "manifests" / source).read_text("utf-8") for name, source in _COPIED.items()
    }
    return {**copies, CHART / "values.schema.json": json.dumps(schema(), indent=2) + "\n"}


def main() -> None:
    for path, text in written().items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
