"""A model of a kind that transformers knows, as small as one can be, with every file that a published one has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from hack.hub.content import ServedModel, read_model

LLAMA = "acme/Tiny-Llama"
WANTED_BY_DEFAULT = frozenset(
    {
        ".gitattributes",
        "README.md",
        "config.json",
        "generation_config.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
)
LEFT_OUT_BY_DEFAULT = frozenset({"original/consolidated.00.pth", "original/params.json", "pytorch_model.bin"})

_HIDDEN = 16
_INNER = 32
_LAYERS = 2
_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}
_Shapes = dict[str, tuple[int, ...]]
_TEXT = ("the weights are there before the pod arrives", "a slice that is held stays where it is")


def tiny_llama(folder: Path) -> ServedModel:
    """Weights in two shards, a tokenizer that was trained on two sentences; and what servers do not read."""
    (folder / "original").mkdir(parents=True)
    vocabulary = _write_tokenizer(folder)
    _write_json(folder / "config.json", _config(vocabulary))
    _write_json(folder / "generation_config.json", {"bos_token_id": 0, "eos_token_id": 1})
    _write_shards(folder, vocabulary)
    _write_json(folder / "original" / "params.json", {"dim": _HIDDEN, "n_layers": _LAYERS})
    for name in ("original/consolidated.00.pth", "pytorch_model.bin"):
        (folder / name).write_bytes(name.encode())
    (folder / "README.md").write_text("# Tiny Llama\n", "utf-8")
    (folder / ".gitattributes").write_text("*.safetensors filter=lfs diff=lfs merge=lfs -text\n", "utf-8")
    return read_model(LLAMA, folder)


def _config(vocabulary: int) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_attention_heads": 2,
        "num_hidden_layers": _LAYERS,
        "vocab_size": vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "torch_dtype": "float16",
    }


def _write_tokenizer(folder: Path) -> int:
    """Returns the size of its vocabulary."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **_SPECIAL})
    return tokenizer.get_vocab_size()


def _write_shards(folder: Path, vocabulary: int) -> None:
    random = numpy.random.default_rng(1)
    place: dict[str, str] = {}
    for number, shapes in enumerate((_ends(vocabulary), _layers()), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        tensors = {name: random.standard_normal(shape).astype(numpy.float16) for name, shape in shapes.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        place |= dict.fromkeys(shapes, file)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": place})


def _ends(vocabulary: int) -> _Shapes:
    """What comes once: before the layers and after them."""
    each = ("model.embed_tokens.weight", "lm_head.weight")
    return {**dict.fromkeys(each, (vocabulary, _HIDDEN)), "model.norm.weight": (_HIDDEN,)}


def _layers() -> _Shapes:
    square, wide, norm = (_HIDDEN, _HIDDEN), (_INNER, _HIDDEN), (_HIDDEN,)
    each: _Shapes = {f"self_attn.{part}_proj.weight": square for part in "qkvo"}
    each |= {"mlp.gate_proj.weight": wide, "mlp.up_proj.weight": wide, "mlp.down_proj.weight": wide[::-1]}
    each |= {"input_layernorm.weight": norm, "post_attention_layernorm.weight": norm}
    return {f"model.layers.{n}.{name}": shape for n in range(_LAYERS) for name, shape in each.items()}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
