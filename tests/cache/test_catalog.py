"""What a catalog says, and the sentence that explains each way to get it wrong."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.desired.catalog import read_catalog, wanted_models
from agent.model.catalog import (
    Catalog,
    CatalogModel,
    CatalogRefusal,
    RepositoryFile,
    derived_name,
    mapped_weights,
    selected,
)

CATALOG = """
models:
  - repository: acme/tiny
    name: tiny
  - repository: acme/large
    revision: v2
    priority: 10
    ignore_patterns: ["*.bin"]
    endpoint: https://mirror.example.com
sets:
  small: [tiny]
  none: []
"""

LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
REPOSITORY_PART = st.text("abcXYZ019-_.", min_size=1, max_size=96)


def catalog(text: str) -> Catalog:
    read = read_catalog(text)
    assert isinstance(read, Catalog)
    return read


def test_a_catalog_is_read_with_its_defaults() -> None:
    assert catalog(CATALOG).models == {
        "tiny": CatalogModel("tiny", "acme/tiny"),
        "acme--large": CatalogModel(
            "acme--large", "acme/large", "v2", None, ("*.bin",), 10, "https://mirror.example.com"
        ),
    }


def test_a_model_can_be_asked_to_be_in_memory() -> None:
    read = catalog("models: [{repository: a/b, page_cache: true}, {repository: a/c}]").models
    assert {name: model.page_cache for name, model in read.items()} == {"a--b": True, "a--c": False}


def test_what_a_server_maps_are_the_safetensors_and_without_them_what_is_large() -> None:
    shards = [RepositoryFile(f"model-{n}.safetensors", 1 << n, str(n) * 64) for n in (1, 2)]
    tokenizer = RepositoryFile("tokenizer.json", 17_000_000, "3" * 64)
    gguf, small = RepositoryFile("m.gguf", 1 << 30, "4" * 64), RepositoryFile("config.json", 500, "5" * 64)
    again = RepositoryFile("copy.safetensors", 2, "1" * 64)
    assert {file.blob for file in mapped_weights([small, *shards, tokenizer])} == {"1" * 64, "2" * 64}
    assert mapped_weights([small, gguf]) == (gguf,)
    assert len(mapped_weights([*shards, again])) == 2
    assert mapped_weights([small]) == ()


@pytest.mark.parametrize("text", ["", "models: []", "# nothing yet\n"])
def test_an_empty_catalog_wants_nothing(text: str) -> None:
    assert wanted_models(catalog(text), {}) == ()


def test_without_the_label_all_models_are_wanted_the_most_urgent_first() -> None:
    wanted = wanted_models(catalog(CATALOG), {})
    assert isinstance(wanted, tuple)
    assert [model.name for model in wanted] == ["acme--large", "tiny"]


@pytest.mark.parametrize(("chosen", "names"), [("small", ["tiny"]), ("none", [])])
def test_the_label_chooses_a_set(chosen: str, names: list[str]) -> None:
    wanted = wanted_models(catalog(CATALOG), {"warmslice.dev/model-set": chosen})
    assert isinstance(wanted, tuple)
    assert [model.name for model in wanted] == names


def test_a_model_with_node_labels_is_wanted_on_nodes_that_have_them_all() -> None:
    read = catalog("models: [{repository: a/b, nodes: {gpu: h100, zone: a}}, {repository: a/c}]")
    for labels, names in [
        ({}, ["a--c"]),
        ({"gpu": "h100"}, ["a--c"]),
        ({"gpu": "h100", "zone": "a", "x": "y"}, ["a--b", "a--c"]),
    ]:
        wanted = wanted_models(read, labels)
        assert isinstance(wanted, tuple)
        assert [model.name for model in wanted] == names


@pytest.mark.parametrize(
    ("engine", "kept"),
    [
        (None, ["config.json", "consolidated.safetensors", "model-1.safetensors"]),
        ("vllm", ["config.json", "consolidated.safetensors", "model-1.safetensors"]),
        ("tgi", ["config.json", "model-1.safetensors"]),
        ("sglang", ["config.json", "model-1.safetensors"]),
    ],
)
def test_weights_that_are_there_twice_are_kept_once_for_a_server_that_reads_one_kind(
    engine: str | None, kept: list[str]
) -> None:
    files = tuple(RepositoryFile(path, 1, "0" * 64) for path in [*sorted(kept), "x.bin"])
    both = (*files, RepositoryFile("consolidated.safetensors", 1, "1" * 64)) if engine in {"tgi", "sglang"} else files
    assert [file.path for file in selected(both, None, None, engine)] == kept
    only = (RepositoryFile("consolidated.safetensors", 1, "1" * 64),)
    assert selected(only, None, None, engine) == only


def test_a_set_that_does_not_exist_is_refused_with_those_that_do() -> None:
    refused = wanted_models(catalog(CATALOG), {"warmslice.dev/model-set": "big"})
    assert isinstance(refused, CatalogRefusal)
    assert "'big'" in refused.message
    assert "none, small" in refused.message


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("models: [{repository: a/b, priority: high}]", "models[0].priority is 'high': expected a whole number"),
        ("models: [{repository: tiny}]", "models[0].repository is 'tiny', expected org/name"),
        ("models: [{repository: a/../b}]", "models[0].repository is 'a/../b', expected org/name"),
        ("models: [{repo: a/b}]", "unknown field `repo` (known: repository, name,"),
        ("models: 3", "models is 3: expected a list"),
        ("models: [{repository: a/b, name: -x}]", "models[0].name is '-x', expected at most 63"),
        ("models: [{repository: a/b, revision: ../x}]", "models[0].revision is '../x', expected a branch"),
        ("models: [{repository: a/b, endpoint: hub}]", "models[0].endpoint is 'hub', expected a URL"),
        ("models: [{repository: a/b, bytes_per_second: 0}]", "models[0].bytes_per_second is 0, expected 1 or more"),
        ("models: [{repository: a/b, pin: 3}]", "models[0].pin is 3: expected true or false"),
        ("models: [{repository: a/b, follow_seconds: 5}]", "models[0].follow_seconds is 5, expected 60 or more"),
        (f"models: [{{repository: a/b, follow_seconds: 60, revision: {'a' * 40}}}]", "is a commit: name a branch"),
        ("models: [{repository: a/b, token: ../x}]", "models[0].token is '../x', expected the name of a file in"),
        ("models: [{repository: a/b, engine: llama}]", "models[0].engine is 'llama', expected one of vllm, sglang"),
        ("models: [{repository: a/b, nodes: {gpu: 1}}]", "models[0].nodes is {'gpu': 1}: expected text"),
        ("models: [{repository: a/b}, {repository: a/b, revision: x}]", "models[1].name is 'a--b', which an earlier"),
        ("models: [{repository: a/b}]\nsets: {s: [c]}", "sets.s[0] is 'c', expected the name of a model (known: a--b)"),
        ("models: [{repository: a/b}]\nsets: {s: [[c]]}", "sets.s[0] is ['c'], expected the name of a model"),
        ("sets: {s: all}", "sets.s is 'all', expected a list"),
        ("models: [{repository: a/b, revision: 2024-99-99}]", "model catalog:1:38: not YAML: a value cannot be"),
        ("models: " + "[" * 5000, "not YAML: brackets are nested too deep"),
        ("models: [", "model catalog:1:10: not YAML: "),
        ("- a/b", "the document is ['a/b'], expected a mapping"),
    ],
)
def test_a_mistake_is_named_with_its_value_and_what_would_be_right(text: str, sentence: str) -> None:
    read = read_catalog(text)
    assert isinstance(read, CatalogRefusal)
    assert sentence in "\n".join(mistake.at("model catalog") for mistake in read.mistakes)


def test_every_mistake_is_told_where_it_stands() -> None:
    text = """\
