"""What a user applies: least privilege, both roles, and configuration that the agent itself accepts."""

from __future__ import annotations

import inspect
import os
import re
from pathlib import Path

import pytest

from agent import cli, settings
from agent.adapters.command import reset_gpus
from agent.desired.catalog import read_catalog
from agent.desired.layout_file import parse_layouts
from agent.model.catalog import Catalog
from tests.manifests.sources import BASE, MANIFESTS, OBSERVABILITY, configured, containers, only, rendered


def test_the_base_needs_no_resource_types_of_others() -> None:
    kinds = {one["kind"] for one in rendered()}
    assert kinds == {
        "Namespace",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "ClusterRole",
        "ClusterRoleBinding",
        "ConfigMap",
        "DaemonSet",
        "ValidatingAdmissionPolicy",
        "ValidatingAdmissionPolicyBinding",
    }


def test_everything_is_in_the_agents_namespace_but_the_right_to_write_node_events() -> None:
    elsewhere = {
        (one["kind"], one["metadata"]["namespace"])
        for one in rendered()
        if one["metadata"].get("namespace", "warmslice") != "warmslice"
    }
    assert elsewhere == {("Role", "default"), ("RoleBinding", "default")}


def test_the_agent_may_do_what_its_code_does_and_nothing_more() -> None:
    names = ("warmslice-node-events", "warmslice-leases")
    rules = only("ClusterRole")["rules"] + [rule for name in names for rule in only("Role", name)["rules"]]
    granted = {resource: set(rule["verbs"]) for rule in rules for resource in rule["resources"]}
    assert granted == {
        "nodes": {"get", "list", "watch", "patch"},
        "pods": {"list", "watch", "delete"},
        "pods/eviction": {"create"},
        "poddisruptionbudgets": {"list"},
        "resourceslices": {"list", "watch"},
        "resourceclaims": {"get"},
        "events": {"create", "patch"},
        "leases": {"get", "list", "watch", "create", "patch", "delete"},
    }
    assert not any("*" in part for rule in rules for part in (*rule["apiGroups"], *rule["resources"], *rule["verbs"]))


def test_one_container_changes_gpus_and_the_other_has_no_privilege() -> None:
    partition, cache = containers()["partition"], containers()["cache"]
    assert partition["args"] == ["run", "--role=partition"]
    assert partition["securityContext"]["privileged"] is True

    assert cache["args"] == ["run", "--role=cache"]
    context = cache["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
    assert "privileged" not in context
    assert "memory" in cache["resources"]["limits"]
    assert {"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"} in cache["env"]


def test_the_pod_outlives_pressure_and_leaves_in_order() -> None:
    daemon_set = only("DaemonSet")["spec"]
    pod = daemon_set["template"]["spec"]
    assert pod["priorityClassName"] == "system-node-critical"
    reset_seconds = inspect.signature(reset_gpus).parameters["seconds"].default
    longest_step_seconds = reset_seconds + settings.Settings().command_timeout_seconds
    assert pod["terminationGracePeriodSeconds"] > longest_step_seconds
    assert daemon_set["updateStrategy"]["rollingUpdate"]["maxUnavailable"] == "10%"
    assert pod["nodeSelector"] == {"nvidia.com/gpu.present": "true"}
    assert only("Namespace")["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"


@pytest.mark.parametrize(("name", "setting"), [("partition", "partition_listen"), ("cache", "cache_listen")])
def test_probes_ask_the_port_that_the_role_listens_on(name: str, setting: str) -> None:
    container = containers()[name]
    (port,) = container["ports"]
    listen: str = getattr(settings.Settings(), setting)
    assert listen.endswith(f":{port['containerPort']}")
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": port["name"]}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port["name"]}


def test_both_containers_reach_the_socket_between_them() -> None:
    folder = str(Path(settings.Settings().status_socket).parent)
    mounted = [[m for m in containers()[name]["volumeMounts"] if m["mountPath"] == folder] for name in containers()]
    assert [[mount["name"] for mount in mounts] for mounts in mounted] == [["status"], ["status"]]
    assert not any(mount.get("readOnly") for mounts in mounted for mount in mounts)
    (volume,) = (one for one in only("DaemonSet")["spec"]["template"]["spec"]["volumes"] if one["name"] == "status")
    assert "emptyDir" in volume


def test_what_the_settings_point_to_is_mounted() -> None:
    here = settings.load(str(BASE / "settings.yaml"), {"NODE_NAME": "n"}, {})
    partition, cache = _mounts("partition"), _mounts("cache")
    assert str(Path(here.pod_resources_socket).parent) in partition
    assert here.state_directory in partition
    assert {str(Path(here.layouts_file).parent), str(Path(settings.DEFAULT_FILE).parent)} <= partition
    # The partition role reads the catalog where changes wait for models.
    assert str(Path(here.catalog_file).parent) in cache & partition
    assert here.hub_token_file is not None
    assert str(Path(here.hub_token_file).parent) in cache
    assert any(Path(here.cache_directory).is_relative_to(mount) for mount in cache)


def test_no_directory_of_the_host_that_the_privileged_container_uses_is_in_reach_of_the_other() -> None:
    volumes = {one["name"]: one for one in only("DaemonSet")["spec"]["template"]["spec"]["volumes"]}
    partition, cache = (
        [
            Path(volumes[mount["name"]]["hostPath"]["path"])
            for mount in containers()[name]["volumeMounts"]
            if "hostPath" in volumes[mount["name"]]
        ]
        for name in ("partition", "cache")
    )
    assert partition
    assert cache
    assert not [
        (mine, its) for mine in partition for its in cache if mine.is_relative_to(its) or its.is_relative_to(mine)
    ]


def _mounts(name: str) -> set[str]:
    return {mount["mountPath"] for mount in containers()[name]["volumeMounts"]}


def test_the_configuration_is_read_by_the_agents_own_parsers() -> None:
    layouts = parse_layouts(configured("layouts"), "layouts.yaml")
    assert {"all-disabled", "all-enabled"} <= set(layouts)
    assert read_catalog(configured("catalog")) == Catalog({}, {})


def test_every_layout_fits_an_h100(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(BASE / "layouts.yaml"), "--gpu", "H100-80GB-SXM"]) == 0, capsys.readouterr().err


def test_the_examples_in_the_comments_are_right(tmp_path: Path) -> None:
    """Who removes the # signs gets something that works."""
    example = configured("catalog").split("# Example:\n")[1].replace("#", "")
    catalog = read_catalog(example)
    assert isinstance(catalog, Catalog)
    assert catalog.sets == {"small": frozenset({"minilm"})}

    file = tmp_path / "settings.yaml"
    file.write_text(re.sub(r"^#(?=[a-z_]+:|  - )", "", configured("settings"), flags=re.MULTILINE))
    assert settings.load(str(file), {"NODE_NAME": "n"}, {}).refresh_commands[0][0] == "nsenter"


def test_observability_is_an_addition_to_the_base(tmp_path: Path) -> None:
    resources = ", ".join(os.path.relpath(MANIFESTS / part, tmp_path) for part in ("base", "observability"))
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{resources}]\n")
    added = [one for one in rendered(tmp_path) if one not in rendered()]
    assert sorted((one["kind"], one["metadata"]["name"]) for one in added) == [
        ("ConfigMap", "warmslice-dashboard-fleet"),
        ("ConfigMap", "warmslice-dashboard-node"),
        ("PodMonitor", "warmslice"),
        ("PrometheusRule", "warmslice"),
    ]
    assert {one["metadata"]["namespace"] for one in added} == {"warmslice"}


