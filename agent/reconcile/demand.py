"""What workloads want of this node: what is published for all, and the node's own pods. See Note [One agent watches workloads]
in reconcile/publishing.py and Note [Whose word counts] in plan/demand.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.desired.demand import demands_of
from agent.model.catalog import Catalog, CatalogModel
from agent.model.demand import Allowed, Demand, Rank, Serving
from agent.model.demand_map import KEY, read
from agent.model.node import Node
from agent.observe.demand import has_ended, is_ready, offers_of
from agent.plan.demand import Choice, NodeSide, choose, fits
from agent.reconcile.servings import PodServings

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class DemandRules:
    """What the settings say. ``allowed`` None: workloads only bring models of the catalog forward; at most ``most`` models that
    the catalog does not want come in."""

    allowed: Allowed | None
    most: int
    label_key: str


class NodeDemand:
    """Asked at each pass of the cache loop. ``published`` is the ConfigMap's data; ``pods`` None: those of this node are not
    known yet; ``history``: what pods that ran here read."""

    def __init__(
        self,
        rules: DemandRules,
        node: Callable[[], Node | None],
        pods: Callable[[], Sequence[Object] | None],
        published: Callable[[], Mapping[str, str]],
        synced: Callable[[], bool],
        history: Callable[[], Iterable[Demand]],
        servings: PodServings,
    ) -> None:
        self._servings = servings
        self._rules = rules
        self._node = node
        self._pods = pods
        self._published = published
        self._synced = synced
        self._history = history
        self.declared: frozenset[tuple[str, str]] = frozenset()
        self._text = ""
        self._read: tuple[Demand, ...] = ()

    @property
    def known(self) -> bool:
        """Whether pods and what is published have been listed: before that nobody knows what is wanted."""
        return self._pods() is not None and self._synced()

    def choose(self, catalog: Catalog, declared: Sequence[CatalogModel]) -> Choice:
        """What is wanted here, in order."""
        self.declared = frozenset((model.repository, model.revision) for model in catalog.models.values())
        return choose(catalog, declared, self._demands(), self._rules.allowed, self._rules.most)

    def here(self) -> tuple[Demand, ...]:
        """Of the pods of this node alone."""
        pods = [pod for pod in self._pods() or () if not has_ended(pod)]
        return tuple(demand for pod in pods for demand in _of_pod(pod, self._servings.of(pod)))

    def _demands(self) -> Iterator[Demand]:
        yield from self.here()
        node = self._node()
        if node is not None:
            side = NodeSide(node.name, node.labels, node.taints, offers_of(node, self._rules.label_key))
            yield from (demand for demand in self._all() if fits(demand.place, side))
        yield from self._history()

    def _all(self) -> tuple[Demand, ...]:
        text = self._published().get(KEY, "")
        if text != self._text:
            self._text, self._read = text, read(text)
        return self._read


def _of_pod(pod: Object, servings: tuple[Serving, ...]) -> tuple[Demand, ...]:
    metadata = pod["metadata"]
    by = f"pod {metadata['namespace']}/{metadata['name']}"
    rank = Rank.WORKLOAD if is_ready(pod) else Rank.HERE
    return demands_of(pod.get("spec") or {}, servings, metadata["namespace"], rank, by)
