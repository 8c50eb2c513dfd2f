"""Whether a model can fit the slice that a pod asks for: figures of public models, and the laws of what is said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.model.demand import Named, Serving
from agent.model.fit import ModelShape, shape_of
from agent.plan.fit import MARGIN_BYTES, memory_of, misfit

LLAMA_8B = {
    "model_type": "llama",
    "torch_dtype": "bfloat16",
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "hidden_size": 4096,
    "max_position_embeddings": 131072,
}
LLAMA_70B = {**LLAMA_8B, "num_hidden_layers": 80, "num_attention_heads": 64, "hidden_size": 8192}
QWEN_7B = {
    **LLAMA_8B, "model_type": "qwen2", "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
    "hidden_size": 3584, "sliding_window": 131072, "use_sliding_window": False,
}  # fmt: skip
DEEPSEEK_V3 = {
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
    "num_attention_heads": 128,
}  # fmt: skip
GEMMA_LIKE = {**LLAMA_8B, "model_type": "gemma3_text", "layer_types": ["sliding_attention"] * 5 + ["full_attention"]}
QWEN3_NEXT = {**LLAMA_8B, "model_type": "qwen3_next", "full_attention_interval": 4}
NEMOTRON = {**LLAMA_8B, "model_type": "nemotron-nas", "num_key_value_heads": None, "block_configs": []}
WEIGHTS_8B = 16_060_556_376
SMALL, MIDDLE, LARGE = "nvidia.com/mig-1g.10gb", "nvidia.com/mig-2g.20gb", "nvidia.com/mig-3g.40gb"
LABELS = {f"{SMALL}.memory": "9728", f"{MIDDLE}.memory": "19968", f"{LARGE}.memory": "40448"}


def serving(resource: str, count: int = 1, **more: Any) -> Serving:
    return Serving("main", more.pop("server", "vllm"), (Named("org/x"),), resources={resource: count}, **more)


@pytest.mark.parametrize(
    ("config", "elements"),
    [
        (LLAMA_8B, 65_536),
        (LLAMA_70B, 163_840),
        (QWEN_7B, 28_672),
        (DEEPSEEK_V3, 61 * 576),
        (GEMMA_LIKE, 2_048),
        ({**LLAMA_8B, "head_dim": 64}, 32_768),
        ({**LLAMA_8B, "sliding_window": 4096}, 0),
        ({**LLAMA_8B, "sliding_window": None}, 65_536),
        ({**LLAMA_8B, "sliding_window": [0, 4096]}, None),
        (QWEN3_NEXT, None),
        (NEMOTRON, None),
        ({**LLAMA_8B, "num_key_value_heads": None}, None),
        ({**LLAMA_8B, "layer_types": ["mamba", "full_attention"]}, None),
        ({"text_config": LLAMA_8B, "vision_config": {}}, 65_536),
        ({**LLAMA_8B, "num_hidden_layers": "many"}, None),
        ({**LLAMA_8B, "num_hidden_layers": 10**400}, None),
        ({}, None),
    ],
)
def test_what_a_token_takes_is_known_of_public_models_and_never_guessed(config: Any, elements: int | None) -> None:
    assert shape_of(config, 1).elements_per_token == elements


def test_the_longest_request_is_what_model_and_tokenizer_both_can() -> None:
    assert shape_of(LLAMA_8B, 1).context_tokens == 131_072
    assert shape_of(LLAMA_8B, 1, {"model_max_length": 16_384}).context_tokens == 16_384
    assert shape_of(LLAMA_8B, 1, {"model_max_length": 10**30}).context_tokens == 131_072
    assert shape_of({}, 1, {"model_max_length": 16_384}).context_tokens is None


def test_weights_of_32_bits_become_16_in_the_server_unless_it_is_told_otherwise() -> None:
    wide = shape_of({**LLAMA_8B, "torch_dtype": "float32"}, 2 * WEIGHTS_8B)
    assert misfit(serving(MIDDLE, max_model_len=4096), wide, LABELS) is None
    assert misfit(serving(MIDDLE, max_model_len=4096, dtype="float32"), wide, LABELS) is not None
    assert shape_of({**LLAMA_8B, "quantization_config": {"quant_method": "fp8"}}, 1).wide is False


def test_a_checkpoint_may_keep_its_cache_in_bytes() -> None:
    quantized = shape_of({**LLAMA_8B, "quantization_config": {"kv_cache_scheme": {"num_bits": 8}}}, WEIGHTS_8B)
    assert misfit(serving(MIDDLE, max_model_len=32768), quantized, LABELS) is None
    assert misfit(serving(MIDDLE, max_model_len=32768, kv_cache_dtype="bfloat16"), quantized, LABELS) is not None


def test_a_slice_has_the_memory_that_its_label_says_and_else_at_most_what_its_name_says() -> None:
    assert memory_of(SMALL, LABELS) == 9728 * 2**20
    assert memory_of(f"{SMALL}.shared", LABELS) == 9728 * 2**20
    assert memory_of("nvidia.com/mig-1c.3g.40gb", {}) == 40 * 2**30
    assert memory_of("nvidia.com/mig-1g.10gb.me", {}) == 10 * 2**30
    assert memory_of("nvidia.com/gpu", {"nvidia.com/gpu.memory": "81559"}) == 81559 * 2**20
    assert memory_of("nvidia.com/gpu", {}) is None
    single = {"nvidia.com/gpu.memory": "9728", "nvidia.com/mig.strategy": "single"}
    assert memory_of("nvidia.com/gpu", single) is None  # whether it is of these slices nobody knows after a change


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            serving(SMALL),
            f"16.1 GB of weights do not fit {SMALL}: 90% of 10.2 GB are 9.2 GB",
        ),
        (
            serving(MIDDLE, max_model_len=131072),
            f"16.1 GB of weights and 17.2 GB for one request of 131072 tokens do not fit {MIDDLE}: "
            "90% of 20.9 GB are 18.8 GB",
        ),
        (
            serving(MIDDLE),
            "16.1 GB of weights and 17.2 GB for one request of 131072 tokens (its own limit, since --max-model-len is not "
            f"given) do not fit {MIDDLE}: 90% of 20.9 GB are 18.8 GB",
        ),
        (serving(MIDDLE, max_model_len=8192), None),
        (serving(LARGE), None),
        (serving(LARGE, memory_utilization=0.5), "33.2"),
        (serving(MIDDLE, max_model_len=32768, kv_cache_dtype="fp8"), None),
        (serving(MIDDLE, server="tgi"), None),
        (serving(SMALL, server="tgi"), "16.1 GB of weights do not fit"),
        (serving(SMALL, 2, tensor_parallel=2, max_model_len=4096), None),
        (serving(SMALL, 1, tensor_parallel=8), None),
        (serving(SMALL, reshaped=True), None),
        (serving("nvidia.com/gpu"), None),
        (replace(serving(SMALL), resources={}), None),
        (replace(serving(SMALL), resources={SMALL: 1, LARGE: 1}), None),
    ],
)
def test_an_8b_model_in_slices_of_an_h100(asked: Serving, said: str | None) -> None:
    found = misfit(asked, shape_of(LLAMA_8B, WEIGHTS_8B), LABELS)
    if said == "33.2":
        assert found is not None
        assert "50% of 42.4 GB" in found
    elif said is None or found is None:
        assert found == said
    else:
        assert found.startswith(said)


shapes = st.builds(
    ModelShape, st.integers(1, 200 * 10**9), st.none() | st.integers(0, 500_000), st.none() | st.integers(1, 10**6)
)
askers = st.builds(
    serving,
    st.sampled_from((SMALL, MIDDLE, LARGE)),
    st.integers(1, 8),
    server=st.sampled_from(("vllm", "sglang", "tgi", "other")),
    max_model_len=st.none() | st.integers(1, 10**6),
    memory_utilization=st.none() | st.floats(0.1, 1.0),
    tensor_parallel=st.integers(1, 8),
)


@given(askers, shapes)
def test_only_what_cannot_be_is_said(asked: Serving, shape: ModelShape) -> None:
    """By a second way: the memory of all its slices together, in whole numbers, against all that is needed."""
    ((resource, count),) = asked.resources.items()
    slices = max(count, asked.tensor_parallel)
    share = asked.memory_utilization if asked.server in ("vllm", "sglang") else None
    share = share or (0.9 if asked.server == "vllm" else 1.0)
    memory = int(LABELS[f"{resource}.memory"]) * 2**20
    there = slices * min(memory * share, memory - MARGIN_BYTES)
    tokens = (asked.max_model_len or shape.context_tokens or 0) if asked.server == "vllm" else 0
    needed = shape.weights_bytes + 2 * tokens * (shape.elements_per_token or 0)
    if abs(needed - there) > 1e-6 * there:
        assert (misfit(asked, shape, LABELS) is not None) == (needed > there)


@given(askers, shapes, st.sampled_from((SMALL, MIDDLE, LARGE)), st.integers(1, 10**6))
def test_a_larger_slice_or_a_shorter_request_never_makes_it_worse(
    asked: Serving, shape: ModelShape, other: str, tokens: int
) -> None:
    if misfit(asked, shape, LABELS) is not None:
        return
    ((resource, count),) = asked.resources.items()
    if memory_of(other, LABELS) or (memory_of(resource, LABELS) or 0) <= 0:
        larger = max((resource, other), key=lambda name: memory_of(name, LABELS) or 0)
        assert misfit(replace(asked, resources={larger: count}), shape, LABELS) is None
    if tokens <= (asked.max_model_len or shape.context_tokens or 0):
        assert misfit(replace(asked, max_model_len=tokens), shape, LABELS) is None