@pytest.mark.parametrize(("name", "field"), [("podmonitor", "podMetricsEndpoints"), ("servicemonitor", "endpoints")])
def test_a_monitor_scrapes_both_containers_and_keeps_who_holds_a_slice(name: str, field: str) -> None:
    """And says which node it is: the rules tell nodes apart by that."""
    (monitor,) = (one for one in rendered(OBSERVABILITY / name) if one["kind"].lower() == name)
    endpoints = monitor["spec"][field]
    assert [endpoint["port"] for endpoint in endpoints] == [c["ports"][0]["name"] for c in containers().values()]
    assert all(endpoint["honorLabels"] for endpoint in endpoints)
    node = {"sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "node"}
    assert all(endpoint["relabelings"] == [node] for endpoint in endpoints)
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels_of_pods().items()


def labels_of_pods() -> dict[str, str]:
    found: dict[str, str] = only("DaemonSet")["spec"]["template"]["metadata"]["labels"]
    return found


def test_the_service_monitor_brings_a_service_for_the_ports_of_both_containers() -> None:
    """Headless, and of agents that are not ready as well."""
    service, monitor = sorted(rendered(OBSERVABILITY / "servicemonitor"), key=lambda one: str(one["kind"]))
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    spec = service["spec"]
    assert spec["selector"].items() <= labels_of_pods().items()
    assert (spec["clusterIP"], spec["publishNotReadyAddresses"]) == ("None", True)
    ports = [container["ports"][0] for container in containers().values()]
    assert spec["ports"] == [
        {"name": port["name"], "port": port["containerPort"], "targetPort": port["name"]} for port in ports
    ]


def test_dashboards_are_picked_up_by_their_label_and_small_enough_to_be_applied() -> None:
    """kubectl apply writes an object into an annotation of 256 KiB as well."""
    for one in rendered(OBSERVABILITY / "dashboards"):
        assert one["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert len(str(one["data"])) < 200_000


def test_the_device_plugin_can_follow_the_link_to_its_configuration() -> None:
    """Its sidecar writes no file: it links /config/config.yaml to the chosen one of /available-configs."""
    pods = {one["metadata"]["name"]: one for one in rendered(MANIFESTS / "overlays" / "standalone") if "spec" in one}
    pod = pods["nvidia-device-plugin-daemonset"]["spec"]["template"]["spec"]
    for container in (*pod["initContainers"], *pod["containers"]):
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/config", "/available-configs"}


def test_nobody_signals_a_device_plugin_that_has_not_started() -> None:
    """A config-manager that finds no process to signal ends with an error."""
    pods = {one["metadata"]["name"]: one for one in rendered(MANIFESTS / "overlays" / "standalone") if "spec" in one}
    (before,) = pods["nvidia-device-plugin-daemonset"]["spec"]["template"]["spec"]["initContainers"]
    assert {"name": "SEND_SIGNAL", "value": "false"} in before["env"]
