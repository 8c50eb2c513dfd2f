"""What is shipped, applied by kubectl to a cluster that enforces it: the agent does its work as its pod, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
import yaml

from agent.model import labels
from agent.model.demand_map import NAME as DEMAND
from agent.model.fleet import SLOT_PREFIX
from hack.devcluster import gpu_operator, kinds, nvidia_dra_driver
from hack.devcluster.errors import ApiError
from hack.devcluster.kubeconfig import write_pod_kubeconfig
from hack.devcluster.kubelet.pod_identity import identity_folder
from hack.devcluster.objects import Object, name_of, uid_of
from hack.devcluster.request_log import LoggedRequest
from hack.devcluster.targets import parse_target
from hack.kubectl import NoKubectlError, carried
from tests.e2e.agent_node import NODE, AgentNode, agent_node
from tests.fakes.devcluster import bare_node, is_running
from tests.fakes.dra import claim, claiming_pod, of_profile, request, template
from tests.manifests.sources import rendered

BASE = Path(__file__).resolve().parents[2] / "manifests" / "base"
PREWARM = BASE.parent / "components" / "prewarm" / "rbac.yaml"
ACCOUNT = "system:serviceaccount:warmslice:warmslice"


@dataclass(frozen=True, slots=True)
class Installed:
    """``identity`` is the service account's folder of the agent's own pod, ``kubeconfig`` says the same to a process."""

    node: AgentNode
    identity: Path
    kubeconfig: Path

    async def kubectl(self, *arguments: str) -> tuple[int, str]:
        """As the administrator: exit code, and all that it printed."""
        return await _kubectl(self.node.cluster.kubeconfig(), *arguments)

    async def warmslice(self, *arguments: str) -> tuple[int, str]:
        """The command, run in the agent's pod."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "agent", *arguments, "--kubeconfig", str(self.kubeconfig),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode or 0, output.decode()

    async def kubectl_of_agent(self, *arguments: str) -> tuple[int, str]:
        """With the token of the agent's pod and nothing else."""
        return await _kubectl(self.kubeconfig, *arguments)


