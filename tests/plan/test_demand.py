"""Where pods of workloads may come, which models that brings to a node and in what order, and how demand is written down."""

from __future__ import annotations

import json
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.desired.demand import demands_of, place_of
from agent.desired.recognise import recognise
from agent.model import labels
from agent.model.catalog import Catalog, CatalogModel, is_repository
from agent.model.demand import Allowed, Demand, Named, Rank, Role
from agent.model.demand_map import MOST_BYTES, read, written
from agent.model.node import Taint
from agent.model.place import Place
from agent.observe.cluster import node_of
from agent.plan.demand import NodeSide, choose, fits, publishable
from hack.devcluster.scheduling import lasting_reason_against, shortages

KEYS = ("zone", "gpu", "team")
VALUES = ("a", "b", "7", "12")
RESOURCES = ("nvidia.com/mig-1g.10gb", "nvidia.com/mig-3g.40gb", "nvidia.com/gpu")
NOTHING = Catalog({}, {})
ANYTHING = Allowed({"*": ("*",)})


# -- where ------------------------------------------------------------------------------------------------------------


@st.composite
def requirements(draw: st.DrawFn) -> dict[str, Any]:
    operator = draw(st.sampled_from(("In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt")))
    values = {"In": 2, "NotIn": 2, "Gt": 1, "Lt": 1}.get(operator, 0)
    some = st.sampled_from(("7", "12", "9")) if operator in ("Gt", "Lt") else st.sampled_from(VALUES)
    chosen = {"values": draw(st.lists(some, min_size=1, max_size=values))} if values else {}
    return {"key": draw(st.sampled_from(KEYS)), "operator": operator, **chosen}


@st.composite
def tolerations(draw: st.DrawFn) -> dict[str, str]:
    effect = draw(st.sampled_from(("", "NoSchedule", "NoExecute")))
    found = {"effect": effect} if effect else {}
    match draw(st.sampled_from(("all", "key", "value"))):
        case "all":
            return {"operator": "Exists", **found}
        case "key":
            return {"key": draw(st.sampled_from(KEYS)), "operator": "Exists", **found}
        case _:
            return {"key": draw(st.sampled_from(KEYS)), "value": draw(st.sampled_from(VALUES)), **found}


@st.composite
def pod_specs(draw: st.DrawFn) -> dict[str, Any]:
    expressions = st.lists(requirements(), max_size=2)
    fields = st.sampled_from(([], [{"key": "metadata.name", "operator": "In", "values": ["gpu-1"]}]))
    terms = st.builds(lambda e, f: {"matchExpressions": e, "matchFields": f}, expressions, fields)
    required = draw(st.none() | st.lists(terms, min_size=1, max_size=2))
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": required}}}
    limits = draw(st.dictionaries(st.sampled_from(RESOURCES), st.integers(1, 3).map(str), max_size=2))
    return {
        "nodeSelector": draw(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=1)),
        "affinity": affinity if required is not None else None,
        "tolerations": draw(st.lists(tolerations(), max_size=2)),
        "containers": [{"name": "main", "resources": {"limits": limits, "requests": limits}}],
    }


@st.composite
def nodes(draw: st.DrawFn) -> dict[str, Any]:
    taint = st.fixed_dictionaries(
        {
            "key": st.sampled_from(KEYS),
            "value": st.sampled_from(VALUES),
            "effect": st.sampled_from(("NoSchedule", "NoExecute", "PreferNoSchedule")),
        }
    )
    name = draw(st.sampled_from(("gpu-1", "gpu-2")))
    here = draw(st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3))
    has = draw(st.dictionaries(st.sampled_from(RESOURCES), st.integers(0, 3).map(str), max_size=3))
    return {
        "metadata": {"name": name, "labels": here},
        "spec": {"taints": draw(st.lists(taint, max_size=2))},
        "status": {"allocatable": {"pods": "110", **has}},
    }


def side(node: dict[str, Any]) -> NodeSide:
    taints = tuple(Taint(one["key"], one["effect"], one) for one in node["spec"]["taints"])
    offers = {name: int(count) for name, count in node["status"]["allocatable"].items()}
    return NodeSide(node["metadata"]["name"], node["metadata"]["labels"], taints, offers)


