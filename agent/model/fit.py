"""How much memory a model needs in a server, as far as its files say. Frozen data and arithmetic.

Sources: the configuration files of public models; vLLM keeps, for each token of a request, a key and a value for every layer and
key-value head, and refuses to start where one request of its longest length has no room.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_SLIDING = ("sliding_attention", "chunked_attention")
_FULL = "full_attention"


@dataclass(frozen=True, slots=True)
class ModelShape:
    """``weights_bytes``: of the files that a server maps. ``elements_per_token`` are numbers that the cache of keys and values
    keeps for each token of a request however long it is; None where the configuration does not say it in a way that is known.
    ``context_tokens``: the longest request that the model is made for."""

    weights_bytes: int
    elements_per_token: int | None = None
    context_tokens: int | None = None


def shape_of(config: Mapping[str, Any], weights_bytes: int) -> ModelShape:
    """By a model's ``config.json``; what is not said there is not guessed."""
    text = config.get("text_config")
    inner = text if isinstance(text, Mapping) else config
    return ModelShape(weights_bytes, _elements(inner), _count(inner, "max_position_embeddings"))


def _elements(config: Mapping[str, Any]) -> int | None:
    layers = _full_layers(config)
    if layers is None:
        return None
    latent = _count(config, "kv_lora_rank")
    if latent is not None:
        return layers * (latent + (_count(config, "qk_rope_head_dim") or 0))
    heads, size = _count(config, "num_attention_heads"), _count(config, "hidden_size")
    of_values = _count(config, "num_key_value_heads") or (1 if config.get("multi_query") is True else heads)
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
    if isinstance(window, int) and window and config.get("use_sliding_window") is not False:
        return 0
    hybrid = ("layers_block_type", "attn_layer_period", "hybrid_override_pattern", "ssm_state_size", "state_size")
    return None if any(key in config for key in hybrid) else layers


def _count(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


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
