"""Answers without hardware or cluster: what a change would do, what a GPU model can be."""

from __future__ import annotations

import json
from collections.abc import Mapping

from agent.desired.resolve import resolve
from agent.model.answer import Answer
from agent.model.desired import Desired, Refusal
from agent.model.errors import BadInputError
from agent.model.labels import CONFIG
from agent.model.mig import Gpu, GpuWish, Layout
from agent.model.node import Node
from agent.model.snapshot import Snapshot
from agent.observe.paper import gpu_on_paper
from agent.plan.geometry import feasible, maximal_geometries
from agent.plan.placement import Tenants, solve
from agent.plan.way import Policy
from agent.reconcile.foretell import foretell
from agent.reconcile.reach import label_value
from agent.reconcile.sources import sources_of


def plan_on_paper(model: str, start: str, to: str, layouts_file: str, now: float) -> Answer:
    """What a change from one layout to another would keep, destroy and create on one GPU of that model, held by nobody."""
    empty = gpu_on_paper(model)
    before: Layout = ()
    if start:
        placed = solve(empty, _wish(empty, start, layouts_file, now), Tenants())
        before = tuple(sorted(placed.create)) if placed is not None else ()
    gpu = gpu_on_paper(model, before)
    _wish(gpu, to, layouts_file, now)
    seen = Snapshot(0.0, node_on_paper({CONFIG: to}), (gpu,), (), ())
    return foretell(sources_of(CONFIG, layouts_file, {CONFIG: to}, None, now), seen, Policy())


def node_on_paper(labels: Mapping[str, str], name: str = "") -> Node:
    """A node of which only the labels matter."""
    return Node(name, "", "", labels, {}, unschedulable=False, allocatable={}, capacity={}, boot_id="")


def layouts_on_paper(model: str, as_json: bool) -> tuple[int, str]:
    """The maximal geometries of a GPU model."""
    found = [label_value(shapes) for shapes in maximal_geometries(gpu_on_paper(model))]
    if as_json:
        return 0, json.dumps(found, indent=2)
    return 0, "\n".join([f"{model}: {len(found)} maximal geometries, as label values", *found])


def _wish(gpu: Gpu, layout: str, layouts_file: str, now: float) -> GpuWish:
    """BadInputError for what cannot be: on paper it is a mistake of the caller."""
    wish = resolve(sources_of(CONFIG, layouts_file, {CONFIG: layout}, None, now), (gpu,), feasible)
    match wish:
        case Desired():
            return wish.wishes[gpu.uuid]
        case Refusal():
            raise BadInputError(wish.message)
        case _:
            raise BadInputError("the layout is empty; write one such as 7x1g.10gb, or 'disabled'")
