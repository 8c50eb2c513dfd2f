"""What serving workloads want: the models that a container reads, and how it means to serve them. Frozen data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from fnmatch import fnmatchcase
from typing import TypeVar

from agent.model.place import Place

T = TypeVar("T")


class Role(StrEnum):
    """What a repository is to the server that reads it."""

    MODEL = "model"
    TOKENIZER = "tokenizer"
    ADAPTER = "adapter"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True, order=True)
class Named:
    """A repository of the hub that a container is told to read, as ``org/name``."""

    repository: str
    revision: str = "main"
    role: Role = Role.MODEL


@dataclass(frozen=True, slots=True)
class Serving:
    """A container that serves. ``server`` is one of the recogniser's table (``vllm``, ``sglang``, ...). ``max_model_len`` is in
    tokens and ``memory_utilization`` the share of the GPU's memory that it may take, None where it is not told;
    ``kv_cache_dtype`` and ``dtype`` are as given. ``resources``: how many of each nvidia.com resource it asks for.
    ``reshaped``: it is told something by which it needs another amount of memory than the model's files say.
    """

    container: str
    server: str
    models: tuple[Named, ...]
    max_model_len: int | None = None
    memory_utilization: float | None = None
    kv_cache_dtype: str | None = None
    dtype: str | None = None
    tensor_parallel: int = 1
    resources: Mapping[str, int] = field(default_factory=dict)
    reshaped: bool = False


@dataclass(frozen=True, slots=True, order=True)
class PodModel:
    """A pod of this node and a model that it serves, by the model's name in labels and metrics."""

    namespace: str
    pod: str
    model: str


class Rank(IntEnum):
    """Why a model is wanted on a node; the higher goes first."""

    HISTORY = 0
    """Pods that ran here read it."""
    DECLARED = 1
    """The catalog names it."""
    WORKLOAD = 2
    """A workload that may start here names it, at zero or running somewhere."""
    PENDING = 3
    """A pod that no node has yet may come here."""
    HERE = 4
    """A pod of this node is not ready yet."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Pods of a place read this. ``namespace`` is theirs, ``priority`` that of the pods (0 where a template tells a class only).
    ``by`` says whose it is, for people; what is published leaves it out."""

    named: Named
    server: str
    namespace: str
    rank: Rank
    priority: int = 0
    place: Place = field(default_factory=Place)
    by: str = ""


@dataclass(frozen=True, slots=True)
class Allowed:
    """What may be fetched for workloads that no catalog names: patterns of models by pattern of a namespace."""

    models: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def allows(self, namespace: str, repository: str) -> bool:
        """Whether pods of the namespace may have it fetched. Patterns are of the whole name, with ``*`` and ``?``."""
        return any(
            fnmatchcase(namespace, space) and any(fnmatchcase(repository, model) for model in models)
            for space, models in self.models.items()
        )


@dataclass(frozen=True, slots=True)
class Asked:
    """What workloads want of a node in vain: of each namespace, models that nobody allows it; ``over``: how many are left out
    since there are too many."""

    refused: tuple[tuple[str, str], ...] = ()
    over: int = 0

    @classmethod
    def of(cls, refused: Iterable[Demand], over: int) -> Asked:
        """Each once."""
        return cls(tuple(sorted({(demand.namespace, demand.named.repository) for demand in refused})), over)


@dataclass(frozen=True, slots=True)
class Published:
    """What stands in the ConfigMap, by who writes it: ``size_bytes`` of the text, how many ``demands`` there are, and of those
    how many were ``dropped`` since it had no room for them. ``asked``: what workloads want in vain."""

    size_bytes: int
    demands: int
    dropped: int
    asked: Asked


def in_turns(items: Iterable[T], namespace: Callable[[T], str]) -> list[T]:
    """Each namespace has its turn, the first of each before the second of any, so that none takes the room of all."""
    turns: dict[str, int] = {}
    placed = []
    for item in items:
        space = namespace(item)
        turns[space] = turns.get(space, 0) + 1
        placed.append((turns[space], item))
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])]
