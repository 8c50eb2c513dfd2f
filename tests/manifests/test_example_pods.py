"""The pods of the examples: what a server needs to start where and as they say, and what it may not be."""

from __future__ import annotations

from typing import Any

import pytest

from agent import settings
from agent.desired.catalog import read_catalog
from agent.model.catalog import Catalog
from tests.manifests.examples import file, objects, of_kind, pod_specs

SERVERS = ("vllm", "tgi", "tensorrt-llm", "sglang")
LEVEL = "pod-security.kubernetes.io/enforce"


@pytest.mark.parametrize("name", [*SERVERS, "assistant"])
def test_a_server_reads_the_cache_only_and_asks_no_hub(name: str) -> None:
    spec = pod_specs()[name]
    (container,) = spec["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "models")
    cache = variables.get("HF_HUB_CACHE") or variables["HUGGINGFACE_HUB_CACHE"]
    assert (mount["mountPath"], mount["readOnly"], variables["HF_HUB_OFFLINE"]) == (cache, True, "1")
    elsewhere = {variables.get("HUGGINGFACE_HUB_CACHE", cache)} - {cache}
    if "HF_HOME" in variables:
        elsewhere |= {f"{variables['HF_HOME']}/hub"} - {cache}
    assert not elsewhere, "libraries of other ages would look there"
    (volume,) = (one for one in spec["volumes"] if one["name"] == "models")
    assert host_path(volume) == settings.Settings().cache_directory


def host_path(volume: dict[str, Any]) -> str:
    """Of the volume itself, or of the one that its claim is bound to."""
    if "persistentVolumeClaim" in volume:
        assert volume["persistentVolumeClaim"]["readOnly"]
        claim = of_kind("PersistentVolumeClaim")[volume["persistentVolumeClaim"]["claimName"]]
        volume = of_kind("PersistentVolume")[claim["spec"]["volumeName"]]["spec"]
        assert volume["claimRef"]["name"] == claim["metadata"]["name"]
        assert volume["claimRef"]["namespace"] == claim["metadata"]["namespace"]
        assert volume["storageClassName"] == claim["spec"]["storageClassName"] == "", "else a provisioner makes another"
    return str(volume["hostPath"]["path"])


@pytest.mark.parametrize("name", [*SERVERS, "assistant"])
def test_a_server_takes_no_service_s_address_for_its_own_setting(name: str) -> None:
    """Kubernetes gives a pod VLLM_PORT=tcp://... for a Service vllm beside it, and vLLM reads that as its own."""
    assert pod_specs()[name]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", [*SERVERS, "assistant", "embed", "notebook"])
def test_whoever_asks_for_a_slice_comes_to_nodes_tainted_for_gpus(name: str) -> None:
    """Nothing tolerates that taint for them: its key is not the name of their resource."""
    tolerated = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert tolerated in pod_specs()[name]["tolerations"]


def test_pods_are_what_the_security_level_of_their_namespace_allows() -> None:
    """Only the platform's own namespace may have host paths, and no team has rights there."""
    levels = {name: one["metadata"]["labels"][LEVEL] for name, one in of_kind("Namespace").items()}
    assert levels == {"serving": "privileged", "team-a": "restricted", "team-b": "baseline"}
    assert {one["metadata"]["namespace"] for one in of_kind("RoleBinding").values()} == {"team-a", "team-b"}
    checked = []
    for one in objects("tenancy", "batch"):
        if "template" not in (one.get("spec") or {}):
            continue
        spec = one["spec"]["template"]["spec"]
        assert all({"emptyDir", "persistentVolumeClaim"} & set(volume) for volume in spec["volumes"])
        assert levels[one["metadata"]["namespace"]] == "baseline" or is_restricted(spec)
        checked.append(one["metadata"]["name"])
    assert sorted(checked) == ["assistant", "embed"]


def is_restricted(spec: dict[str, Any]) -> bool:
    """By the Pod Security Standards of that name."""
    contexts = [container.get("securityContext", {}) for container in spec["containers"]]
    held = all(one.get("allowPrivilegeEscalation") is False and drops_all(one) for one in contexts)
    pod = spec.get("securityContext", {})
    return held and pod.get("runAsNonRoot") is True and pod.get("seccompProfile") == {"type": "RuntimeDefault"}


def drops_all(context: dict[str, Any]) -> bool:
    return context.get("capabilities") == {"drop": ["ALL"]}


def test_only_the_server_whose_image_needs_it_is_root() -> None:
    """Its Python lies in root's home. It has none of root's powers."""
    contexts = {name: pod_specs("serving")[name]["securityContext"] for name in SERVERS}
    assert {name for name, context in contexts.items() if context["runAsUser"] == 0} == {"tgi"}
    for name in SERVERS:
        (container,) = pod_specs("serving")[name]["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert drops_all(container["securityContext"])


def test_a_pod_waits_for_a_model_that_the_catalog_has() -> None:
    catalog = read_catalog(file("agent/catalog.yaml").read_text())
    assert isinstance(catalog, Catalog)
    labels = {
        key
        for spec in pod_specs().values()
        for key in spec.get("nodeSelector", {})
        if key.startswith("models.warmslice.dev/")
    }
    assert labels
    assert labels <= {f"models.warmslice.dev/{name}" for name in catalog.models}


def test_batch_gives_way_and_still_has_nodes_made_for_it() -> None:
    """Below -10 the cluster autoscaler leaves a pending pod pending."""
    classes = of_kind("PriorityClass")
    assert -10 <= classes["batch"]["value"] < 0 < classes["realtime"]["value"]
    assert classes["batch"]["preemptionPolicy"] == "Never"
    assert pod_specs("batch")["embed"]["priorityClassName"] == "batch"


def test_a_pod_of_a_job_that_is_taken_away_has_not_failed() -> None:
    """Else Kubernetes counts it, and gives the Job up after a few. It takes such a policy with restartPolicy Never alone."""
    job = of_kind("Job")["embed"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_scaled_workloads_keep_a_place_for_the_new_pod() -> None:
    """A surge would wait for a slice that only the old pod can free."""
    for one in of_kind("Deployment", "serving").values():
        assert one["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == 0
