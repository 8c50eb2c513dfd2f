"""Reads from workloads what they want: which models, and where their pods may run. Pure; what an object lacks is empty."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from agent.desired.pod_spec import Object, gpu_resources, mapping, mappings
from agent.model.demand import Demand, Rank, Serving
from agent.model.node import Requirement
from agent.model.place import FIELD, NODE_NAME, Place, Term, Toleration

_MOST = 2**31 - 1
_MOST_MODELS = 32
_MOST_CHARACTERS = 8000
"""Of a place, written out: whoever asks for more would take the room of all others in what is published, and is left out."""


def demands_of(
    spec: Object, servings: Collection[Serving], namespace: str, rank: Rank, by: str = ""
) -> tuple[Demand, ...]:
    """What those containers of a pod, or of a template, read: the first models of many. ``by`` says whose it is."""
    if not servings:
        return ()
    place = place_of(spec)
    if len(repr(place)) > _MOST_CHARACTERS:
        return ()
    priority = _number(spec.get("priority"))
    named = ((one, serving.server) for serving in servings for one in serving.models)
    return tuple(
        Demand(one, server, namespace, rank, priority, place, by) for one, server in islice(named, _MOST_MODELS)
    )


def place_of(spec: Object) -> Place:
    """Where such pods may run. Of what is not as the API server would take it nothing matches."""
    affinity = mapping(mapping(spec.get("affinity")).get("nodeAffinity"))
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    terms = None
    if isinstance(required, Mapping):
        terms = tuple(_term(term) for term in mappings(required.get("nodeSelectorTerms")))
    bound = spec.get("nodeName")
    if isinstance(bound, str) and bound:
        here = Requirement(NODE_NAME, "In", frozenset({bound}))
        terms = tuple((*term, here) for term in terms) if terms is not None else ((here,),)
    return Place(
        selector=tuple(sorted((str(key), str(value)) for key, value in mapping(spec.get("nodeSelector")).items())),
        terms=terms,
        tolerations=tuple(sorted(_toleration(one) for one in mappings(spec.get("tolerations")))),
        resources=tuple(sorted(_resources(spec).items())),
    )


def ranked(demands: tuple[Demand, ...], rank: Rank) -> tuple[Demand, ...]:
    """The same, for another reason."""
    return tuple(replace(demand, rank=rank) for demand in demands)


def _term(term: Object) -> Term:
    expressions = tuple(_requirement(one, str(one.get("key", ""))) for one in mappings(term.get("matchExpressions")))
    fields = tuple(_requirement(one, f"{FIELD}{one.get('key', '')}") for one in mappings(term.get("matchFields")))
    return (*expressions, *fields)


def _requirement(one: Object, key: str) -> Requirement:
    values = one.get("values")
    given = frozenset(map(str, values)) if isinstance(values, list) else frozenset[str]()
    return Requirement(key, str(one.get("operator", "")), given)


def _toleration(one: Object) -> Toleration:
    names = ("key", "operator", "value", "effect")
    given = {name: str(one[name]) for name in names if one.get(name)}
    return Toleration(**given)


def _resources(spec: Object) -> dict[str, int]:
    """Of all containers that run together (sidecars too), or of one init container where that asks for more."""
    total: dict[str, int] = {}
    most: dict[str, int] = {}
    for container in mappings(spec.get("containers")):
        for name, count in gpu_resources(container).items():
            total[name] = total.get(name, 0) + count
    for container in mappings(spec.get("initContainers")):
        for name, count in gpu_resources(container).items():
            if container.get("restartPolicy") == "Always":
                total[name] = total.get(name, 0) + count
            else:
                most[name] = max(most.get(name, 0), count)
    return {name: max(total.get(name, 0), most.get(name, 0)) for name in total.keys() | most.keys()}


def _number(value: Any) -> int:
    """As the API server bounds it."""
    there = isinstance(value, int) and not isinstance(value, bool)
    return max(-_MOST, min(value, _MOST)) if there else 0
