"""What holds of every manifest: least privilege, each privilege with its reason, pinned images, bounded memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.manifests.schemas import VERSIONS, mistakes
from tests.manifests.sources import MANIFESTS, OBSERVABILITY, Object, rendered

OVERLAYS = sorted(path.parent for path in (MANIFESTS / "overlays").glob("*/kustomization.yaml"))
KUSTOMIZED = [MANIFESTS / "base", *OVERLAYS, MANIFESTS / "components" / "prewarm", OBSERVABILITY]
OF_PROMETHEUS_OPERATOR = {"PodMonitor", "ServiceMonitor", "PrometheusRule"}
_NEEDS_A_REASON = re.compile(
    r"^\s*(privileged: true|runAsUser: 0|hostPID: true|hostNetwork: true|shareProcessNamespace: true|hostPath:|add: \[)"
)
_SOURCES = sorted(
    path
    for path in MANIFESTS.rglob("*.yaml")
    if not {"helm", "examples", "dashboards"} & set(path.relative_to(MANIFESTS).parts)
)

of_each = pytest.mark.parametrize("folder", KUSTOMIZED, ids=lambda path: str(path.relative_to(MANIFESTS)))


def pods(folder: Path) -> Iterator[tuple[str, Object]]:
    """Name and specification of each pod template."""
    for one in rendered(folder):
        if "template" in (one.get("spec") or {}):
            yield f"{one['kind']}/{one['metadata']['name']}", one["spec"]["template"]["spec"]


def containers_of(folder: Path) -> Iterator[tuple[str, Object]]:
    for name, pod in pods(folder):
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            yield f"{name}/{container['name']}", container


def test_there_is_an_overlay_for_each_place() -> None:
    assert [path.name for path in OVERLAYS] == ["aks", "dev", "eks", "gke", "gpu-operator", "standalone"]


@pytest.mark.parametrize("version", VERSIONS)
@of_each
def test_an_api_server_of_that_version_knows_every_field(folder: Path, version: str) -> None:
    wrong = {
        f"{one['kind']}/{one['metadata']['name']}": found
        for one in rendered(folder)
        if one["kind"] not in OF_PROMETHEUS_OPERATOR
        if (found := mistakes(one, version))
    }
    assert wrong == {}


def test_a_field_that_kubernetes_does_not_know_is_a_mistake() -> None:
    (found,) = (one for one in rendered() if one["kind"] == "DaemonSet")
    spoiled = {**found, "spec": {**found["spec"], "templates": {}}}
    assert "templates" in mistakes(spoiled, VERSIONS[0])[0]


@of_each
def test_no_rule_grants_everything(folder: Path) -> None:
    for one in rendered(folder):
        for rule in one.get("rules") or () if "Role" in one["kind"] else ():
            assert "*" not in {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}, one["metadata"]["name"]
            assert not {"secrets", "pods/exec", "serviceaccounts/token"} & set(rule["resources"])
            assert not {"escalate", "bind", "impersonate"} & set(rule["verbs"])


@of_each
def test_every_image_is_pinned_and_the_agents_is_the_same_everywhere(folder: Path) -> None:
    images = {container["image"] for _, container in containers_of(folder)}
    assert all(re.fullmatch(r"[\w./-]+:v?\d[\w.-]+", image) for image in images), images
    assert len({image for image in images if "warmslice" in image}) <= 1


@of_each
def test_every_container_asks_for_what_it_needs_and_has_a_limit_of_memory(folder: Path) -> None:
    for name, container in containers_of(folder):
        resources = container["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"}, name
        assert set(resources["limits"]) == {"memory"}, name  # a limit of CPU would slow down a change of layout


@of_each
def test_what_is_not_privileged_has_no_privilege_at_all(folder: Path) -> None:
    for name, container in containers_of(folder):
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True, name
        if context.get("privileged"):
            continue
        assert context["capabilities"]["drop"] == ["ALL"], name
        assert context["allowPrivilegeEscalation"] is bool(context["capabilities"].get("add")), name
        if "add" not in context["capabilities"]:
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name


def test_who_uses_gpus_where_no_runtime_gives_them_is_privileged() -> None:
    """On GKE the driver is only mounted: without NVIDIA's runtime, device nodes come to privileged containers alone."""
    for name, container in containers_of(MANIFESTS / "overlays" / "gke"):
        if any(mount["mountPath"] == "/usr/local/nvidia" for mount in container["volumeMounts"]):
            assert container["securityContext"].get("privileged") is True, name


@of_each
def test_no_secret_is_in_a_variable_and_only_who_asks_the_api_server_has_a_token(folder: Path) -> None:
    for name, container in containers_of(folder):
        for variable in container.get("env") or ():
            assert "secretKeyRef" not in (variable.get("valueFrom") or {}), name
            assert not re.search(r"TOKEN|PASSWORD|SECRET", variable["name"]), name
    for name, pod in pods(folder):
        assert ("serviceAccountName" in pod) != (pod.get("automountServiceAccountToken") is False), name


@pytest.mark.parametrize("source", _SOURCES, ids=lambda path: str(path.relative_to(MANIFESTS)))
def test_every_privilege_has_its_reason_above_it(source: Path) -> None:
    lines = source.read_text().splitlines()
    for number, line in enumerate(lines):
        if _NEEDS_A_REASON.match(line):
            assert "# Reason:" in _above(lines, number), f"{number + 1}: {line.strip()}"


def _above(lines: list[str], number: int) -> str:
    """The comment above a line, or above the block that it stands in."""
    depth = len(lines[number]) - len(lines[number].lstrip())
    comment = ""
    for line in reversed(lines[:number]):
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith("#"):
            comment = line + comment
        elif comment or indent < depth - 4:
            break
    return comment


def test_sources_are_yaml_that_kubectl_reads_one_by_one() -> None:
    for source in _SOURCES:
        assert list(yaml.safe_load_all(source.read_text())), source


def test_the_network_policy_reaches_the_agents_and_leaves_name_lookups_to_them() -> None:
    folder = MANIFESTS / "components" / "networkpolicy"
    policy = yaml.safe_load((folder / "networkpolicy.yaml").read_text())
    for version in VERSIONS:
        assert mistakes(policy, version) == []
    (daemon_set,) = (one for one in rendered() if one["kind"] == "DaemonSet")
    template = daemon_set["spec"]["template"]
    chosen = policy["spec"]["podSelector"]["matchLabels"]
    assert chosen.items() <= template["metadata"]["labels"].items()
    let_in = {port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]}
    assert let_in == {
        port["containerPort"] for container in template["spec"]["containers"] for port in container["ports"]
    }
    let_out = {
        (port["port"], port.get("protocol", "TCP")) for rule in policy["spec"]["egress"] for port in rule["ports"]
    }
    assert {(53, "UDP"), (53, "TCP"), (443, "TCP"), (6443, "TCP")} <= let_out
