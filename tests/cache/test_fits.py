"""A pod whose model cannot fit its slice is named before its server crashes for it: to its owner, and in a metric."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.model.cache import ModelState
from agent.model.errors import RefusedError, RetryError
from agent.model.fit import Misfit
from agent.model.node import Node
from agent.observe.model_shape import read_shape
from agent.reconcile.fits import SliceFits
from agent.reconcile.servings import PodServings
from hack.hub.content import read_model
from hack.hub.server import Hub
from tests.cache.test_cold_starts import NOW, pod, report
from tests.fakes.hub import fetch, order_for, write_files
from tests.plan.test_fit import LLAMA_8B, SMALL

REPOSITORY = "org/tiny"
NODE = Node("gpu-1", "u", "1", {f"{SMALL}.memory": "9728"}, {}, False, {}, {}, "b")


class Events:
    """An API server's Events; ``refuses``: the role does not let us write them."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []
        self.refuses = self.away = False

    async def create_event(self, namespace: str, event: dict[str, Any]) -> None:
        if self.away:
            raise RetryError("HTTP 503")
        if self.refuses:
            raise RefusedError("events is forbidden")
        self.said.append({"in": namespace, **event})


@pytest.fixture
async def cache(tmp_path: Path) -> Path:
    """One with a model whose configuration is that of an 8B model."""
    served, found = tmp_path / "served", tmp_path / "cache"
    served.mkdir()
    write_files(served, {"model-1.safetensors": 5000, "model-2.safetensors": 3000, "consolidated.safetensors": 8000})
    (served / "config.json").write_text(json.dumps(LLAMA_8B), "utf-8")
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
    (served / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    async with Hub({REPOSITORY: read_model(REPOSITORY, served)}) as hub:
        await fetch(order_for(hub, found, repository=REPOSITORY))
    return found


def commit_in(cache: Path) -> str:
    return (cache / "models--org--tiny" / "refs" / "main").read_text().strip()


def test_the_weights_of_a_model_are_counted_once(cache: Path) -> None:
    shape = read_shape(cache, REPOSITORY, commit_in(cache))
    assert shape is not None
    assert (shape.weights_bytes, shape.elements_per_token, shape.context_tokens) == (8000, 65_536, 131_072)
    assert read_shape(cache, REPOSITORY, "0" * 40) is None


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"model_type": "llama", "num_hidden_layers": 1e400}'])
def test_a_configuration_that_cannot_be_read_says_nothing(cache: Path, text: str) -> None:
    path = cache / "models--org--tiny" / "snapshots" / commit_in(cache) / "config.json"
    path.unlink()
    path.write_text(text)
    shape = read_shape(cache, REPOSITORY, commit_in(cache))
    assert shape is None or shape.elements_per_token is None


async def test_numbers_that_no_model_has_end_no_pass(cache: Path) -> None:
    """Whoever may upload a model writes its configuration."""
    path = cache / "models--org--tiny" / "snapshots" / commit_in(cache) / "config.json"
    path.unlink()
    path.write_text(json.dumps({**LLAMA_8B, "max_position_embeddings": 10**400, "num_hidden_layers": 10**300}))
    found = list[tuple[Misfit, ...]]()
    fits = SliceFits(cache, lambda: NODE, lambda: [asking("a")], PodServings(), Events(), found.append, lambda: NOW)
    await fits.look(at(cache))
    assert found == [()]


async def test_its_owner_is_told_once_and_the_metric_says_it_while_it_is_so(cache: Path) -> None:
    """A request of 131072 tokens needs 17 GB, which a slice of 10 GB has not; a shorter one fits."""
    found: list[tuple[Misfit, ...]] = []
    events = Events()
    pods = [
        asking("chat-1"),
        asking("chat-2"),
        asking("short", "--max-model-len", "2048"),
        asking("plain", resource=""),
    ]
    fits = SliceFits(cache, lambda: NODE, lambda: pods, PodServings(), events, found.append, lambda: NOW)
    ready = at(cache)
    for _ in range(3):
        await fits.look(ready)
    assert [{one.pod for one in misfits} for misfits in found] == [{"chat-1", "chat-2"}] * 3
    (event,) = events.said
    assert (event["in"], event["type"], event["reason"]) == ("serving", "Warning", "ModelDoesNotFit")
    assert event["involvedObject"] == {
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "chat", "uid": "rs-1", "namespace": "serving",
    }  # fmt: skip
    assert "cannot run org/tiny: 0.0 GB of weights and 17.2 GB for one request of 131072 tokens" in event["message"]
    pods.clear()
    await fits.look(ready)
    assert found[-1] == ()


async def test_a_pod_that_is_ready_fits_and_one_without_an_owner_is_told_itself(cache: Path) -> None:
    events, found = Events(), list[tuple[Misfit, ...]]()
    running, alone = asking("a"), asking("b")
    running["status"]["conditions"][1]["status"] = "True"
    running["metadata"]["ownerReferences"][0]["uid"] = "rs-2"
    del alone["metadata"]["ownerReferences"]
    fits = SliceFits(cache, lambda: NODE, lambda: [running, alone], PodServings(), events, found.append, lambda: NOW)
    await fits.look(at(cache))
    assert [event["involvedObject"]["kind"] for event in events.said] == ["Pod"]
    assert [one.pod for one in found[-1]] == ["b"]


async def test_an_api_server_that_is_away_for_a_moment_is_told_later(cache: Path) -> None:
    events = Events()
    fits = SliceFits(cache, lambda: NODE, lambda: [asking("a")], PodServings(), events, lambda _: None, lambda: NOW)
    events.away = True
    await fits.look(at(cache))
    events.away = False
    for _ in range(2):
        await fits.look(at(cache))
    assert len(events.said) == 1


async def test_what_was_ready_once_fits_whatever_its_probe_says_later(cache: Path) -> None:
    events, found = Events(), list[tuple[Misfit, ...]]()
    first, second = asking("a"), asking("b")
    fits = SliceFits(cache, lambda: NODE, lambda: [first, second], PodServings(), events, found.append, lambda: NOW)
    first["status"]["conditions"][1]["status"] = "True"
    await fits.look(at(cache))
    first["status"]["conditions"][1]["status"] = "False"
    await fits.look(at(cache))
    assert (events.said, found) == ([], [(), ()])


async def test_without_the_right_to_say_it_the_metric_says_it(cache: Path) -> None:
    events, found = Events(), list[tuple[Misfit, ...]]()
    events.refuses = True
    fits = SliceFits(cache, lambda: NODE, lambda: [asking("a")], PodServings(), events, found.append, lambda: NOW)
    await fits.look(at(cache))
    assert len(found[-1]) == 1


async def test_what_is_not_here_yet_is_not_judged(cache: Path) -> None:
    found = list[tuple[Misfit, ...]]()
    fits = SliceFits(cache, lambda: NODE, lambda: [asking("a")], PodServings(), Events(), found.append, lambda: NOW)
    await fits.look(report(ModelState.FETCHING))
    assert found == [()]


def at(cache: Path) -> Any:
    whole = report(ModelState.READY, 100)
    return replace(whole, models=(replace(whole.models[0], commit=commit_in(cache)),))


def asking(name: str, *options: str, resource: str = SMALL) -> Any:
    """A pod of a ReplicaSet that wants one slice."""
    found = pod(name, NOW)
    found["metadata"]["ownerReferences"] = [
        {"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "chat", "uid": "rs-1", "controller": True}
    ]
    container = found["spec"]["containers"][0]
    container["command"] += list(options)
    container["resources"] = {"limits": {resource: "1"}} if resource else {}
    return found