@given(pod_specs(), nodes())
def test_a_model_comes_where_the_scheduler_could_send_the_pod(spec: dict[str, Any], node: dict[str, Any]) -> None:
    """Checked against the development scheduler, which has another way to the answer."""
    pod = {"metadata": {"name": "p", "namespace": "d"}, "spec": {k: v for k, v in spec.items() if v is not None}}
    could = not lasting_reason_against(pod, node) and not shortages(pod, node, [])
    assert fits(place_of(spec), side(node)) == could


@given(pod_specs(), nodes())
def test_what_passes_by_itself_is_no_obstacle(spec: dict[str, Any], node: dict[str, Any]) -> None:
    """A cordon, a node that is not ready yet, our own gate; and a model's label, which comes with the model."""
    before = fits(place_of(spec), side(node))
    passing = ("node.kubernetes.io/unschedulable", "node.kubernetes.io/not-ready", labels.WARMING)
    more = [{"key": key, "value": "", "effect": "NoSchedule"} for key in passing]
    tainted = {**node, "spec": {"taints": [*node["spec"]["taints"], *more]}}
    asking = {**spec, "nodeSelector": {**spec["nodeSelector"], f"{labels.MODEL_PREFIX}org--x": "ready"}}
    assert fits(place_of(asking), side(tainted)) == before


@given(st.recursive(st.none() | st.booleans() | st.text(max_size=3), lambda x: st.lists(x, max_size=2), max_leaves=5))
def test_a_specification_of_odd_types_has_a_place_all_the_same(odd: Any) -> None:
    keys = ("nodeSelector", "affinity", "tolerations", "containers", "initContainers", "priority")
    for key in keys:
        place_of({key: odd})
        place_of({key: [{"key": odd, "values": odd, "resources": odd}]})
        place_of(
            {key: {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": odd}}}}
        )


def test_what_asks_for_more_than_the_wished_layout_has_does_not_come() -> None:
    place = Place(resources=(("nvidia.com/mig-3g.40gb", 2),))
    there = NodeSide("gpu-1", {}, (), {"nvidia.com/mig-3g.40gb": 1})
    assert not fits(place, there)
    assert fits(place, replace(there, offers={"nvidia.com/mig-3g.40gb": 2}))


def test_init_containers_ask_one_after_the_other_and_sidecars_beside_the_others() -> None:
    def container(count: int, **more: str) -> dict[str, Any]:
        return {"resources": {"limits": {"nvidia.com/gpu": str(count)}}, **more}

    spec = {"containers": [container(1), container(1)], "initContainers": [container(3), container(2)]}
    assert place_of(spec).resources == (("nvidia.com/gpu", 3),)
    spec["initContainers"] = [container(2, restartPolicy="Always")]
    assert place_of(spec).resources == (("nvidia.com/gpu", 4),)


# -- what -------------------------------------------------------------------------------------------------------------

REPOSITORIES = ("org/a", "org/b", "meta/c", "meta/d-8B")
demands = st.builds(
    Demand,
    st.builds(Named, st.sampled_from(REPOSITORIES), st.sampled_from(("main", "v1")), st.sampled_from(tuple(Role))),
    st.sampled_from(("vllm", "tgi", "other")),
    st.sampled_from(("serving-a", "serving-b", "lab")),
    st.sampled_from((Rank.HISTORY, Rank.WORKLOAD, Rank.PENDING, Rank.HERE)),
    st.integers(-5, 5),
    st.sampled_from((Place(), Place((("zone", "a"),)), Place(resources=(("nvidia.com/gpu", 1),)))),
)
allowances = st.dictionaries(
    st.sampled_from(("serving-*", "lab", "*", "none")),
    st.lists(st.sampled_from(("org/*", "meta/d*", "x/*"))).map(tuple),
).map(Allowed)
catalogs = st.lists(st.sampled_from(REPOSITORIES), unique=True, max_size=3).map(
    lambda names: Catalog({n.replace("/", "--"): CatalogModel(n.replace("/", "--"), n) for n in names}, {})
)


@given(catalogs, st.lists(demands, max_size=8), st.none() | allowances, st.integers(0, 4), st.integers(0, 3))
def test_what_comes_is_declared_or_allowed_and_the_most_urgent_goes_first(
    catalog: Catalog, wishes: list[Demand], allowed: Allowed | None, most: int, here: int
) -> None:
    declared = tuple(catalog.models.values())[:here]
    choice = choose(catalog, declared, wishes, allowed, most)
    names = {(m.repository, m.revision) for m in declared}
    came = [one for one in choice.wanted if (one.model.repository, one.model.revision) not in names]

    def may(demand: Demand) -> bool:
        return allowed is not None and any(
            fnmatchcase(demand.namespace, space) and fnmatchcase(demand.named.repository, model)
            for space, models in allowed.models.items()
            for model in models
        )

    best: dict[tuple[str, str], Rank] = {}
    for demand in wishes:
        key = (demand.named.repository, demand.named.revision)
        if may(demand) or key in names:
            best[key] = max(best.get(key, Rank.HISTORY), demand.rank)
    assert {(one.model.repository, one.model.revision) for one in came} <= set(best) - names
    assert len(came) == min(most, len(set(best) - names))
    assert choice.over == max(0, len(set(best) - names) - most)
    assert {m.name for m in declared} <= {one.model.name for one in choice.wanted}
    for one in choice.wanted:
        own = best.get((one.model.repository, one.model.revision), Rank.HISTORY)
        assert one.rank == (max(own, Rank.DECLARED) if one not in came else own)
    assert [one.rank for one in choice.wanted] == sorted((one.rank for one in choice.wanted), reverse=True)
    assert len({one.model.name for one in choice.wanted}) == len(choice.wanted)
    if allowed is None:
        assert (came, choice.refused) == ([], ())


def test_two_revisions_of_a_repository_have_two_labels() -> None:
    wishes = [Demand(Named("org/a", revision), "vllm", "x", Rank.HERE) for revision in ("main", "v1", "refs/pr/1")]
    names = {one.model.name for one in choose(NOTHING, (), wishes, ANYTHING, 9).wanted}
    assert {"org--a", "org--a--v1"} < names
    assert len(names) == 3


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Named("o/n", "refs/pr/1"), Named("o/n", "refs--pr--1")),
        (Named("o/n"), Named("o/n_")),
        (Named("meta-llama/" + "L" * 46), Named("meta-llama/" + "L" * 46 + "_")),
    ],
)
def test_names_that_labels_cannot_tell_apart_get_a_mark(one: Named, other: Named) -> None:
    for wishes in ((one, other), (other, one)):
        demands = [Demand(named, "vllm", "x", Rank.WORKLOAD) for named in wishes]
        names = {w.model.name: w.model for w in choose(NOTHING, (), demands, ANYTHING, 9).wanted}
        assert {(m.repository, m.revision) for m in names.values()} == {
            (n.repository, n.revision) for n in (one, other)
        }


