"""The GPUs of another node, as far as its node object tells: for questions that are asked from elsewhere."""

from __future__ import annotations

import re
from dataclasses import replace

from agent.model.errors import BadInputError
from agent.model.mig import Gpu, Layout, Slot
from agent.model.node import Node
from agent.model.report import NodeStatus
from agent.observe.paper import gpu_on_paper, model_named, models

PRODUCT = "nvidia.com/gpu.product"
COUNT = "nvidia.com/gpu.count"


def gpus_by_api(node: Node, status: NodeStatus | None, model: str | None) -> tuple[Gpu, ...]:
    """What the node's GPUs have by the placements last applied; ``model`` is asked for where the labels do not name one.

    BadInputError where too little is known: then the agent on the node has to be asked.
    """
    model = model or _model(node)
    placements = status.placements if status is not None else {}
    if not placements:
        raise BadInputError(
            f"node {node.name}: no layout was ever applied by this agent, so what its GPUs have now is not known here; "
            "ask on the node (warmslice plan --here)"
        )
    found = [
        replace(gpu_on_paper(model, _layout(slots), index), uuid=uuid)
        for index, (uuid, slots) in enumerate(placements.items())
    ]
    return tuple(found)


def in_full(node: Node, status: NodeStatus | None, gpus: tuple[Gpu, ...]) -> bool:
    """Whether these are all GPUs of the node: one outside MIG mode has no placements."""
    counts = {status.gpus if status is not None else None, node.labels.get(COUNT)} - {None}
    return all(str(count) == str(len(gpus)) for count in counts)


def _model(node: Node) -> str:
    """GPU feature discovery writes the product with dashes, and what the strategy and sharing add behind it (from memory of
    its release 0.17: ``-MIG-<profile>`` in the strategy ``single``, ``-SHARED``)."""
    product = re.sub(r"(-MIG-[^-]+(-me)?|-SHARED)+$", "", node.labels.get(PRODUCT, ""))
    model = model_named(product.replace("-", " "))
    if model is None:
        raise BadInputError(
            f"node {node.name}: label {PRODUCT} is {node.labels.get(PRODUCT, '')!r}, which names no GPU of the table; "
            f"name one with --gpu: {', '.join(models())}"
        )
    return model


def _layout(slots: list[str]) -> Layout:
    return tuple(sorted(map(Slot.parse, slots)))
