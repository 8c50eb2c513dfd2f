"""What README and docs/ show as data is what it is said to be: the agent's own readers and Kubernetes' schemas take it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from agent.reconcile.check import check_file
from agent.settings import Settings, load
from hack.kubectl import kubectl
from tests.docs.blocks import ROOT, Block, blocks, pages
from tests.manifests.sources import BASE

Reader = Callable[[Block, Path], None]

VERSION = "1.34"
YAML = [block for page in pages() for block in blocks(page) if block.language == "yaml"]


def _agents_own(block: Block, folder: Path) -> None:
    """A layouts file or a catalog, which `warmslice check` tells apart."""
    code, said = check_file(str(_written(block, folder)), None)
    assert code == 0, said


def _settings(block: Block, folder: Path) -> None:
    load(str(_written(block, folder)), {}, {})


def _objects(block: Block, folder: Path) -> None:
    for document in _documents(block):
        _validate(document)


def _pod_spec(block: Block, folder: Path) -> None:
    (part,) = _documents(block)
    containers = [{"name": "main", "image": "main"}]
    _validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": containers, **part}}
    )


def _patch(block: Block, folder: Path) -> None:
    """Of the DaemonSet, as kustomize merges it: it changes something, and what comes of it is valid."""
    (folder / "daemonset.yaml").write_bytes((BASE / "daemonset.yaml").read_bytes())
    patched = {"resources": ["daemonset.yaml"], "patches": [{"path": _written(block, folder).name}]}
    before, after = (_kustomized(folder, one) for one in ({"resources": ["daemonset.yaml"]}, patched))
    assert before != after
    assert _containers(before) == _containers(after)
    _validate(after)


def _containers(daemonset: Any) -> set[str]:
    return {one["name"] for one in daemonset["spec"]["template"]["spec"]["containers"]}


def _part(block: Block, folder: Path) -> None:
    assert _documents(block)


READERS: dict[str, Reader] = {
    "layouts": _agents_own,
    "catalog": _agents_own,
    "settings": _settings,
    "object": _objects,
    "pod spec": _pod_spec,
    "patch": _patch,
    "part": _part,
    "values": _part,
}


def _documents(block: Block) -> list[Any]:
    return [document for document in yaml.safe_load_all(block.text) if document is not None]


def _written(block: Block, folder: Path) -> Path:
    file = folder / "shown.yaml"
    file.write_text(block.text, "utf-8")
    return file


def _kustomized(folder: Path, what: dict[str, Any]) -> Any:
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(what), "utf-8")
    command = [str(kubectl()), "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return yaml.safe_load(done.stdout)


def _validate(document: Any) -> None:
    """Kinds that are not Kubernetes' own have no schema here."""
    try:
        kubernetes_validate.validate(document, VERSION, strict=True)
    except kubernetes_validate.SchemaNotFoundError:
        assert "." in document["apiVersion"].partition("/")[0], document["kind"]


def what_is(block: Block) -> str:
    """Its mark, else what its keys say; empty where they say nothing."""
    documents = _documents(block)
    if block.mark("is") or not all(isinstance(one, dict) for one in documents):
        return block.mark("is")
    keys = {key for one in documents for key in one}
    if "mig-configs" in keys:
        return "layouts"
    if all({"apiVersion", "kind"} <= set(one) for one in documents):
        return "object"
    if keys <= {"models", "sets"}:
        return "catalog"
    return "settings" if keys <= set(Settings.__struct_fields__) else ""


@pytest.mark.parametrize("block", YAML, ids=lambda block: str(block.where))
def test_yaml_is_what_it_is_said_to_be(block: Block, tmp_path: Path) -> None:
    kind = what_is(block)
    assert kind in READERS, f"{block.where} is {kind!r}: its mark may be <!-- is: X -->, X one of {', '.join(READERS)}"
    READERS[kind](block, tmp_path)


def test_json_is_json() -> None:
    for block in (one for page in pages() for one in blocks(page) if one.language == "json"):
        json.loads(block.text)


@pytest.mark.parametrize(
    "text",
    [
        "version: v1\nmig-configs: {day: [{devices: all}]}",
        "models: [{repository: a/b, revison: main}]",
        "max_unavailable: some",
        "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: a, imag: b}]}}",
        "{apiVersion: v1, kind: Pud, metadata: {name: a}}",
    ],
)
def test_a_mistake_in_what_is_shown_is_noticed(text: str, tmp_path: Path) -> None:
    block = Block(ROOT / "README.md", 1, "yaml", text, ())
    with pytest.raises(Exception, match=r"."):
        READERS[what_is(block)](block, tmp_path)