def test_no_namespace_takes_all_the_places_of_a_node() -> None:
    """However urgent its pods are; only what pods of this node wait for comes first."""
    flood = [Demand(Named(f"org/flood-{n}"), "vllm", "loud", Rank.PENDING, 9) for n in range(40)]
    quiet = [Demand(Named(f"org/quiet-{n}"), "vllm", "quiet", Rank.WORKLOAD) for n in range(5)]
    here = Demand(Named("org/here"), "vllm", "third", Rank.HERE)
    choice = choose(NOTHING, (), [*flood, *quiet, here], ANYTHING, 12)
    names = [one.model.repository for one in choice.wanted]
    assert (names[0], len(names), sum("quiet" in name for name in names)) == ("org/here", 12, 5)


def test_nor_all_the_room_of_what_is_published() -> None:
    flood = [Demand(Named(f"org/{'x' * 60}{n}"), "vllm", "loud", Rank.PENDING, 9) for n in range(900)]
    quiet = [Demand(Named(f"org/quiet-{n}"), "vllm", f"quiet-{n}", Rank.WORKLOAD) for n in range(20)]
    text, dropped = written([*flood, *quiet])
    assert dropped
    assert {one.named.repository for one in read(text)} >= {one.named.repository for one in quiet}


def test_a_pod_gets_the_toleration_for_what_it_asks_for_when_it_is_made() -> None:
    """By the admission plugin that GKE and others run; its template has none."""
    node = NodeSide(
        "n", {}, (Taint("nvidia.com/gpu", "NoSchedule", {"value": "present"}),), {"nvidia.com/mig-1g.10gb": 7}
    )
    assert fits(Place(resources=(("nvidia.com/mig-1g.10gb", 1),)), node)
    assert not fits(Place(), node)


