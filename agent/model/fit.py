"""How much memory a model needs in a server, as far as its files say. Frozen data and arithmetic.

Sources: the configuration files of public models; vLLM keeps, for each token of a request, a key and a value for every layer and
key-value head, and refuses to start where one request of its longest length has no room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_KNOWN = frozenset(
    (
        "cohere", "cohere2", "deepseek_v2", "deepseek_v3", "gemma", "gemma2", "gemma3", "gemma3_text", "gpt_oss", "granite",
        "llama", "mistral", "mixtral", "olmo2", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "starcoder2",
    )
)  # fmt: skip
"""Kinds of models of whose layers it is known that each looks back over the request, but for those that ``layer_types`` or a
``sliding_window`` name. Of any other, which may keep a state instead, nothing is said."""
_SLIDING = ("sliding_attention", "chunked_attention")
_FULL = "full_attention"
_MOST = 10**9
"""No real model has more of anything that is counted here."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """``weights_bytes``: of the files that a server maps; ``wide``: they hold numbers of 32 bits, of which servers make 16 unless
    they are told not to. ``elements_per_token`` are numbers that the cache of keys and values keeps for each token of a request
    however long it is; None where that is not known; ``short``: in one byte each, by the checkpoint. ``context_tokens``: the
    longest request that the model is made for."""

    weights_bytes: int
    elements_per_token: int | None = None
    context_tokens: int | None = None
    wide: bool = False
    short: bool = False


def shape_of(config: Mapping[str, Any], weights_bytes: int, tokenizer: Mapping[str, Any] | None = None) -> ModelShape:
    """By a model's ``config.json`` and ``tokenizer_config.json``; what is not said there is not guessed."""
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else config
    lengths = (_count(inner, "max_position_embeddings"), _count(tokenizer or {}, "model_max_length"))
    quantized = str(config.get("quantization_config", "")).lower()
    stored = str(inner.get("torch_dtype") or inner.get("dtype") or config.get("torch_dtype") or config.get("dtype"))
    return ModelShape(
        weights_bytes,
        _elements(inner),
        min((length for length in lengths if length is not None), default=None) if lengths[0] else None,
        wide=not quantized and stored not in ("bfloat16", "float16"),
        short="kv_cache" in quantized,
    )


def _elements(config: Mapping[str, Any]) -> int | None:
    layers = _full_layers(config)
    if layers is None or config.get("model_type") not in _KNOWN:
        return None
    latent = _count(config, "kv_lora_rank")
    if latent is not None:
        return layers * (latent + (_count(config, "qk_rope_head_dim") or 0))
    heads, size = _count(config, "num_attention_heads"), _count(config, "hidden_size")
    of_values = _count(config, "num_key_value_heads") if "num_key_value_heads" in config else heads
    head = _count(config, "head_dim") or (size // heads if size and heads else None)
    return 2 * layers * of_values * head if of_values and head else None


def _full_layers(config: Mapping[str, Any]) -> int | None:
    """Layers that look back over the whole request; None where that is not known. One that looks at a window, or keeps a state,
    has a bounded share."""
    layers, kinds = _count(config, "num_hidden_layers"), config.get("layer_types")
    if isinstance(kinds, Sequence) and not isinstance(kinds, str):
        known = all(kind == _FULL or kind in _SLIDING or kind == "linear_attention" for kind in kinds)
        return sum(kind == _FULL for kind in kinds) if known else None
    window = config.get("sliding_window")
    if window is not None and not isinstance(window, int):
        return None
    return 0 if window and config.get("use_sliding_window") is not False else layers


def _count(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    whole = isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST
    return value if whole else None


@dataclass(frozen=True, slots=True)
class Owner:
    """Who makes a pod, as an Event names it: its controller, or the pod itself."""

    api_version: str
    kind: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Misfit:
    """A pod of this node whose model cannot fit the slice that it asks for; ``message`` is one sentence."""

    namespace: str
    pod: str
    owner: Owner
    model: str
    message: str
