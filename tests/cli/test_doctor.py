"""``warmslice doctor``: each thing that can be wrong with a cluster is planted in one that is right, found, and its fix named."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
import yaml

from agent import cli
from agent.adapters import clock
from agent.adapters.inspection import Inspection
from agent.adapters.kube import Kube
from agent.model import labels
from agent.model.doctor import Code, Diagnosis
from agent.model.drift import Drift
from agent.model.rights import Right, base_rights, prewarm_rights
from agent.plan.advertise import HARDWARE_ALONE
from agent.plan.doctor.agents import POLICIES
from agent.plan.doctor.nodes import YOUNG_SECONDS
from agent.plan.doctor.reasons import FIXES, fix_of
from agent.reconcile.doctor import examine
from agent.report.doctor import diagnosis_drawn
from hack import doctor_table
from hack.devcluster import kinds
from hack.devcluster.access.users import User
from hack.devcluster.faults import Fault
from hack.devcluster.kubeconfig import write_kubeconfig
from hack.devcluster.objects import name_of
from tests.cli.misconfigurations import CASES, Case
from tests.cli.planting import (
    NODE,
    Plant,
    annotated,
    both,
    budget,
    file,
    gone,
    labelled,
    merged,
    no_more_agents,
    of_daemon_set,
    pod,
    said,
    void,
)
from tests.fakes.devcluster import DevCluster, bare_node
from tests.fakes.furnished import AGENTS, CATALOG, GPU_NODES, LARGE, LAYOUTS, PREWARMING, SETTINGS, SLICE, furnished
from tests.manifests.sources import MANIFESTS, Object, only, rendered
from tests.report.test_reasons import FAILING, GIVEN_UP, SAID, SOURCES

SCHEDULE = """\
schedules:
  day-and-night:
    time-zone: UTC
    periods:
      day: {from: '07:00', layout: day}
      night: {from: '21:00', layout: night}
