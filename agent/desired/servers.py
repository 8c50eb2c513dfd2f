"""What is known of the servers of models: how each is started, and where it reads what it serves. A table, frozen data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto


class Field(Enum):
    """What an option or a variable tells a server. ``URI`` is ``hf://org/name`` with an optional revision; ``SPECULATION`` is
    JSON with a draft model in it. ``RESHAPES``: the server then needs another amount of memory than the model's files say;
    ``RESHAPING`` is such an option without a value. The last three tell nothing: an option with one value, one with many, and
    one with none."""

    MODEL = auto()
    URI = auto()
    REVISION = auto()
    TOKENIZER = auto()
    TOKENIZER_REVISION = auto()
    ADAPTERS = auto()
    DRAFT = auto()
    DRAFT_REVISION = auto()
    SPECULATION = auto()
    LENGTH = auto()
    SHARE = auto()
    KV_CACHE_DTYPE = auto()
    DTYPE = auto()
    PARALLEL = auto()
    RESHAPES = auto()
    RESHAPING = auto()
    ONE = auto()
    MANY = auto()
    FLAG = auto()


@dataclass(frozen=True, slots=True)
class Server:
    """One way to start a server. ``programs`` are the words that name it, ``modules`` what ``python -m`` is given.

    Where a container leaves its command to the image, ``images`` (searched in the image's name without tag and digest),
    ``containers`` (its name) or ``formats`` (KServe's modelFormat, where no image is given) say what that is. ``positional`` is
    what the first argument that is no option means; with ``pairs``, arguments are ``name=value``. Options are written here with
    hyphens and without those in front.
    """

    name: str
    programs: tuple[tuple[str, ...], ...] = ()
    modules: tuple[str, ...] = ()
    images: re.Pattern[str] | None = None
    containers: frozenset[str] = frozenset()
    formats: frozenset[str] = frozenset()
    positional: Field | None = None
    pairs: bool = False
    options: Mapping[str, Field] = field(default_factory=dict)
    variables: Mapping[str, Field] = field(default_factory=dict)


def _each(meaning: Field, names: str) -> dict[str, Field]:
    return dict.fromkeys(names.split(), meaning)


_VLLM = {
    "model": Field.MODEL,
    "revision": Field.REVISION,
    "tokenizer": Field.TOKENIZER,
    "tokenizer-revision": Field.TOKENIZER_REVISION,
    "lora-modules": Field.ADAPTERS,
    "speculative-config": Field.SPECULATION,
    "speculative-config.model": Field.DRAFT,
    "speculative-config.revision": Field.DRAFT_REVISION,
    "speculative-model": Field.DRAFT,
    "speculative-model-revision": Field.DRAFT_REVISION,
    "max-model-len": Field.LENGTH,
    "gpu-memory-utilization": Field.SHARE,
    "kv-cache-dtype": Field.KV_CACHE_DTYPE,
    "dtype": Field.DTYPE,
    "tensor-parallel-size": Field.PARALLEL,
    "tp": Field.PARALLEL,
    **_each(
        Field.RESHAPES,
        "load-format quantization q pipeline-parallel-size pp config hf-overrides cpu-offload-gb hf-config-path "
        "decode-context-parallel-size dcp kv-cache-memory-bytes num-gpu-blocks-override data-parallel-size dp "
        "data-parallel-size-local dpl nnodes",
    ),
    **_each(Field.RESHAPING, "enable-expert-parallel ep calculate-kv-scales"),
    **_each(
        Field.ONE,
        "host port uvicorn-log-level api-key chat-template download-dir seed block-size swap-space "
        "max-num-seqs max-num-batched-tokens tool-call-parser reasoning-parser "
        "kv-transfer-config distributed-executor-backend task runner max-lora-rank max-loras config-format code-revision "
        "tokenizer-mode compilation-config limit-mm-per-prompt root-path",
    ),
    **_each(Field.MANY, "served-model-name allowed-local-media-path middleware cudagraph-capture-sizes"),
    **_each(Field.FLAG, "trust-remote-code enforce-eager async-scheduling headless"),
}

_SGLANG = {
    "model-path": Field.MODEL,
    "model": Field.MODEL,
    "revision": Field.REVISION,
    "tokenizer-path": Field.TOKENIZER,
    "lora-paths": Field.ADAPTERS,
    "speculative-draft-model-path": Field.DRAFT,
    "speculative-draft-model": Field.DRAFT,
    "speculative-draft-model-revision": Field.DRAFT_REVISION,
    "context-length": Field.LENGTH,
    "mem-fraction-static": Field.SHARE,
    "kv-cache-dtype": Field.KV_CACHE_DTYPE,
    "dtype": Field.DTYPE,
    "tensor-parallel-size": Field.PARALLEL,
    "tp-size": Field.PARALLEL,
    "tp": Field.PARALLEL,
    **_each(
        Field.RESHAPES,
        "quantization torchao-config load-format cpu-offload-gb pipeline-parallel-size pp-size json-model-override-args "
        "data-parallel-size dp-size dp expert-parallel-size ep-size ep nnodes",
    ),
    **_each(Field.RESHAPING, "enable-dp-attention enable-ep-moe enable-deepep-moe"),
}

_TGI = {
    "model-id": Field.MODEL,
    "revision": Field.REVISION,
    "lora-adapters": Field.ADAPTERS,
    "max-total-tokens": Field.LENGTH,
    "cuda-memory-fraction": Field.SHARE,
    "kv-cache-dtype": Field.KV_CACHE_DTYPE,
    "dtype": Field.DTYPE,
    "num-shard": Field.PARALLEL,
    "quantize": Field.RESHAPES,
}

_TEI = {"model-id": Field.MODEL, "revision": Field.REVISION, "dtype": Field.DTYPE}

_TRTLLM = {
    "tokenizer": Field.TOKENIZER,
    "revision": Field.REVISION,
    "hf-revision": Field.REVISION,
    "max-seq-len": Field.LENGTH,
    "kv-cache-free-gpu-memory-fraction": Field.SHARE,
    "free-gpu-memory-fraction": Field.SHARE,
    "kv-cache-dtype": Field.KV_CACHE_DTYPE,
    "tp-size": Field.PARALLEL,
    "tensor-parallel-size": Field.PARALLEL,
    **_each(
        Field.ONE,
        "host port backend log-level max-beam-width max-batch-size max-num-tokens ep-size gpus-per-node "
        "num-postprocess-workers reasoning-parser tool-parser metadata-server-config-file",
    ),
    **_each(Field.RESHAPES, "pp-size extra-llm-api-options config"),
    **_each(Field.FLAG, "trust-remote-code"),
}

_LMDEPLOY = {
    "revision": Field.REVISION,
    "adapters": Field.ADAPTERS,
    "speculative-draft-model": Field.DRAFT,
    "session-len": Field.LENGTH,
    "cache-max-entry-count": Field.SHARE,
    "dtype": Field.DTYPE,
    "tp": Field.PARALLEL,
    **_each(
        Field.ONE,
        "server-name server-port model-name backend download-dir chat-template log-level "
        "max-batch-size device hf-overrides max-prefill-token-num dp ep",
    ),
    **_each(Field.RESHAPES, "model-format quant-policy"),
    **_each(Field.MANY, "api-keys allow-origins"),
    **_each(Field.FLAG, "trust-remote-code eager-mode"),
}

_HUGGINGFACESERVER = {
    **_VLLM,
    "model": Field.ONE,
    "model-id": Field.MODEL,
    "model-dir": Field.URI,
    "model-revision": Field.REVISION,
    "revision": Field.ONE,
    "model-name": Field.ONE,
    "max-length": Field.LENGTH,
}

# The first that fits is taken.
SERVERS = (
    Server(
        "vllm",
        programs=(("vllm", "serve"), ("vllm", "run-batch")),
        modules=(
            "vllm.entrypoints.openai.api_server",
            "vllm.entrypoints.openai.run_batch",
            "vllm.entrypoints.api_server",
            "vllm.entrypoints.cli.main serve",
            "dynamo.vllm",
        ),
        images=re.compile(
            r"(^|/)(vllm-openai(-\w+)?|vllm-cuda-rhel\d+|vllm-cpu-release-repo|(rocm|bitnami|opendatahub)/vllm"
            r"|llm-d(-cuda|-rocm|-xpu|-cpu|-aws|-gke|-dev)?|rayproject/ray-llm)$"
        ),
        formats=frozenset({"vLLM", "vllm"}),
        positional=Field.MODEL,
        options=_VLLM,
    ),
    # Ray Serve's application builders of vLLM take the engine's arguments by name.
    Server("vllm", programs=(("serve", "run"),), pairs=True, options=_VLLM),
    # The serverless worker reads all of vLLM's arguments from its environment.
    Server(
        "vllm",
        images=re.compile(r"(^|/)runpod/worker-(v1-)?vllm$"),
        variables={
            "MODEL_NAME": Field.MODEL,
            "MODEL_REVISION": Field.REVISION,
            "TOKENIZER": Field.TOKENIZER,
            "TOKENIZER_REVISION": Field.TOKENIZER_REVISION,
            "LORA_MODULES": Field.ADAPTERS,
            "MAX_MODEL_LEN": Field.LENGTH,
            "GPU_MEMORY_UTILIZATION": Field.SHARE,
            "KV_CACHE_DTYPE": Field.KV_CACHE_DTYPE,
            "DTYPE": Field.DTYPE,
            "TENSOR_PARALLEL_SIZE": Field.PARALLEL,
        },
    ),
    Server(
        "sglang",
        programs=(("sglang", "serve"),),
        modules=("sglang.launch_server", "dynamo.sglang"),
        images=re.compile(r"(^|/)(lmsysorg/)?sglang$"),
        options=_SGLANG,
    ),
    Server(
        "tgi",
        programs=(("text-generation-launcher",), ("tgi-entrypoint.sh",)),
        images=re.compile(r"(^|/)(huggingface-)?text-generation-inference(-[\w.-]+)?$"),
        options=_TGI,
        variables={
            "MODEL_ID": Field.MODEL,
            "REVISION": Field.REVISION,
            "LORA_ADAPTERS": Field.ADAPTERS,
            "MAX_TOTAL_TOKENS": Field.LENGTH,
            "CUDA_MEMORY_FRACTION": Field.SHARE,
            "KV_CACHE_DTYPE": Field.KV_CACHE_DTYPE,
            "DTYPE": Field.DTYPE,
            "NUM_SHARD": Field.PARALLEL,
            "QUANTIZE": Field.RESHAPES,
        },
    ),
    Server(
        "tei",
        programs=(("text-embeddings-router",),),
        images=re.compile(r"(^|/)(huggingface-)?text-embeddings-inference(-[\w.-]+)?$"),
        options=_TEI,
        variables={"MODEL_ID": Field.MODEL, "REVISION": Field.REVISION, "DTYPE": Field.DTYPE},
    ),
    Server(
        "trtllm",
        programs=(("trtllm-serve", "serve"), ("trtllm-serve",)),
        modules=("tensorrt_llm.commands.serve serve", "tensorrt_llm.commands.serve"),
        positional=Field.MODEL,
        options=_TRTLLM,
    ),
    # A name without hf:// is one of NVIDIA's own registry.
    Server(
        "nim",
        programs=(("start_server.sh",), ("start-server.sh",)),
        images=re.compile(r"(^|/)nim/"),
        variables={
            "NIM_MODEL_PATH": Field.URI,
            "NIM_MODEL_NAME": Field.URI,
            "NIM_MAX_MODEL_LEN": Field.LENGTH,
            "NIM_KVCACHE_PERCENT": Field.SHARE,
            "NIM_TENSOR_PARALLEL_SIZE": Field.PARALLEL,
        },
    ),
    Server(
        "lmdeploy",
        programs=(("lmdeploy", "serve", "api_server"),),
        images=re.compile(r"(^|/)openmmlab/lmdeploy$"),
        positional=Field.MODEL,
        options=_LMDEPLOY,
    ),
    Server(
        "other",
        modules=("huggingfaceserver",),
        images=re.compile(r"(^|/)huggingfaceserver$"),
        formats=frozenset({"huggingface"}),
        options=_HUGGINGFACESERVER,
    ),
    Server(
        "other",
        images=re.compile(r"(^|/)(kserve-)?storage-initializer(-rhel\d+)?$"),
        containers=frozenset({"storage-initializer"}),
        positional=Field.URI,
    ),
)

# Counts whatever the program is.
GENERIC = Server(
    "other",
    variables={
        "HF_MODEL_ID": Field.MODEL,
        "STORAGE_URI": Field.URI,
        "HF_REVISION": Field.REVISION,
        "TENSOR_PARALLEL_DEGREE": Field.PARALLEL,
    },
)
