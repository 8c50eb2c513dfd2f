"""What serving workloads want: the models that a container reads, and how it means to serve them. Frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


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