"""
WORKLOAD = "nvidia.com/gpu.workload.config"
ROOT_DISK = {
    "containers": [{"name": "b", "image": "example.org/b:1", "volumeMounts": [{"name": "root", "mountPath": "/host"}]}],
    "volumes": [{"name": "root", "hostPath": {"path": "/"}}],
}


def off_on(node: str) -> Plant:
    return lambda cluster: void(cluster.label_node(node, {"nvidia.com/gpu.deploy.mig-manager": "false"}))


def rewritten_images(cluster: DevCluster) -> None:
    for agent in cluster.api.all(kinds.PODS, AGENTS):
        containers = [{**one, "image": f"mirror.example.org/{one['image']}"} for one in agent["spec"]["containers"]]
        cluster.merge(kinds.PODS, name_of(agent), {"spec": {"containers": containers}}, AGENTS)


def renamed_policies(cluster: DevCluster) -> None:
    for kind in (kinds.ADMISSION_POLICIES, kinds.ADMISSION_BINDINGS):
        for one in cluster.api.all(kind):
            spec = {**one["spec"], **({"policyName": f"my-{name_of(one)}"} if kind is kinds.ADMISSION_BINDINGS else {})}
            cluster.delete(kind, name_of(one))
            cluster.create(kind, {"metadata": {"name": f"my-{name_of(one)}"}, "spec": spec})


async def examined(
    cluster: DevCluster, node: str = "", after_seconds: float = YOUNG_SECONDS, alone: bool = False
) -> Diagnosis:
    """As the administrator, so long after the cluster was made."""
    kube = await Kube.connect(str(cluster.kubeconfig()))
    try:
        return await examine(Inspection(kube), node, clock.now() + after_seconds, alone)
    finally:
        await kube.close()


async def command(*arguments: str) -> tuple[int, str]:
    """(exit code, all that it printed)."""
    printed = StringIO()

    def run() -> int:
        with redirect_stdout(printed), redirect_stderr(printed):
            return cli.main(["doctor", *arguments])

    return await asyncio.to_thread(run), printed.getvalue()


async def test_nothing_is_found_where_all_is_as_it_should_be(tmp_path: Path) -> None:
    async with furnished(tmp_path, time.time()) as cluster:
        found = await examined(cluster)
        one = await examined(cluster, NODE)
    assert (found.findings, found.gaps, found.exit_code) == ((), (), 0)
    assert dict(found.looked) == {"nodes": 3, "pods": 5, "DaemonSets of interest": 2, "PodDisruptionBudgets": 1}
    assert (one.findings, one.gaps) == ((), ())
    assert diagnosis_drawn(found).endswith("PodDisruptionBudgets: nothing found")


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code.word}-{case.fix[:12].replace(' ', '-')}")
async def test_what_is_planted_is_found_and_its_fix_is_named(tmp_path: Path, case: Case) -> None:
    async with furnished(tmp_path, time.time()) as cluster:
        case.plant(cluster)
        found = await examined(cluster)
    said = [one for one in found.findings if one.code is case.code]
    assert said, [(one.code.word, one.what) for one in found.findings]
    assert [one for one in said if case.what in one.what and case.fix in one.fix], said
    assert found.exit_code == 1


def test_every_code_of_a_cluster_is_planted() -> None:
    """Those of a host have tests of their own."""
    codes = list(Code)
    of_hosts = set(codes[codes.index(Code.NVML_MISSING) :]) - {Code.STATE_IN_CACHE}
    assert {case.code for case in CASES} == set(codes) - of_hosts


HARMLESS: dict[str, Plant] = {
    "mig-manager on a node where no agent is meant to be": both(
        lambda cluster: void(
            cluster.create(kinds.NODES, bare_node("gpu-9", labels={"nvidia.com/mig.capable": "false"}))
        ),
        of_daemon_set("nvidia-mig-manager", {"app": "nvidia-mig-manager"}, "gpu-operator", node="gpu-9"),
    ),
    "prewarming with its rights": file("settings", PREWARMING),
    "a node that somebody cordoned": annotated({}, cordoned=True),
    "a pod that failed by itself": pod("job", {"phase": "Failed", "reason": "Error"}, resources={SLICE: 1}),
    "a failed pod without a GPU": pod("plain", {"phase": "Failed", "reason": "NodeShutdown"}),
    "urgent pods on a GPU that MPS shares": both(
        labelled(f"{SLICE}.replicas", "4"), labelled(f"{SLICE}.sharing-strategy", "mps")
    ),
    "a pod that waits for a slice which a wished layout will make": both(
        said("pending", "draining", "waiting", offers={"nvidia.com/mig-7g.80gb": 1}),
        pod("big", node="", resources={"nvidia.com/mig-7g.80gb": 1}),
    ),
    "a pod that a DRA driver may give its slice": both(
        of_daemon_set(
            "dra", {"nvidia-dra-driver-gpu-component": "kubelet-plugin"}, "dra", {"name": "gpus"}, node="cpu-1"
        ),
        pod("claims", node="", resources={"nvidia.com/mig-2g.20gb": 1}),
    ),
    "a pod that waits for its turn on slices that there are": pod("next", node="", resources={LARGE: 9}),
    "GPUs that somebody changed once": said("success", "applied", "applied", drift=Drift(1.0, 1.0)),
    "what the agent said of an earlier wish": both(
        said("failed", "no-placement", "4x3g.40gb do not fit"), labelled(labels.CONFIG, "night")
    ),
    "a change that has just begun": said("pending", "draining", "waiting for pods to end"),
    "whole GPUs are wished with the strategy none": both(
        labelled(labels.STRATEGY, "none"), labelled(labels.CONFIG, "all-disabled")
    ),
    "slices of one kind are wished with the strategy single": both(
        labelled(labels.STRATEGY, "single"), labelled(labels.CONFIG, "7x1g.10gb")
    ),
    "a taint of the node's lifecycle": merged(
        kinds.NODES, NODE, {"spec": {"taints": [{"key": "node.kubernetes.io/memory-pressure", "effect": "NoSchedule"}]}}
    ),
    "clients paused in an upgrade of the driver": both(
        labelled(labels.DRIVER_UPGRADE_STATE, "drain-required"),
        labelled(labels.DEVICE_PLUGIN, "paused-for-driver-upgrade"),
    ),
    "policies of a release with another name": renamed_policies,
    "a pod that has all of the node's disk": pod("backup", spec=ROOT_DISK),
    "agents whose images a webhook rewrites": rewritten_images,
    "a budget for other pods": budget("web", app="web", maxUnavailable=0),
    "a pod that waits for a slice of another period": both(
        file("layouts", f"{LAYOUTS}{SCHEDULE}"),
        labelled(labels.CONFIG, "day-and-night"),
        pod("big", node="", resources={"nvidia.com/mig-7g.80gb": 1}),
    ),
    "a node with what NVIDIA's network operator gives away": lambda cluster: void(
        cluster.create(kinds.NODES, bare_node("nic-1", allocatable={"nvidia.com/hostdev": "8"}))
    ),
    "a node whose GPUs are those of virtual machines": lambda cluster: void(
        cluster.create(
            kinds.NODES,
            bare_node("vm-1", labels={"feature.node.kubernetes.io/pci-10de.present": "true", WORKLOAD: "vm-vgpu"}),
        )
    ),
    "no slices are wished, and nobody would give them away": both(
        said("success", "applied", f"'day' {HARDWARE_ALONE}"), labelled(labels.CONFIG, "all-disabled")
    ),
    "a schedule with a period that nobody can read": both(
        file("layouts", f"{LAYOUTS}{SCHEDULE.replace('layout: night', 'layout: 3x1g10gb').replace('21:00', '06:59')}"),
        labelled(labels.CONFIG, "day-and-night"),
    ),
    "a turn that comes with the maintenance window": said("pending", "fleet-slot", "outside the window", hours=60),
    "jobs that may end": said("pending", "job-running", "train-0 may end", hours=5),
    "a migration node by node that is done": both(
        merged(kinds.CLUSTER_POLICIES, "cluster-policy", {"spec": {"migManager": {"enabled": True}}}),
        *(off_on(node) for node in GPU_NODES),
    ),
    "an agent with a label of somebody's own": merged(
        kinds.DAEMONSETS, AGENTS, {"spec": {"template": {"metadata": {"labels": {"app": "team-x"}}}}}, AGENTS
    ),
}


async def test_of_a_node_that_is_being_made_no_agent_is_missed(tmp_path: Path) -> None:
    async with furnished(tmp_path, time.time()) as cluster:
        no_more_agents(cluster)
        taint = {"key": labels.WARMING, "effect": labels.WARMING_EFFECT}
        cluster.merge(kinds.NODES, NODE, {"spec": {"taints": [taint]}})
        early, late = [await examined(cluster, NODE, seconds) for seconds in (0.0, YOUNG_SECONDS)]
    assert early.findings == ()
    assert {one.code for one in late.findings} == {Code.AGENT_MISSING, Code.GATE_WITHOUT_AGENT}


async def test_from_a_container_of_the_agent_other_nodes_are_not_read(tmp_path: Path) -> None:
    """They may be thousands, and the container's memory is not."""
    async with furnished(tmp_path, time.time()) as cluster:
        labelled(labels.DRIVER_UPGRADE_STATE, "upgrade-failed")(cluster)
        found = await examined(cluster, NODE, alone=True)
        asked = [entry.query for entry in cluster.requests("list", "warmslice")]
    assert {one.code for one in found.findings} == {Code.DRIVER_UPGRADE_FAILED}
    assert found.looked["nodes"] == 1
    assert [query for query in asked if "nodeName" in query or "metadata.name" in query] == [
        f"limit=500&fieldSelector=metadata.name%3D{NODE}",
        f"limit=500&fieldSelector=spec.nodeName%3D{NODE}",
    ]


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_is_as_somebody_meant_it_is_not_found(tmp_path: Path, name: str) -> None:
    async with furnished(tmp_path, time.time()) as cluster:
        HARMLESS[name](cluster)
        found = await examined(cluster)
    assert [(one.code.word, one.what) for one in found.findings] == []