def test_what_the_catalog_does_with_a_model_elsewhere_no_workload_can_ask_for() -> None:
    """To keep a starting node shut, to keep a model for ever, to fill memory."""
    entry = CatalogModel("mine", "org/a", nodes=(("zone", "b"),), gate=True, pin=True, page_cache=True)
    (one,) = choose(
        Catalog({"mine": entry}, {}), (), [Demand(Named("org/a"), "vllm", "x", Rank.HERE)], ANYTHING, 9
    ).wanted
    assert (one.model.gate, one.model.pin, one.model.page_cache) == (False, False, False)


def test_the_state_of_the_layout_and_another_name_of_a_shared_slice_are_no_obstacle() -> None:
    node = NodeSide("n", {}, (), {"nvidia.com/mig-1g.10gb": 7})
    assert fits(
        Place((("nvidia.com/mig.config.state", "success"),), None, (), (("nvidia.com/mig-1g.10gb.shared", 1),)), node
    )


def test_a_template_that_names_its_node_comes_nowhere_else() -> None:
    node = NodeSide("gpu-1", {}, (), {})
    assert fits(place_of({"nodeName": "gpu-1"}), node)
    assert not fits(place_of({"nodeName": "gpu-2"}), node)


def test_numbers_beyond_all_bounds_are_no_wish_and_spoil_no_text() -> None:
    """A quantity of five thousand digits, a priority of twenty."""
    container = {
        "name": "c",
        "command": ["vllm", "serve", "org/a"],
        "resources": {"limits": {"nvidia.com/gpu": "1" * 5000}},
    }
    spec = {"containers": [container], "priority": 10**19}
    (one,) = demands_of(spec, recognise(spec), "x", Rank.PENDING)
    assert (one.place.resources, one.priority) == ((), 2**31 - 1)
    good = Demand(Named("org/b"), "vllm", "y", Rank.WORKLOAD)
    assert {d.named.repository for d in read(written([one, good])[0])} == {"org/a", "org/b"}
    node = {"metadata": {"name": "n"}, "status": {"allocatable": {"nvidia.com/gpu": "1" * 5000}}}
    assert node_of(node).allocatable == {}


def test_a_pod_of_thousands_of_adapters_or_places_is_bounded() -> None:
    adapters = [f"a{n}=org/adapter-{n}" for n in range(5000)]
    container = {"name": "c", "command": ["vllm", "serve", "org/a", "--lora-modules", *adapters]}
    spec: dict[str, Any] = {"containers": [container]}
    assert len(demands_of(spec, recognise(spec), "x", Rank.HERE)) == 32
    spec["nodeSelector"] = {f"key-{n}": "v" * 60 for n in range(200)}
    assert demands_of(spec, recognise(spec), "x", Rank.HERE) == ()


def test_a_name_that_the_catalog_uses_otherwise_is_left_to_it() -> None:
    catalog = Catalog({"org--a": CatalogModel("org--a", "org/other")}, {})
    (one,) = choose(catalog, (), [Demand(Named("org/a"), "vllm", "x", Rank.HERE)], ANYTHING, 9).wanted
    assert (one.model.repository, one.model.name.startswith("org--a-"), len(one.model.name)) == ("org/a", True, 15)


def test_a_tokenizer_comes_without_weights_unless_somebody_reads_those() -> None:
    words = Demand(Named("org/a", role=Role.TOKENIZER), "vllm", "x", Rank.HERE)
    (one,) = choose(NOTHING, (), [words], ANYTHING, 9).wanted
    assert "*.safetensors" in (one.model.ignore_patterns or ())
    (one,) = choose(NOTHING, (), [words, Demand(Named("org/a"), "vllm", "x", Rank.WORKLOAD)], ANYTHING, 9).wanted
    assert (one.model.ignore_patterns, one.model.engine, one.rank) == (None, "vllm", Rank.HERE)


def test_where_two_servers_read_a_model_what_either_needs_comes() -> None:
    wishes = [Demand(Named("org/a"), server, "x", Rank.HERE) for server in ("vllm", "tgi")]
    assert [one.model.engine for one in choose(NOTHING, (), wishes, ANYTHING, 9).wanted] == [None]


