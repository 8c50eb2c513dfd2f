"""The Helm chart renders what the other manifests have: object by object, by a real helm."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent import settings
from agent.desired.catalog import read_catalog
from agent.desired.layout_file import parse_layouts
from agent.model.catalog import Catalog
from hack.helm_chart import CHART, written
from hack.kubectl import carried
from tests.manifests.schemas import VERSIONS, mistakes
from tests.manifests.sources import BASE, MANIFESTS, OBSERVABILITY, Object, rendered

PLATFORMS = sorted(path.stem for path in (CHART / "platforms").glob("*.yaml"))
_OF_HELM = {"app.kubernetes.io/instance", "app.kubernetes.io/version", "app.kubernetes.io/managed-by", "helm.sh/chart"}
_OF_OTHERS = {"PodMonitor", "PrometheusRule"}


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([carried("helm"), *arguments], capture_output=True, text=True, timeout=60, check=False)


@cache
def chart(*arguments: str, namespace: str = "warmslice") -> tuple[Object, ...]:
    """What ``helm install`` with these arguments would send."""
    done = helm("template", "warmslice", str(CHART), "--namespace", namespace, "--kube-version", "1.34", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return tuple(one for one in yaml.safe_load_all(done.stdout) if one)


def by_name(objects: tuple[Object, ...]) -> dict[tuple[str, str], Object]:
    """Without the labels that are Helm's own, and without what starts the agents anew when settings change."""
    found = {}
    for one in objects:
        name = (one["kind"], one["metadata"]["name"])
        assert name not in found
        found[name] = _without_helms(one)
    return found


def _without_helms(one: Object) -> Object:
    metadata = {**one["metadata"], "labels": {k: v for k, v in one["metadata"]["labels"].items() if k not in _OF_HELM}}
    one = {**one, "metadata": metadata}
    if one["kind"] == "DaemonSet":
        template = one["spec"]["template"]
        annotations = {k: v for k, v in template["metadata"]["annotations"].items() if k != "checksum/settings"}
        template = {**template, "metadata": {**template["metadata"], "annotations": annotations}}
        one["spec"] = {**one["spec"], "template": template}
        for container in _containers(one):
            container.pop("imagePullPolicy", None)  # the API server's default for a tag
    return one