async def test_nothing_is_written_and_requests_do_not_grow_with_the_nodes(tmp_path: Path) -> None:
    async with furnished(tmp_path, time.time()) as cluster:
        await examined(cluster)
        few = cluster.requests(user_agent="warmslice")
        for number in range(40):
            cluster.create(kinds.NODES, bare_node(f"more-{number}", labels={"nvidia.com/mig.capable": "false"}))
        since = max(entry.number for entry in cluster.requests())
        await examined(cluster)
        many = cluster.requests(user_agent="warmslice", since=since)
    assert {entry.verb for entry in few} == {"get", "list", "create"}
    assert {entry.object for entry in few if entry.verb == "create"} == {"subjectaccessreviews"}
    assert len(many) == len(few)


async def test_who_may_see_nothing_is_told_so_and_not_that_all_is_well(tmp_path: Path) -> None:
    async with furnished(tmp_path, time.time()) as cluster:
        token = cluster.control_plane.server.gate.authenticator.give_token(User("nobody", ("system:authenticated",)))
        write_kubeconfig(tmp_path / "nobody", cluster.control_plane.access(token))
        code, text = await command("--kubeconfig", str(tmp_path / "nobody"))
    assert code == 3
    assert "not looked at: nodes, because GET /api/v1/nodes: HTTP 403" in " ".join(text.split())
    assert text.splitlines()[-1].startswith("looked at 0 nodes, 0 pods")


