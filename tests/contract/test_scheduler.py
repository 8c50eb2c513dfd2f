"""Where the scheduler puts a pod, what it says when it cannot, and whom it pushes aside."""

from __future__ import annotations

from typing import Any

from hack.devcluster import kinds
from hack.devcluster.api import Api, DeleteOptions
from hack.devcluster.objects import Object, clone, conditions_of, dig, is_deleting
from hack.devcluster.scheduler import sync_pending_pods
from tests.fakes.devcluster import bare_node, simple_pod

GPU = "nvidia.com/gpu"
NO_VICTIMS = (
    "no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
)
NOT_HELPFUL = (
    "no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
)
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def cluster_of(*nodes: Object) -> Api:
    api = Api()
    api.create(kinds.NAMESPACES, "", {"metadata": {"name": "default"}})
    for node in nodes:
        api.create(kinds.NODES, "", node)
    return api


def gpu_node(name: str, gpus: int = 1, **labels: str) -> Object:
    return bare_node(name, labels={"kubernetes.io/hostname": name, **labels}, allocatable={GPU: str(gpus)})


def create(
    api: Api, name: str, gpus: int = 0, labels: dict[str, str] | None = None, priority: int = 0, **spec: Any
) -> None:
    pod = simple_pod(name, labels=labels, resources={GPU: gpus} if gpus else None)
    pod["spec"] |= spec
    if priority:
        pod["spec"]["priorityClassName"] = class_of(api, priority)
    api.create(kinds.PODS, "default", pod)


def class_of(api: Api, value: int) -> str:
    """A pod has its priority from a class and in no other way."""
    name = f"priority-{value}"
    if api.find(kinds.PRIORITY_CLASSES, "", name) is None:
        api.create(kinds.PRIORITY_CLASSES, "", {"metadata": {"name": name}, "value": value})
    return name


def pod(api: Api, name: str) -> Object:
    return api.get(kinds.PODS, "default", name)


def node_of(api: Api, name: str) -> str:
    sync_pending_pods(api)
    return str(dig(pod(api, name), "spec.nodeName", ""))


def why_pending(api: Api, name: str) -> str:
    sync_pending_pods(api)
    return next(str(c["message"]) for c in conditions_of(pod(api, name)) if c["type"] == "PodScheduled")


def run(api: Api, name: str) -> None:
    """As its kubelet would report it."""
    current = clone(pod(api, name))
    current["status"]["phase"] = "Running"
    api.change(kinds.PODS, "default", name, lambda _: current, subresource="status")


def _at_once() -> DeleteOptions:
    return DeleteOptions(grace_seconds=0)


def near(key: str, side: str, **labels: str) -> Object:
    term = {"labelSelector": {"matchLabels": labels}, "topologyKey": key}
    return {side: {REQUIRED: [term]}}


def test_what_is_too_little_is_named_with_what_preemption_says() -> None:
    api = cluster_of(gpu_node("a"))
    create(api, "first", 1)
    create(api, "second", 1)
    sync_pending_pods(api)
    assert node_of(api, "first") == "a"
    assert why_pending(api, "second") == f"0/1 nodes are available: 1 Insufficient {GPU}. {NO_VICTIMS}"
    events = [event for event in api.all(kinds.EVENTS) if event["reason"] == "FailedScheduling"]
    assert [(e["type"], e["message"]) for e in events] == [("Warning", why_pending(api, "second"))]


def test_more_than_the_node_ever_has_cannot_be_helped_by_preemption() -> None:
    api = cluster_of(gpu_node("a"))
    create(api, "huge", 2)
    assert why_pending(api, "huge") == f"0/1 nodes are available: 1 Insufficient {GPU}. {NOT_HELPFUL}"


def test_reasons_are_counted_over_the_nodes() -> None:
    tainted = gpu_node("c")
    tainted["spec"] = {"taints": [{"key": "warmslice.dev/warming", "effect": "NoSchedule"}]}
    cordoned = gpu_node("b")
    cordoned["spec"] = {"unschedulable": True}
    api = cluster_of(gpu_node("a", 0), cordoned, tainted)
    create(api, "p", 1)
    said = why_pending(api, "p").partition(" no new claims")[0]
    assert said == (
        f"0/3 nodes are available: 1 Insufficient {GPU}, 1 node(s) had untolerated taint {{warmslice.dev/warming: }}, "
        "1 node(s) were unschedulable."
    )


def test_no_node_at_all_is_said_plainly() -> None:
    api = cluster_of()
    create(api, "p")
    assert why_pending(api, "p") == "no nodes available to schedule pods"


def test_a_node_selector_and_required_affinity_both_bind() -> None:
    api = cluster_of(gpu_node("a", zone="x"), gpu_node("b", zone="y"))
    create(api, "p", nodeSelector={"zone": "y"})
    assert node_of(api, "p") == "b"
    term = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["z"]}]}
    create(api, "q", affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}})
    assert why_pending(api, "q").startswith(
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    )


def test_node_affinity_compares_numbers() -> None:
    api = cluster_of(gpu_node("a", count="2"), gpu_node("b", count="10"))
    term = {"matchExpressions": [{"key": "count", "operator": "Gt", "values": ["9"]}]}
    create(api, "p", affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [term]}}})
    assert node_of(api, "p") == "b"


