"""Which models the pods of a node serve, by the names that metrics have."""

from __future__ import annotations

from typing import Any

from agent.model.demand import PodModel
from agent.reconcile.servings import PodServings


def vllm(name: str, model: str, phase: str = "Running", **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "vllm/vllm-openai:v0.11", "args": ["--model", model]}
    return {
        "metadata": {"name": name, "namespace": "ml", "uid": f"uid-{name}"},
        "spec": {"containers": [container], **spec},
        "status": {"phase": phase},
    }


def test_a_model_has_the_name_that_it_has_in_the_catalog_else_the_one_of_its_label() -> None:
    pods = [vllm("a", "org/tiny"), vllm("b", "org/other")]
    assert PodServings().models(pods, {("org/tiny", "main"): "chat"}) == (
        PodModel("ml", "a", "chat"),
        PodModel("ml", "b", "org--other"),
    )


def test_replicas_of_one_server_are_pods_of_their_own_and_what_has_ended_serves_nothing() -> None:
    pods = [vllm("a", "org/tiny"), vllm("b", "org/tiny"), vllm("c", "org/tiny", "Failed")]
    assert [one.pod for one in PodServings().models(pods, {})] == ["a", "b"]


def test_a_pod_that_serves_no_model_of_the_hub_is_not_named() -> None:
    assert PodServings().models([vllm("a", "/models/tiny")], {}) == ()