async def test_the_documented_role_is_enough_to_look_at_everything(tmp_path: Path) -> None:
    """Also where a token of the catalog has to be looked for."""
    role = yaml.safe_load(doctor_table.PAGE.read_text("utf-8").split("```yaml\n")[1].split("```")[0])
    name = role["metadata"]["name"]
    async with furnished(tmp_path, time.time()) as cluster:
        cluster.create(kinds.CLUSTER_ROLES, role)
        reference = {"apiGroup": kinds.RBAC, "kind": "ClusterRole", "name": name}
        subjects = [{"apiGroup": kinds.RBAC, "kind": "User", "name": "reader"}]
        binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": subjects}
        cluster.create(kinds.CLUSTER_ROLE_BINDINGS, binding)
        file("settings", f"{SETTINGS}hub_tokens_directory: /etc/warmslice-hub\n")(cluster)
        file("catalog", CATALOG.replace("name: embed", "name: embed, token: acme"))(cluster)
        cluster.create(kinds.SECRETS, {"metadata": {"name": "warmslice-hub-token"}}, AGENTS)
        token = cluster.control_plane.server.gate.authenticator.give_token(User("reader", ("system:authenticated",)))
        write_kubeconfig(tmp_path / "reader", cluster.control_plane.access(token))
        code, text = await command("--kubeconfig", str(tmp_path / "reader"))
    assert (code, text) == (
        0,
        "looked at 3 nodes, 5 pods, 2 DaemonSets of interest, 1 PodDisruptionBudgets: nothing found\n",
    )


async def test_where_one_list_is_refused_the_rest_is_looked_at(tmp_path: Path) -> None:
    """Without pods nobody knows which agents run: they are not called missing."""
    async with furnished(tmp_path, time.time()) as cluster:
        cluster.inject(Fault(path="/api/v1/pods", code=403, count=None))
        labelled(labels.DRIVER_UPGRADE_STATE, "upgrade-failed")(cluster)
        found = await examined(cluster)
    assert [one.code for one in found.findings] == [Code.DRIVER_UPGRADE_FAILED]
    assert [gap.what for gap in found.gaps] == ["pods"]


async def test_a_cluster_without_gpu_operator_is_looked_at_whole(tmp_path: Path) -> None:
    async with furnished(tmp_path, time.time()) as cluster:
        cluster.inject(Fault(path="clusterpolicies", code=404, count=None))
        found = await examined(cluster)
    assert (found.findings, found.exit_code) == ((), 0)
    assert [(gap.what, gap.refused) for gap in found.gaps] == [("GPU Operator's ClusterPolicy", False)]


async def test_of_one_node_its_own_is_said_and_what_is_no_nodes_alone(tmp_path: Path) -> None:
    async with furnished(tmp_path, time.time()) as cluster:
        labelled(labels.DRIVER_UPGRADE_STATE, "upgrade-failed")(cluster)
        gone(kinds.RUNTIME_CLASSES, "nvidia")(cluster)
        here, there = await examined(cluster, NODE), await examined(cluster, "gpu-2")
        code, text = await command("gpu-7", "--kubeconfig", str(cluster.kubeconfig()))
    assert {one.code for one in here.findings} == {Code.DRIVER_UPGRADE_FAILED, Code.RUNTIME_CLASS_MISSING}
    assert {one.code for one in there.findings} == {Code.RUNTIME_CLASS_MISSING}
    assert (code, text) == (2, "warmslice: there is no node 'gpu-7'\n")