async def _kubectl(kubeconfig: Path, *arguments: str) -> tuple[int, str]:
    """The API server runs in this event loop, so nobody may block it."""
    try:
        program = carried("kubectl")
    except NoKubectlError as error:
        pytest.skip(str(error))
    process = await asyncio.create_subprocess_exec(
        program, *arguments,
        env={"KUBECONFIG": str(kubeconfig), "HOME": str(kubeconfig.parent), "PATH": os.environ["PATH"]},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


@pytest_asyncio.fixture
async def installed(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Installed]:
    """Roles are enforced and nobody comes without a token; the DaemonSet's pod runs, and the agent is about to. The parameter
    is what the node has."""
    async with agent_node(tmp_path, **getattr(request, "param", {})) as node:
        gate = node.cluster.control_plane.server.gate
        gate.authorizer.enforced = True
        gate.authenticator.without_token = None
        code, said = await _kubectl(node.cluster.kubeconfig(), "apply", "-k", str(BASE))
        assert code == 0, said
        node.cluster.label_node(NODE, {"nvidia.com/gpu.present": "true"})
        await node.cluster_until(lambda: bool(_agents(node)), "the agent's pod runs")
        identity = identity_folder(node.kubelet.settings, uid_of(_agents(node)[0]))
        kubeconfig = tmp_path / "pod.kubeconfig"
        write_pod_kubeconfig(kubeconfig, node.cluster.url, identity)
        yield Installed(node, identity, kubeconfig)


def _agents(node: AgentNode) -> list[Object]:
    return [pod for pod in node.cluster.api.all(kinds.PODS, "warmslice") if is_running(pod)]


async def test_what_is_shipped_is_enough_for_a_change_that_moves_pods(installed: Installed) -> None:
    """Every request of the agent is made as its pod's account, and none is refused."""
    node = installed.node
    node.wish("mixed")
    await node.start(kubeconfig=installed.kubeconfig)
    await node.until("success", "mixed")
    await node.run_deployment("web", "nvidia.com/mig-3g.40gb")
    node.wish("small")
    await node.until("success", "small")
    asked = node.cluster.requests(user_agent="warmslice")
    assert {entry.user for entry in asked} == {ACCOUNT}
    assert [(entry.verb, entry.object, entry.status) for entry in asked if entry.status in (401, 403, 422)] == []
    assert {"list", "watch", "patch", "create"} <= {entry.verb for entry in asked}
    evictions = [entry for entry in asked if entry.object.endswith("/eviction")]
    assert [(entry.user, entry.verb, entry.status) for entry in evictions] == [(ACCOUNT, "create", 201)]


@pytest.mark.parametrize("installed", [{"device_plugin": False, "uses_dra": True, "dra_resync_s": 0.05}], indirect=True)
async def test_every_right_that_is_given_is_used_and_none_is_missing(installed: Installed) -> None:
    """A node with slices by claims, in a fleet with a limit: all that an agent ever asks an API server for."""
    node = installed.node
    nvidia_dra_driver.install(node.cluster.api)
    node.wish("small")
    await node.start(kubeconfig=installed.kubeconfig, max_unavailable="50%", namespace="warmslice")
    await node.until("success", "small")
    for _ in range(2):
        # Said twice, an Event is counted.
        node.wish("9x1g.10gb")
        await node.until("failed", "9x1g.10gb")
        node.wish("small")
        await node.until("success", "small")
    node.cluster.create(kinds.CLAIM_TEMPLATES, template("small", request(selectors=of_profile("1g.10gb"))))
    for number in range(5):
        node.cluster.create(
            kinds.PODS, claiming_pod(f"p{number}", template="small", annotations={labels.EVICT: "true"})
        )
        await node.cluster.wait_for(kinds.PODS, f"p{number}", is_running)
    node.wish("mixed")
    await node.until("success", "mixed")
    node.cluster.create(kinds.RESOURCE_CLAIMS, claim("never"))
    node.cluster.create(kinds.PODS, claiming_pod("waits", claims=["never"], node=NODE))
    refused = "FailedPrepareDynamicResources"
    await node.cluster.wait_for_any(kinds.EVENTS, lambda event: event["reason"] == refused)
    node.wish("small")
    await node.cluster_until(lambda: node.status().get("reason") == "pod-starting", "the pod is waited for")
    code, said = await installed.warmslice("status", NODE)
    assert code == 0, said
    await node.stop()
    asked = node.cluster.requests(user_agent="warmslice")
    assert {entry.user for entry in asked} == {ACCOUNT}
    assert [(entry.verb, entry.object, entry.status) for entry in asked if entry.status in (401, 403, 422)] == []
    assert {used for entry in asked if (used := _right(entry)) is not None} == granted()


def _right(entry: LoggedRequest) -> tuple[str, str] | None:
    """(verb, resource) of a request for a resource."""
    try:
        target = parse_target(entry.path)
    except ApiError:
        return None
    return entry.verb, "/".join(filter(None, (target.kind.plural, target.subresource)))


def granted(shipped: Iterable[Object] = ()) -> set[tuple[str, str]]:
    """(verb, resource) of every rule of every role that is shipped, in the base where nothing is named."""
    roles = [one for one in shipped or rendered() if one["kind"] in ("Role", "ClusterRole")]
    rules = [rule for role in roles for rule in role["rules"]]
    return {(verb, resource) for rule in rules for resource in rule["resources"] for verb in rule["verbs"]}


async def test_what_is_shipped_for_prewarming_is_enough_and_all_of_it_is_used(
    installed: Installed, tmp_path: Path
) -> None:
    """But for kinds that this cluster does not have. No other ConfigMap of the namespace can be read, or written."""
    node = installed.node
    code, said = await installed.kubectl("apply", "-f", str(PREWARM))
    assert code == 0, said
    declared = "models: [{repository: org/x, endpoint: 'http://127.0.0.1:9'}]\n"
    (tmp_path / "catalog.yaml").write_text(declared, "utf-8")
    container = {"name": "main", "image": "vllm/vllm-openai", "args": ["--model", "org/x"]}
    served = {"metadata": {"name": "served"}, "spec": {"containers": [container], "nodeName": NODE}}
    template = {"metadata": {"labels": {"app": "s"}}, "spec": {"containers": [container]}}
    wish = {"replicas": 0, "selector": {"matchLabels": {"app": "s"}}, "template": template}
    node.cluster.create(kinds.DEPLOYMENTS, {"metadata": {"name": "wants"}, "spec": wish})
    await node.start(
        "cache",
        kubeconfig=installed.kubeconfig,
        catalog_file=tmp_path / "catalog.yaml",
        cache_directory=tmp_path / "hub-cache",
        namespace="warmslice",
        prewarm="declared",
    )
    await node.cluster_until(lambda: node.cluster.find(kinds.CONFIGMAPS, DEMAND, "warmslice") is not None, "published")
    node.cluster.create(kinds.PODS, served)
    await node.cluster_until(lambda: labels.MODELS in str(node.node()["metadata"]), "a start was counted")
    asked = node.cluster.requests(user_agent="warmslice")
    absent = {"rayservices", "rayclusters"}
    later = {
        ("patch", "configmaps"),
        ("patch", "events"),
        ("create", "events"),
    }  # what is said again, or of who cannot fit
    assert {entry.user for entry in asked} == {ACCOUNT}
    refused = [(entry.verb, entry.object, entry.status) for entry in asked if entry.status in (401, 403, 422)]
    assert refused == []
    rights = {used for entry in asked if (used := _right(entry)) is not None}
    given = granted(tuple(yaml.safe_load_all(PREWARM.read_text("utf-8"))))
    assert {right for right in given if right[1] not in absent} - later <= rights
    for question in ("get configmaps/warmslice-settings", "patch configmaps/warmslice-settings", "list configmaps"):
        code, said = await installed.kubectl_of_agent("auth", "can-i", *question.split(), "--namespace", "warmslice")
        assert (code, said.splitlines()[-1]) == (1, "no"), question


async def test_what_is_shipped_is_enough_for_slots_of_the_fleet(installed: Installed) -> None:
    """Every verb on Leases that is given is used, and none is missing: asked for, granted to itself, given back, resigned."""
    node = installed.node
    node.wish("mixed")
    await node.start(kubeconfig=installed.kubeconfig, max_unavailable="50%", namespace="warmslice")
    await node.until("success", "mixed")
    await node.cluster_until(lambda: slots(node) == [], "the slot is given back")
    await node.stop()
    asked = node.cluster.requests(user_agent="warmslice")
    assert [(entry.verb, entry.object, entry.status) for entry in asked if entry.status in (401, 403, 422)] == []
    of_leases = {entry.verb for entry in asked if "/leases" in entry.path}
    assert of_leases == {"get", "list", "watch", "create", "patch", "delete"}
    (leader,) = node.cluster.api.all(kinds.LEASES, "warmslice")
    assert leader["spec"].get("holderIdentity") is None


def slots(node: AgentNode) -> list[str]:
    """Leases that ask for a slot, or have one."""
    names = [name_of(lease) for lease in node.cluster.api.all(kinds.LEASES, "warmslice")]
    return [name for name in names if name.startswith(SLOT_PREFIX)]


async def test_what_is_shipped_is_enough_to_open_the_start_up_gate_and_takes_no_other_taint(
    installed: Installed,
) -> None:
    node = installed.node
    other = {"key": "example.org/other", "value": "x", "effect": "NoSchedule"}
    gate = {"key": labels.WARMING, "effect": labels.WARMING_EFFECT}
    tolerant = {"spec": {"template": {"spec": {"tolerations": [{"operator": "Exists"}]}}}}
    node.cluster.merge(kinds.DAEMONSETS, gpu_operator.DEVICE_PLUGIN, tolerant, gpu_operator.NAMESPACE)
    node.cluster.merge(kinds.NODES, NODE, {"spec": {"taints": [gate, other]}})
    node.wish("small")
    catalog = node.folder / "catalog.yaml"
    catalog.write_text("models: []\n", "utf-8")
    cache = node.folder / "hub-cache"
    await node.start("all", kubeconfig=installed.kubeconfig, catalog_file=catalog, cache_directory=cache)
    await node.cluster_until(lambda: node.node()["spec"]["taints"] == [other], "the gate is open")
    assert (node.status()["reason"], labels.GATE in node.node()["metadata"]["annotations"]) == ("applied", False)
    asked = node.cluster.requests(user_agent="warmslice")
    assert [(entry.verb, entry.object, entry.status) for entry in asked if entry.status in (401, 403, 422)] == []
    code, said = await installed.kubectl_of_agent("taint", "node", NODE, "example.org/other-")
    assert (code, "takes the start-up gate away, and changes nothing else" in said) == (1, True)


async def test_without_a_limit_no_lease_is_asked_for(installed: Installed) -> None:
    node = installed.node
    node.wish("mixed")
    await node.start(kubeconfig=installed.kubeconfig)
    await node.until("success", "mixed")
    assert [entry for entry in node.cluster.requests(user_agent="warmslice") if "leases" in entry.path] == []


async def test_a_pod_finds_its_account_where_it_looks_for_it(installed: Installed) -> None:
    assert (installed.identity / "namespace").read_text() == "warmslice"
    assert (installed.identity / "ca.crt").read_text() == installed.node.cluster.control_plane.authority.pem
    _, said = await installed.kubectl_of_agent("auth", "whoami", "-o", "json")
    user = json.loads(said)["status"]["userInfo"]
    assert user["username"] == ACCOUNT
    assert user["extra"]["authentication.kubernetes.io/node-name"] == [NODE]


async def test_kubectl_says_of_the_agents_token_what_the_manifest_gives_and_no_more(installed: Installed) -> None:
    """Besides what every authenticated user may: ask about themselves, and read the discovery documents."""
    token = ("--token", (installed.identity / "token").read_text())
    _, said = await installed.kubectl("auth", "can-i", "--list", "--namespace", "warmslice", *token)
    rows = [line.split("  ") for line in said.splitlines()[1:]]
    granted = {row[0]: row[-1].strip() for row in rows if row[0] and not row[0].startswith("self")}
    assert granted == {
        "nodes": "[get list watch patch]",
        "pods": "[list watch delete]",
        "pods/eviction": "[create]",
        "poddisruptionbudgets.policy": "[list]",
        "resourceslices.resource.k8s.io": "[list watch]",
        "resourceclaims.resource.k8s.io": "[get]",
        "leases.coordination.k8s.io": "[get list watch create patch delete]",
    }
    for verb in ("create", "patch"):
        code, said = await installed.kubectl("auth", "can-i", verb, "events", "--namespace", "default", *token)
        assert (code, said) == (0, "yes\n"), verb
    code, said = await installed.kubectl("auth", "can-i", "get", "leases", "--namespace", "kube-node-lease", *token)
    assert code == 1, said
    for asked in ("get secrets", "patch nodes --subresource=status", "create pods", "delete nodes"):
        code, said = await installed.kubectl("auth", "can-i", *asked.split(), "--namespace", "warmslice", *token)
        assert (code, said.splitlines()[-1]) == (1, "no"), asked


async def test_kubectl_with_the_agents_token_is_held_to_the_agents_node(installed: Installed) -> None:
    installed.node.cluster.create(kinds.NODES, bare_node("gpu-2"))
    code, said = await installed.kubectl_of_agent("label", "node", NODE, f"{labels.STATE}=success")
    assert code == 0, said
    for refused in (("gpu-2", f"{labels.STATE}=success"), (NODE, "team=b")):
        code, said = await installed.kubectl_of_agent("label", "node", *refused)
        assert code == 1
        assert "is forbidden: ValidatingAdmissionPolicy 'warmslice-node'" in said


async def test_a_token_of_nobodys_is_not_let_in(installed: Installed) -> None:
    code, said = await installed.kubectl("get", "nodes", "--token", "nobodys")
    assert (code, said) == (1, "error: You must be logged in to the server (Unauthorized)\n")


_AS_IN_A_CONTAINER = """\
mount -t tmpfs none "$(readlink -f /var/run)" || exit 77
mkdir -p /var/run/secrets/kubernetes.io
ln -s "$1" /var/run/secrets/kubernetes.io/serviceaccount
shift
exec "$@"
"""


async def test_the_agent_finds_its_account_without_a_kubeconfig_as_in_a_container(installed: Installed) -> None:
    """In a mount namespace of its own, where the machine allows one."""
    url = urlsplit(installed.node.cluster.url)
    there = {"KUBERNETES_SERVICE_HOST": str(url.hostname), "KUBERNETES_SERVICE_PORT": str(url.port)}
    process = await asyncio.create_subprocess_exec(
        "unshare", "--mount", "--map-root-user", "sh", "-c", _AS_IN_A_CONTAINER, "sh", str(installed.identity),
        sys.executable, "-m", "agent", "status", NODE,
        env={"PATH": os.environ["PATH"], **there},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, errors = await process.communicate()
    if process.returncode == 77 or b"unshare" in errors:
        pytest.skip(f"no mount namespace here: {errors.decode().strip()}")
    assert process.returncode == 0, errors.decode()
    assert NODE in output.decode()
    assert [entry.user for entry in installed.node.cluster.requests(user_agent="warmslice")] == [ACCOUNT]