models:
- repository: tiny
  priority: high
  bandwidth: 3
- name: x
- repository: a/b
  name: -x
  bytes_per_second: 0
  bytes_per_second: 5
sets:
  s: [a--b, c]
"""
    read = read_catalog(text)
    assert isinstance(read, CatalogRefusal)
    assert [(mistake.line, mistake.column) for mistake in read.mistakes] == [
        (3, 13), (4, 3), (5, 3), (7, 9), (9, 3), (11, 7), (11, 13),
    ]  # fmt: skip
    assert read.message == read.mistakes[0].at("model catalog")
    assert read.at("c.yaml").splitlines()[1] == (
        "c.yaml:4:3: models[0]: unknown field `bandwidth` (known: repository, name, revision, allow_patterns, "
        "ignore_patterns, priority, endpoint, bytes_per_second, pin, follow_seconds, nodes, "
        "token, engine, gate, page_cache)"
    )


@given(org=REPOSITORY_PART, name=REPOSITORY_PART)
def test_a_derived_name_is_a_legal_label_name(org: str, name: str) -> None:
    derived = derived_name(f"{org}/{name}")
    assert derived == "" or LABEL_NAME.fullmatch(derived)
    assert derived or not any(c.isalnum() for c in org + name)


@given(
    org=st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True), name=st.from_regex(r"[a-z0-9.]{0,96}[a-z0-9]", fullmatch=True)
)
def test_a_derived_name_says_the_repository_or_ends_in_its_hash(org: str, name: str) -> None:
    whole = f"{org}--{name}"
    derived = derived_name(f"{org}/{name}")
    if len(whole) <= 63:
        assert derived == whole
    else:
        assert derived == f"{whole[:54]}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"
        assert len(derived) == 63


def listing(*paths: str) -> tuple[RepositoryFile, ...]:
    return tuple(RepositoryFile(path, 1, "0" * 40) for path in paths)


def chosen(
    files: tuple[RepositoryFile, ...], allow: tuple[str, ...] | None = None, ignore: tuple[str, ...] | None = None
) -> list[str]:
    return [file.path for file in selected(files, allow, ignore)]


def test_by_default_what_repeats_the_safetensors_is_left_out() -> None:
    files = listing("model.safetensors", "pytorch_model.bin", "onnx/model.onnx", "onnx/config.json", "x.gguf")
    assert chosen(files) == ["model.safetensors", "onnx/config.json"]


def test_by_default_other_weights_are_kept_where_there_are_no_safetensors() -> None:
    files = listing("pytorch_model.bin", "consolidated.00.pth", "original/params.json", "config.json")
    assert chosen(files) == ["pytorch_model.bin", "config.json"]


def test_both_layouts_of_safetensors_are_kept() -> None:
    files = listing("consolidated.safetensors", "model-00001-of-00001.safetensors", "tokenizer.model.v3")
    assert chosen(files) == [file.path for file in files]


def test_patterns_given_replace_the_defaults() -> None:
    files = listing("model.safetensors", "pytorch_model.bin", "a/config.json")
    assert chosen(files, allow=("*.bin", "*.json")) == ["pytorch_model.bin", "a/config.json"]
    assert chosen(files, ignore=("*.safetensors",)) == ["pytorch_model.bin", "a/config.json"]
    assert chosen(files, allow=("*",), ignore=("a/*",)) == ["model.safetensors", "pytorch_model.bin"]