async def test_text_and_json_say_the_same(tmp_path: Path) -> None:
    async with furnished(tmp_path, time.time()) as cluster:
        merged(kinds.CLUSTER_POLICIES, "cluster-policy", {"spec": {"migManager": {"enabled": True}}})(cluster)
        labelled(labels.DRIVER_UPGRADE_STATE, "upgrade-failed")(cluster)
        kubeconfig = str(cluster.kubeconfig())
        code, text = await command("--kubeconfig", kubeconfig)
        _, document = await command("--kubeconfig", kubeconfig, "--json")
    patch = '{"spec":{"migManager":{"enabled":false}}}'
    fix = f"`kubectl patch clusterpolicies.nvidia.com cluster-policy --type merge -p '{patch}'`"
    assert code == 1
    # A command stands in one line, whatever its length; the page of the documentation shows this output.
    assert doctor_table.PAGE.read_text("utf-8").split("$ warmslice doctor\n")[1].split("```")[0] == text
    assert [line for line in text.splitlines() if fix in line]
    assert text.splitlines()[0] == "cluster"
    assert text.splitlines()[-1].endswith(": 2 errors")
    said_of = json.loads(document)["findings"]
    assert [(one["code"], one["severity"], one["node"]) for one in said_of] == [
        ("mig-manager-enabled", "error", ""),
        ("driver-upgrade-failed", "error", NODE),
    ]
    assert all(one["code"] in text for one in said_of)


async def test_an_api_server_that_is_away_is_said_in_a_sentence(tmp_path: Path) -> None:
    async with furnished(tmp_path, time.time()) as cluster:
        kubeconfig = str(cluster.kubeconfig())
    code, text = await command("--kubeconfig", kubeconfig)
    assert code == 1
    assert text.startswith("warmslice: GET /api/v1/nodes: ")


def test_the_rights_that_are_asked_about_are_those_that_the_manifests_grant() -> None:
    granted = [*_rights(rendered())]
    assert sorted(granted) == sorted(base_rights("warmslice"))
    component = MANIFESTS / "components" / "prewarm" / "rbac.yaml"
    assert sorted(_rights(yaml.safe_load_all(component.read_text("utf-8")))) == sorted(prewarm_rights("warmslice"))


def _rights(objects: Iterator[Object] | tuple[Object, ...]) -> Iterator[Right]:
    for one in objects:
        if one["kind"] not in ("Role", "ClusterRole"):
            continue
        for rule in one["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    for verb in rule["verbs"]:
                        for name in rule.get("resourceNames", [""]):
                            yield Right(group, resource, verb, one["metadata"].get("namespace", ""), name)


def test_every_reason_that_the_agent_gives_has_a_fix() -> None:
    texts = [(MANIFESTS.parent / source).read_text("utf-8") for source in SOURCES]
    reasons = {reason for text in texts for pattern in (SAID, FAILING, GIVEN_UP) for reason in pattern.findall(text)}
    assert reasons - {"applied", "failed", "conflict"} <= FIXES.keys()  # a state, and what is never written
    assert "{" not in "".join(fix_of(reason, NODE, labels.CONFIG) for reason in FIXES)


def test_the_policies_that_are_looked_for_are_those_of_the_base() -> None:
    shipped = {one["metadata"]["name"] for one in rendered() if one["kind"] == "ValidatingAdmissionPolicy"}
    assert set(POLICIES) == shipped
    assert only("ServiceAccount")["metadata"]["name"] == "warmslice"


def test_the_table_of_codes_is_that_of_the_code() -> None:
    """``python -m hack.doctor_table`` writes it."""
    text = doctor_table.PAGE.read_text("utf-8")
    assert doctor_table.written(text) == text
    assert len({code.word for code in Code}) == len(Code)