def test_a_preference_decides_among_possible_nodes_only() -> None:
    api = cluster_of(gpu_node("a", 1), gpu_node("b", 1, disk="ssd"))
    wish = {"weight": 5, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}}
    affinity = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}
    create(api, "first", 1, affinity=affinity)
    assert node_of(api, "first") == "b"
    create(api, "second", 1, affinity=affinity)
    assert node_of(api, "second") == "a"


def test_a_soft_taint_is_avoided_but_not_forbidden() -> None:
    soft = gpu_node("a")
    soft["spec"] = {"taints": [{"key": "busy", "effect": "PreferNoSchedule"}]}
    api = cluster_of(soft, gpu_node("b"))
    create(api, "first", 1)
    assert node_of(api, "first") == "b"
    create(api, "second", 1)
    assert node_of(api, "second") == "a"


def test_pods_that_repel_each_other_share_no_node() -> None:
    api = cluster_of(gpu_node("a"), gpu_node("b"))
    apart = near("kubernetes.io/hostname", "podAntiAffinity", app="web")
    for name in ("p1", "p2", "p3"):
        create(api, name, labels={"app": "web"}, affinity=apart)
    assert {node_of(api, "p1"), node_of(api, "p2")} == {"a", "b"}
    assert why_pending(api, "p3").startswith("0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.")


def test_a_pod_already_there_keeps_away_whom_it_repels() -> None:
    api = cluster_of(gpu_node("a"))
    create(api, "loner", affinity=near("kubernetes.io/hostname", "podAntiAffinity", app="web"))
    assert node_of(api, "loner") == "a"
    create(api, "web", labels={"app": "web"})
    assert why_pending(api, "web").startswith(
        "0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules."
    )


def test_a_pod_goes_where_the_one_it_belongs_with_is() -> None:
    api = cluster_of(gpu_node("a", zone="x"), gpu_node("b", zone="y"), gpu_node("c", zone="y"))
    together = near("zone", "podAffinity", app="db")
    create(api, "early", affinity=together)
    assert why_pending(api, "early").startswith("0/3 nodes are available: 3 node(s) didn't match pod affinity rules.")
    create(api, "db", labels={"app": "db"}, nodeSelector={"kubernetes.io/hostname": "c"})
    assert node_of(api, "db") == "c"
    assert node_of(api, "early") in ("b", "c")


def test_the_more_important_pod_is_served_first() -> None:
    api = cluster_of(gpu_node("a"))
    create(api, "a-first-by-name", 1)
    create(api, "urgent", 1, priority=100)
    assert node_of(api, "urgent") == "a"
    assert node_of(api, "a-first-by-name") == ""


def test_a_more_important_pod_pushes_the_least_important_aside() -> None:
    api = cluster_of(gpu_node("a", 2))
    create(api, "low", 1, priority=1)
    create(api, "middle", 1, priority=5)
    for name in ("low", "middle"):
        assert node_of(api, name) == "a"
        run(api, name)
    create(api, "urgent", 1, priority=100)
    assert node_of(api, "urgent") == ""
    assert is_deleting(pod(api, "low"))
    assert not is_deleting(pod(api, "middle"))
    assert dig(pod(api, "urgent"), "status.nominatedNodeName") == "a"
    [target] = [c for c in conditions_of(pod(api, "low")) if c["type"] == "DisruptionTarget"]
    assert target["reason"] == "PreemptionByScheduler"
    sync_pending_pods(api)
    assert not is_deleting(pod(api, "middle"))


def test_a_promised_place_is_kept_from_less_important_pods() -> None:
    api = cluster_of(gpu_node("a", 2))
    create(api, "low", 1, priority=1)
    sync_pending_pods(api)
    create(api, "urgent", 2, priority=100)
    sync_pending_pods(api)
    create(api, "sneaky", 1, priority=2)
    assert node_of(api, "sneaky") == ""
    api.delete(kinds.PODS, "default", "low", _at_once())
    assert node_of(api, "urgent") == "a"
    assert node_of(api, "sneaky") == ""


def test_who_must_not_preempt_waits() -> None:
    api = cluster_of(gpu_node("a"))
    create(api, "low", 1, priority=1)
    sync_pending_pods(api)
    polite = {"metadata": {"name": "polite"}, "value": 100, "preemptionPolicy": "Never"}
    api.create(kinds.PRIORITY_CLASSES, "", polite)
    create(api, "polite", 1, priorityClassName="polite")
    assert dig(pod(api, "polite"), "spec.preemptionPolicy") == "Never"
    assert why_pending(api, "polite").endswith("preemption: not eligible due to preemptionPolicy=Never.")
    assert not is_deleting(pod(api, "low"))


def test_equals_do_not_push_each_other_aside() -> None:
    api = cluster_of(gpu_node("a"))
    create(api, "one", 1, priority=7)
    sync_pending_pods(api)
    create(api, "two", 1, priority=7)
    assert why_pending(api, "two").endswith(NO_VICTIMS)
    assert not is_deleting(pod(api, "one"))


def test_a_pod_without_a_spent_budget_goes_before_one_with() -> None:
    api = cluster_of(gpu_node("a"), gpu_node("b"))
    create(api, "guarded", 1, labels={"app": "web"}, priority=1)
    create(api, "plain", 1, priority=1)
    sync_pending_pods(api)
    budget = {"metadata": {"name": "web"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}
    api.create(kinds.BUDGETS, "default", budget)
    create(api, "urgent", 1, priority=100)
    sync_pending_pods(api)
    assert is_deleting(pod(api, "plain"))
    assert not is_deleting(pod(api, "guarded"))
