"""Whether a model can fit the slice that a pod asks for. Pure.

Only what is certain is said: the weights, and for vLLM one request of its longest length, are the least that is needed. What a
server takes beside them (activations, graphs, fragments) is not counted, and where an option changes how much the weights take,
nothing is said.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.model.demand import Serving
from agent.model.fit import ModelShape
from agent.model.labels import STRATEGY

MARGIN_BYTES = 300 * 2**20
"""What a CUDA context takes of a GPU's memory, at the least. Of a whole H200 with driver 580 it took 518 MiB, beside 615 MiB that
the driver keeps (read by NVML and cuMemGetInfo, November 2026); on a slice with fewer multiprocessors we take it to be less."""
_VLLM_SHARE = 0.9
"""vLLM's own, where it is not told."""
_HALF, _SHORT = 2, 1
_WIDE = frozenset({"float32", "float", "fp32"})
_GB = re.compile(r"nvidia\.com/mig-(?:\d+c\.)?\d+g\.(\d+)gb")
_MIB = 2**20


def memory_of(resource: str, labels: Mapping[str, str]) -> int | None:
    """Bytes of one device of that resource: by the label that GPU feature discovery writes (MiB), else at most what the slice's
    name says; None where neither is there."""
    name = resource.removesuffix(".shared")
    if name == "nvidia.com/gpu" and labels.get(STRATEGY) == "single":
        return None  # the label is of one slice, and after a change of layout of one that was there before
    told = labels.get(f"{name}.memory", "")
    if told.isdecimal() and int(told):
        return int(told) * _MIB
    found = _GB.match(name)
    return int(found[1]) * 2**30 if found else None


def misfit(serving: Serving, shape: ModelShape, labels: Mapping[str, str]) -> str | None:
    """In one sentence why it cannot run; None where it can, or where that is not known. ``labels``: of the node."""
    (resource, count), *others = serving.resources.items() or [("", 0)]
    memory = memory_of(resource, labels)
    if others or memory is None or serving.reshaped:
        return None
    parts = max(count, serving.tensor_parallel)
    weights = shape.weights_bytes / parts
    if shape.wide and serving.dtype not in _WIDE:
        weights /= 2
    tokens, cache = _cache(serving, shape)
    share = _share(serving)
    room = min(memory * share, memory - MARGIN_BYTES)
    if weights > room:
        return f"{_gb(weights)} of weights do not fit {resource}: {_room(memory, share, room)}{_spread(parts)}"
    if weights + cache / parts > room:
        what = f"{_gb(weights)} of weights and {_gb(cache / parts)} for one request of {tokens} tokens{_whose(serving)}"
        return f"{what} do not fit {resource}: {_room(memory, share, room)}{_spread(parts)}"
    return None


def _share(serving: Serving) -> float:
    if serving.server == "vllm":
        return serving.memory_utilization or _VLLM_SHARE
    return (serving.memory_utilization or 1.0) if serving.server == "sglang" else 1.0


def _cache(serving: Serving, shape: ModelShape) -> tuple[int, int]:
    """(tokens of the longest request, bytes that it needs); vLLM alone has to have room for one when it starts."""
    tokens = serving.max_model_len or shape.context_tokens
    if serving.server != "vllm" or not tokens or shape.elements_per_token is None:
        return 0, 0
    return tokens, tokens * shape.elements_per_token * (_SHORT if _is_short(serving, shape) else _HALF)


def _is_short(serving: Serving, shape: ModelShape) -> bool:
    """What the server is told counts more than the checkpoint."""
    dtype = serving.kv_cache_dtype
    return shape.short if dtype in (None, "auto") else dtype is not None and dtype.startswith(("fp8", "int8", "nvfp4"))


def _whose(serving: Serving) -> str:
    return "" if serving.max_model_len else " (its own limit, since --max-model-len is not given)"


def _room(memory: int, share: float, room: float) -> str:
    if room < memory * share:
        return f"{_gb(memory)} less {_gb(MARGIN_BYTES)} for the driver are {_gb(room)}"
    return f"{share:.0%} of {_gb(memory)} are {_gb(room)}"


def _spread(parts: int) -> str:
    return f", on each of {parts}" if parts > 1 else ""


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