def test_what_the_catalog_says_of_a_model_holds_where_only_a_workload_wants_it() -> None:
    entry = CatalogModel("mine", "org/a", endpoint="https://mirror", nodes=(("zone", "b"),), priority=3)
    (one,) = choose(
        Catalog({"mine": entry}, {}), (), [Demand(Named("org/a"), "vllm", "x", Rank.PENDING, 1)], ANYTHING, 9
    ).wanted
    assert (one.model, one.rank) == (entry, Rank.PENDING)


# -- as it is published -----------------------------------------------------------------------------------------------

published = st.lists(
    demands.map(lambda d: replace(d, rank=max(d.rank, Rank.WORKLOAD)) if d.rank < 4 else replace(d, rank=Rank.PENDING)),
    max_size=30,
)


@given(catalogs, published, st.none() | allowances, st.integers(0, 4), st.integers(0, 3))
def test_publishing_keeps_from_no_node_what_it_would_take_of_all(
    catalog: Catalog, wishes: list[Demand], allowed: Allowed | None, most: int, here: int
) -> None:
    """Every node asks its own settings, of what it is told."""
    names = {(model.repository, model.revision) for model in catalog.models.values()}
    told, refused = publishable(wishes, allowed, names)
    declared = tuple(catalog.models.values())[:here]
    assert (
        choose(catalog, declared, told, allowed, most).wanted == choose(catalog, declared, wishes, allowed, most).wanted
    )
    assert choose(catalog, (), refused, allowed, most).wanted == ()
    assert len(told) + len(refused) == len(wishes)
    assert not refused or allowed is not None


@given(published, st.randoms())
def test_what_is_published_says_each_wish_once_and_does_not_depend_on_the_order(
    wishes: list[Demand], random: Any
) -> None:
    text, dropped = written(wishes)
    shuffled = random.sample(wishes, len(wishes))
    assert (written(shuffled), dropped) == ((text, 0), 0)
    back = read(text)

    def key(one: Demand) -> tuple[Any, ...]:
        return one.named, one.server, one.namespace, one.place

    assert {key(one) for one in back} == {key(one) for one in wishes}
    assert len(back) == len({key(one) for one in wishes})
    for one in back:
        assert one.rank == max(other.rank for other in wishes if key(other) == key(one))


@given(published, st.integers(0, 1500))
def test_what_has_no_room_is_the_least_urgent_and_is_counted(wishes: list[Demand], room: int) -> None:
    text, dropped = written(wishes, room)
    everything, kept = read(written(wishes)[0]), read(text)
    assert kept == everything[: len(kept)]
    assert dropped == len(everything) - len(kept)
    assert len(text.encode()) <= room or not kept
    if dropped:
        assert (
            len(written(everything[: len(kept) + 1], 10**9)[0].encode()) > room - 20
        )  # it could not have taken one more
        assert json.loads(text)["dropped"] == dropped


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "{}", '{"format": 2, "namespaces": [], "places": [], "rows": []}', "\ud800"]
)
def test_what_is_not_of_our_making_wants_nothing(text: str) -> None:
    assert read(text) == ()


def test_a_row_that_could_not_be_a_wish_is_left_out() -> None:
    """A place that is not there, a name that is a path, a rank that only the node itself can give."""
    good = ["org/a", "main", 0, "vllm", 0, 2, 0, 0]
    bad = [("../../x", 0), ("org/a", 4), ("https://h/a", 0)]
    rows = [
        good,
        *([name, "main", 0, "vllm", 0, rank or 2, 0, 0] for name, rank in bad),
        [*good[:7], 5],
        [*good[:4], 9, *good[5:]],
    ]
    text = json.dumps({"format": 1, "namespaces": ["x"], "places": [{}], "rows": rows})
    assert [one.named.repository for one in read(text)] == ["org/a"]
    assert all(is_repository(one.named.repository) for one in read(text))


def test_hundreds_of_workloads_fit() -> None:
    wishes = [
        Demand(
            Named(f"organisation-{number % 40}/a-model-with-a-long-name-{number}-70B-Instruct", f"{number:040x}"),
            "vllm",
            f"team-{number % 30}",
            Rank.WORKLOAD,
            0,
            Place(
                (("nvidia.com/gpu.product", f"NVIDIA-H100-{number % 12}"),), None, (), (("nvidia.com/mig-3g.40gb", 1),)
            ),
        )
        for number in range(300)
    ]
    text, dropped = written(wishes)
    assert (dropped, len(text) < MOST_BYTES) == (0, True)
