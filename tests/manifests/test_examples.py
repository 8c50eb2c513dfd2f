"""The examples of a serving stack: right by the APIs' schemas, and by what the agent itself makes of them."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from agent import settings
from agent.desired.catalog import read_catalog
from agent.desired.layout_file import parse_layouts
from agent.desired.recognise import recognise
from agent.model.catalog import Catalog
from agent.model.fit import shape_of
from agent.plan.fit import misfit
from agent.reconcile.check import check_file, plugin_config
from tests.manifests.examples import EXAMPLES, file, objects, of_kind, pod_specs
from tests.manifests.schemas import VERSIONS, mistakes
from tests.manifests.sources import ROOT, rendered
from tests.plan.test_fit import LABELS, LLAMA_8B, WEIGHTS_8B
from tests.report.tools import promtool

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
SERVERS = {"vllm": "vllm", "tgi": "tgi", "tensorrt-llm": "trtllm", "sglang": "sglang"}
CUSTOM: dict[str, Any] = json.loads((ROOT / "tests" / "data" / "crds" / "schemas.json").read_text())


@pytest.mark.parametrize("version", VERSIONS)
def test_an_api_server_of_that_version_knows_every_field(version: str) -> None:
    core = [one for one in objects() if one["kind"] not in CUSTOM]
    assert len(core) > 20
    assert [(one["kind"], one["metadata"]["name"], found) for one in core if (found := mistakes(one, version))] == []


@pytest.mark.parametrize(
    "one",
    [one for one in objects() if one["kind"] in CUSTOM],
    ids=lambda one: f"{one['kind']}/{one['metadata']['name']}",
)
def test_custom_resources_have_the_fields_that_their_crds_have(one: dict[str, Any]) -> None:
    jsonschema.validate(one, CUSTOM[one["kind"]])
    spoiled = {**one, "spec": {**one["spec"], "no-such-field": 1}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(spoiled, CUSTOM[one["kind"]])


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in EXAMPLES.rglob("kustomization.yaml")), ids=lambda path: path.name
)
def test_a_folder_is_applied_whole(folder: str) -> None:
    assert len(rendered(EXAMPLES / folder)) > 1


@pytest.mark.parametrize("layouts", ["agent/layouts.yaml", "sharing/layouts.yaml"])
def test_layouts_fit_an_h100(layouts: str) -> None:
    code, said = check_file(str(file(layouts)), "H100-80GB-SXM")
    assert code == 0, said


def test_settings_and_catalog_are_what_the_agent_reads() -> None:
    read = settings.load(str(file("agent/settings.yaml")), {"NODE_NAME": "n"}, {})
    assert read.allowed is not None
    assert read.cache_aware
    catalog = read_catalog(file("agent/catalog.yaml").read_text())
    assert isinstance(catalog, Catalog)
    assert LLAMA in {model.repository for model in catalog.models.values()}


@pytest.mark.parametrize(("name", "server"), SERVERS.items())
def test_the_agent_sees_which_model_a_server_reads_and_that_it_fits_its_slice(name: str, server: str) -> None:
    """Weights of 16.1 GB and one request of the longest length."""
    (serving,) = recognise(pod_specs("serving")[name])
    assert serving.server == server
    assert [named.repository for named in serving.models] == [LLAMA]
    assert serving.resources == {"nvidia.com/mig-2g.20gb": 1}
    assert misfit(serving, shape_of(LLAMA_8B, WEIGHTS_8B), LABELS) is None


def test_the_same_server_on_the_next_smaller_slice_would_not_fit() -> None:
    spec = json.loads(json.dumps(pod_specs("serving")["vllm"]).replace("2g.20gb", "1g.10gb"))
    (serving,) = recognise(spec)
    assert misfit(serving, shape_of(LLAMA_8B, WEIGHTS_8B), LABELS) is not None


def test_every_slice_that_a_pod_asks_for_is_made_by_a_layout_and_named_by_the_quotas() -> None:
    """What a quota does not name is free for all."""
    made = {
        f"nvidia.com/mig-{profile}"
        for name in ("agent/layouts.yaml", "sharing/layouts.yaml")
        for entries in yaml.safe_load(file(name).read_text())["mig-configs"].values()
        for entry in entries
        for profile in entry.get("mig-devices", {})
    }
    asked = {
        resource
        for spec in pod_specs().values()
        for container in spec["containers"]
        for resource in container["resources"]["limits"]
        if resource.startswith("nvidia.com/")
    }
    assert asked <= made
    quotas = [quota for name, quota in of_kind("ResourceQuota", "tenancy").items() if name.endswith("/slices")]
    assert len(quotas) == 2
    for quota in quotas:
        assert {f"requests.{resource}" for resource in made | {"nvidia.com/gpu"}} <= set(quota["spec"]["hard"])


@pytest.mark.parametrize("part", ["serving", "tenancy", "batch"])
def test_what_runs_by_day_finds_its_kind_of_slice_by_night_too(part: str) -> None:
    """A schedule that takes the last one of a kind away would leave whoever asks for it pending until morning."""
    text = yaml.safe_load(file("agent/layouts.yaml").read_text())
    limits = [container["resources"]["limits"] for spec in pod_specs(part).values() for container in spec["containers"]]
    asked = {name.removeprefix("nvidia.com/mig-") for names in limits for name in names if "nvidia.com/" in name}
    (schedule,) = text["schedules"].values()
    layouts = {period["layout"] for period in schedule["periods"].values()}
    assert len(layouts) == 2
    for layout in layouts:
        made = {profile for entry in text["mig-configs"][layout] for profile in entry["mig-devices"]}
        assert asked
        assert asked <= made


def test_queues_that_lend_to_each_other_are_in_one_cohort() -> None:
    queues = of_kind("ClusterQueue")
    assert len(queues) > 1
    assert len({queue["spec"]["cohortName"] for queue in queues.values()}) == 1
    for one in of_kind("LocalQueue").values():
        chosen = queues[one["spec"]["clusterQueue"]]["spec"]["namespaceSelector"]["matchLabels"]
        assert chosen == {"kubernetes.io/metadata.name": one["metadata"]["namespace"]}


def test_the_device_plugins_configurations_are_those_of_the_layouts() -> None:
    """``warmslice layouts --device-plugin-config manifests/examples/sharing/layouts.yaml`` writes them."""
    assert file("sharing/device-plugin.yaml").read_text() == plugin_config(str(file("sharing/layouts.yaml")))
    shared = parse_layouts(file("sharing/layouts.yaml").read_text(), "layouts.yaml")
    assert {"slices", "notebooks", "throughput"} == set(shared)


def test_a_notebook_goes_where_slices_are_shared() -> None:
    """Its resource has the same name where they are not."""
    entries = yaml.safe_load(file("sharing/layouts.yaml").read_text())["mig-configs"]
    chosen = entries[pod_specs("sharing")["notebook"]["nodeSelector"]["nvidia.com/mig.config"]]
    assert all(entry["sharing"]["replicas"]["1g.10gb"] > 1 for entry in chosen)


def test_scaling_asks_prometheus_what_it_can_answer(tmp_path: Path) -> None:
    queries = [t["metadata"]["query"] for one in of_kind("ScaledObject").values() for t in one["spec"]["triggers"]]
    rules = [{"record": f"example:query{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "examples", "rules": rules}]}))
    done = subprocess.run(
        [promtool(), "check", "rules", "rules.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert any("vllm:num_requests_waiting" in query for query in queries)


def test_what_scales_to_zero_is_woken_by_another_s_metric() -> None:
    """A workload at zero exports none, so a query of its own would be empty for ever."""
    for one in of_kind("ScaledObject").values():
        target, query = one["spec"]["scaleTargetRef"]["name"], one["spec"]["triggers"][0]["metadata"]["query"]
        assert target in pod_specs("serving")
        own = re.search(r"\b(vllm|sglang|tgi|trtllm)[_:]", query)
        assert (own is None) == (one["spec"]["minReplicaCount"] == 0)


def test_who_applies_a_scaled_workload_again_does_not_scale_it() -> None:
    for one in of_kind("ScaledObject").values():
        assert "replicas" not in of_kind("Deployment", "serving")[one["spec"]["scaleTargetRef"]["name"]]["spec"]


def test_the_gateways_metric_is_of_the_service_that_is_scaled() -> None:
    """Contour calls it by namespace, Service and port."""
    query = of_kind("ScaledObject")["sglang"]["spec"]["triggers"][0]["metadata"]["query"]
    service = of_kind("Service")["sglang"]
    name = f"serving_{service['metadata']['name']}_{service['spec']['ports'][0]['port']}"
    assert set(re.findall(r'envoy_cluster_name="([^"]*)"', query)) == {name}


def test_monitors_and_services_choose_the_pods_that_are_there() -> None:
    for name, service in of_kind("Service", "serving").items():
        template = of_kind("Deployment", "serving")[name]["spec"]["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        assert service["spec"]["ports"][0]["targetPort"] in {
            port["name"] for port in template["spec"]["containers"][0]["ports"]
        }
    for budget in of_kind("PodDisruptionBudget", "serving").values():
        assert budget["spec"]["selector"]["matchLabels"]["app"] in of_kind("Deployment", "serving")