def _containers(daemon_set: Object) -> list[Object]:
    pod = daemon_set["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def comparable(one: Object) -> Object:
    """Where order says nothing it is by name."""
    if one["kind"] != "DaemonSet":
        return one
    pod = dict(one["spec"]["template"]["spec"])
    pod["volumes"] = sorted(pod["volumes"], key=_name)
    for part in ("initContainers", "containers"):
        pod[part] = [
            {
                **container,
                "env": sorted(container["env"], key=_name),
                "volumeMounts": sorted(container["volumeMounts"], key=_name),
            }
            for container in pod.get(part, [])
        ]
    return {**one, "spec": {**one["spec"], "template": {**one["spec"]["template"], "spec": pod}}}


def _name(one: Object) -> Any:
    return one["name"]


def assert_same(ours: dict[tuple[str, str], Object], theirs: dict[tuple[str, str], Object]) -> None:
    assert set(ours) == set(theirs)
    for name in ours:
        assert comparable(ours[name]) == comparable(theirs[name]), name


def test_what_the_chart_takes_over_is_up_to_date() -> None:
    """``python -m hack.helm_chart`` writes it."""
    for path, text in written().items():
        assert path.read_text() == text, path
    assert {path.name for path in (CHART / "files").iterdir()} == {
        path.name for path in written() if path.parent.name == "files"
    }


@pytest.mark.parametrize("platform", ["", *PLATFORMS])
def test_helm_has_nothing_to_say_of_the_chart(platform: str) -> None:
    values = [f"--values={CHART / 'platforms' / platform}.yaml"] if platform else []
    done = helm("lint", "--strict", str(CHART), *values)
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout


def test_without_a_value_it_renders_the_base() -> None:
    """But for the namespace, which is the release's."""
    base = by_name(tuple(one for one in rendered(BASE) if one["kind"] != "Namespace"))
    assert_same(by_name(chart()), base)
    assert_same(by_name(chart("--set=namespace.create=true")), by_name(rendered(BASE)))


@pytest.mark.parametrize("platform", PLATFORMS)
def test_with_the_values_of_a_place_it_renders_its_overlay(platform: str) -> None:
    """NVIDIA's device plugin and the others have charts of their own."""
    overlay = [
        one
        for one in rendered(MANIFESTS / "overlays" / platform)
        if not _is_nvidias(one) and one["kind"] != "Namespace"
    ]
    ours = by_name(chart(f"--values={CHART / 'platforms' / platform}.yaml"))
    assert_same(ours, {(one["kind"], one["metadata"]["name"]): _labelled(one) for one in overlay})


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_selector_of_ones_own_beside_a_places_values_adds_to_them(tmp_path: Path, platform: str) -> None:
    """The label that the place does not have would come back otherwise, and no node be chosen."""
    (tmp_path / "own.yaml").write_text("nodeSelector: {pool: gpu}\n")
    place = f"--values={CHART / 'platforms' / platform}.yaml"
    alone = _selector(chart(place))
    for own in (f"--values={tmp_path / 'own.yaml'}", "--set=nodeSelector.pool=gpu"):
        assert _selector(chart(place, own)) == {**alone, "pool": "gpu"}


def _selector(objects: tuple[Object, ...]) -> dict[str, str]:
    (one,) = (one for one in objects if one["kind"] == "DaemonSet")
    return dict(one["spec"]["template"]["spec"].get("nodeSelector", {}))


def _is_nvidias(one: Object) -> bool:
    metadata: Object = one["metadata"]
    return "nvidia" in (metadata.get("namespace"), metadata["name"].partition("-")[0])


def _labelled(one: Object) -> Object:
    """An overlay adds objects without the base's labels."""
    base = {"app.kubernetes.io/name": "warmslice", "app.kubernetes.io/part-of": "warmslice"}
    return {**one, "metadata": {**one["metadata"], "labels": {**base, **one["metadata"].get("labels", {})}}}


def test_its_additions_are_those_of_the_other_manifests() -> None:
    switches = ("prewarm", "networkPolicy.enabled", "podMonitor", "rules", "dashboards")
    added = by_name(chart("--set", ",".join(f"{switch}=true" for switch in switches)))
    for name in by_name(chart()):
        del added[name]
    policy = yaml.safe_load((MANIFESTS / "components" / "networkpolicy" / "networkpolicy.yaml").read_text())
    theirs = [
        *yaml.safe_load_all((MANIFESTS / "components" / "prewarm" / "rbac.yaml").read_text()),
        policy,
        *rendered(OBSERVABILITY),
    ]
    assert set(added) == {(one["kind"], one["metadata"]["name"]) for one in theirs}
    for one in theirs:
        ours = added[one["kind"], one["metadata"]["name"]]
        parts = ("spec", "data", "rules", "roleRef", "subjects")
        assert {part: ours.get(part) for part in parts} == {part: one.get(part) for part in parts}


@pytest.mark.parametrize("version", VERSIONS)
def test_an_api_server_of_that_version_knows_every_field(version: str) -> None:
    for one in chart("--set", "prewarm=true,networkPolicy.enabled=true,dashboards=true,priorityQuota=true"):
        assert mistakes(one, version) == []


def test_in_another_namespace_everything_speaks_of_that() -> None:
    switches = (
        "prewarm",
        "networkPolicy.enabled",
        "podMonitor",
        "rules",
        "dashboards",
        "priorityQuota",
        "namespace.create",
    )
    objects = chart("--set", ",".join(f"{switch}=true" for switch in switches), namespace="gpu-agents")
    assert [one["metadata"]["name"] for one in objects if one["kind"] == "Namespace"] == ["gpu-agents"]
    text = yaml.safe_dump_all(objects)
    assert "namespace: warmslice" not in text
    assert "serviceaccount:warmslice:" not in text
    assert "serviceaccount:gpu-agents:warmslice" in text


def test_settings_layouts_and_catalog_are_what_the_agent_reads(tmp_path: Path) -> None:
    values = {
        "settings": {"max_unavailable": "10%", "prewarm": "auto", "prewarm_allow": {"*": ["acme/*"]}},
        "layouts": {"version": "v1", "mig-configs": {"small": [{"devices": "all", "mig-enabled": False}]}},
        "catalog": {"models": [{"repository": "acme/tiny"}]},
    }
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    found = by_name(chart(f"--values={tmp_path / 'values.yaml'}"))
    (tmp_path / "settings.yaml").write_text(found["ConfigMap", "warmslice-settings"]["data"]["settings.yaml"])
    read = settings.load(str(tmp_path / "settings.yaml"), {"NODE_NAME": "n"}, {})
    assert (read.max_unavailable, read.prewarm) == ("10%", "auto")
    assert read.hub_token_file == settings.load(str(BASE / "settings.yaml"), {"NODE_NAME": "n"}, {}).hub_token_file
    assert set(parse_layouts(found["ConfigMap", "warmslice-layouts"]["data"]["layouts.yaml"], "layouts")) == {"small"}
    catalog = read_catalog(found["ConfigMap", "warmslice-catalog"]["data"]["catalog.yaml"])
    assert isinstance(catalog, Catalog)
    assert list(catalog.models) == ["acme--tiny"]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("settings.max_unavailble=1", "max_unavailble"),
        ("settings.drain_seconds=soon", "drain_seconds"),
        ("settings.partition_listen=0.0.0.0:9999", "partition_listen"),
        ("settings.cache_directory=/elsewhere", "cache_directory"),
        ("image.tag=latest", "tag"),
        ("cache.hostPath=warmslice", "hostPath"),
        ("runtimeClass=nvidia", "runtimeClass"),
        ("maxUnavailable=ten", "maxUnavailable"),
        ("maxUnavailable=0%", "maxUnavailable"),
        ("podAnnotations.checksum/settings=mine", "checksum/settings"),
        ("cache.hostPath=/var/lib", "state.hostPath (/var/lib/warmslice-state) is in cache.hostPath (/var/lib)"),
        ("cache.hostPath=/", "state.hostPath"),
        ("state.hostPath=/var/lib/warmslice", "state.hostPath"),
    ],
)
def test_a_value_that_is_not_there_or_not_right_is_refused_by_name(wrong: str, said: str) -> None:
    done = helm("template", "warmslice", str(CHART), "--set", wrong)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_change_of_settings_starts_the_agents_anew_and_one_of_layouts_does_not() -> None:
    def started_by(*arguments: str) -> str:
        (one,) = (one for one in chart(*arguments) if one["kind"] == "DaemonSet")
        return str(one["spec"]["template"]["metadata"]["annotations"]["checksum/settings"])

    assert started_by("--set", "settings.log_level=debug") != started_by()
    assert started_by("--set", "layouts.version=v1") == started_by()


def test_a_page_with_token_and_certificate_is_served_probed_and_scraped_so(tmp_path: Path) -> None:
    secrets = "page.tokenSecret=page-token,page.tlsSecret=page-tls,page.serverName=agents.example.com,podMonitor=true"
    found = by_name(chart("--set", secrets))
    (tmp_path / "settings.yaml").write_text(found["ConfigMap", "warmslice-settings"]["data"]["settings.yaml"])
    read = settings.load(str(tmp_path / "settings.yaml"), {"NODE_NAME": "n"}, {})
    volumes = {one["name"]: one for one in found["DaemonSet", "warmslice"]["spec"]["template"]["spec"]["volumes"]}
    assert [volumes[name]["secret"]["secretName"] for name in ("page-token", "tls")] == ["page-token", "page-tls"]
    for container in _containers(found["DaemonSet", "warmslice"]):
        assert {container[probe]["httpGet"]["scheme"] for probe in ("livenessProbe", "readinessProbe")} == {"HTTPS"}
        mounted = {mount["mountPath"] for mount in container["volumeMounts"] if mount.get("readOnly")}
        for file in (read.page_token_file, read.tls_certificate_file, read.tls_key_file):
            assert file is not None
            assert str(Path(file).parent) in mounted
    for endpoint in found["PodMonitor", "warmslice"]["spec"]["podMetricsEndpoints"]:
        assert endpoint["scheme"] == "https"
        assert endpoint["authorization"]["credentials"] == {"name": "page-token", "key": "token"}
        assert endpoint["tlsConfig"]["ca"]["secret"] == {"name": "page-tls", "key": "ca.crt"}
    for version in VERSIONS:
        assert mistakes(found["DaemonSet", "warmslice"], version) == []


def test_an_own_certificate_is_probed_by_https_and_an_empty_one_is_none() -> None:
    for certificate, scheme in (("/etc/tls/tls.crt", "HTTPS"), ("", None)):
        found = by_name(chart(f"--set=settings.tls_certificate_file={certificate}"))
        for container in _containers(found["DaemonSet", "warmslice"]):
            assert container["livenessProbe"]["httpGet"].get("scheme") == scheme


def test_the_container_of_the_cache_takes_a_proxy_an_authority_and_further_tokens(tmp_path: Path) -> None:
    more: dict[str, list[Object]] = {
        "env": [{"name": "HTTPS_PROXY", "value": "http://proxy:3128"}],
        "volumeMounts": [{"name": "tokens", "mountPath": "/etc/tokens", "readOnly": True}],
        "volumes": [{"name": "tokens", "secret": {"secretName": "hub-tokens"}}],
    }
    values = {"settings": {"hub_tokens_directory": "/etc/tokens"}, "cache": more}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(values))
    found = by_name(chart("--values", str(tmp_path / "values.yaml")))["DaemonSet", "warmslice"]
    partition, cache = _containers(found)
    assert more["env"][0] in cache["env"]
    assert more["volumeMounts"][0] in cache["volumeMounts"]
    assert more["volumes"][0] in found["spec"]["template"]["spec"]["volumes"]
    assert "tokens" not in {mount["name"] for mount in partition["volumeMounts"]}
    for version in VERSIONS:
        assert mistakes(found, version) == []
