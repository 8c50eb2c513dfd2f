"""A layout and the model that belongs to it become due at the same time: which comes first. Told on a node in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.model import labels
from agent.model.cold_start import Ledger, vouch
from agent.reconcile.partition import PartitionPass
from tests.fakes.world import NodeWorld, Steps, agent_on, h100, settle

DAY, NIGHT = "2x3g.40gb", "7x1g.10gb"
SEVEN = " ".join(f"1g.10gb@{start}:1" for start in range(7))
LABEL = f"{labels.MODEL_PREFIX}big"
CATALOG = f"""\
models:
- {{repository: acme/big, name: big, gate: true, nodes: {{{labels.CONFIG}: {DAY}}}}}
- {{repository: acme/free, name: free}}
"""


class Site:
    """A node with its night's slices, one of which a pod holds, and a catalog that ties a model to the day's."""

    def __init__(self, folder: Path, layout: str = SEVEN, *, aware: bool = True) -> None:
        self.catalog = folder / "catalog.yaml"
        self.catalog.write_text(CATALOG, "utf-8")
        self.world = NodeWorld(h100(layout))
        self.pod = self.world.add_pod("serves", self.world.device(0, 0)) if layout else ""
        self.partition, self.hands = self.agent(aware)

    def agent(self, aware: bool = True) -> tuple[PartitionPass, Steps]:
        return agent_on(self.world, catalog_file=str(self.catalog) if aware else "")

    def model(self, state: str) -> None:
        """What the cache role says, in the journal of the world's effects too."""
        self.world.effects.happen(f"model-{state}", lambda: self.world.label(LABEL, state))
        if state == "ready":
            self.vouch("acme/big", "main", self.world.boot.id)

    def vouch(self, repository: str, revision: str, boot_id: str) -> None:
        """What the cache role says of what is ready."""
        self.world.annotate(labels.MODELS, Ledger(vouched={"big": vouch(repository, revision, boot_id)}).to_json())

    async def turns(self, count: int) -> None:
        for _ in range(count):
            await self.partition()
            self.world.tick()

    @property
    def journal(self) -> list[str]:
        return self.world.effects.names

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.world.node["metadata"]["annotations"].get(labels.STATUS, "{}"))
        return found


async def test_nothing_is_destroyed_before_the_model_of_the_new_layout_is_on_disk(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.world.label(value=DAY)
    await site.turns(5)
    assert site.status["reason"] == "model-not-ready"
    assert site.status["message"].endswith("gated models of this node: big is not looked at yet")
    site.model("fetching")
    await site.turns(20)
    assert "big is fetching" in site.status["message"]
    # Two sentences, and nothing else: nobody was asked to go, the node takes pods.
    assert site.journal == ["patch", "model-fetching", "patch"]
    assert not site.world.node["spec"].get("unschedulable")
    assert site.world.uids("serves") == [site.pod]
    site.model("ready")
    await settle(site.world, site.partition)
    assert site.status["state"] == "success"
    order = [site.journal.index(name) for name in ("model-fetching", "model-ready", "evict", "destroy", "create")]
    assert order == sorted(order)


async def test_without_the_setting_the_change_goes_at_once_and_no_catalog_is_read(tmp_path: Path) -> None:
    site = Site(tmp_path, aware=False)
    site.catalog.unlink()
    site.world.label(value=DAY)
    await settle(site.world, site.partition)
    site.model("ready")
    assert site.status["state"] == "success"
    order = [site.journal.index(name) for name in ("evict", "destroy", "create", "model-ready")]
    assert order == sorted(order)


async def test_a_change_that_takes_nothing_away_is_not_held_up(tmp_path: Path) -> None:
    site = Site(tmp_path, "3g.40gb@0:4")
    site.world.label(value=DAY)
    await settle(site.world, site.partition)
    assert site.status["state"] == "success"
    assert "destroy" not in site.journal
    assert LABEL not in site.world.node["metadata"]["labels"]


async def test_a_layout_that_no_gated_model_belongs_to_waits_for_none(tmp_path: Path) -> None:
    site = Site(tmp_path, "3g.40gb@0:4 3g.40gb@4:4")
    site.world.label(value=NIGHT)
    await settle(site.world, site.partition)
    assert site.status["state"] == "success"


async def test_a_change_that_is_under_way_goes_on_when_its_model_is_lost(tmp_path: Path) -> None:
    """Found damaged, say. To stop here would keep the node cordoned."""
    site = Site(tmp_path)
    site.world.label(LABEL, "ready")
    site.vouch("acme/big", "main", site.world.boot.id)
    site.world.label(value=DAY)
    for _ in range(20):
        if "evict" not in site.journal:
            await site.turns(1)
    assert "evict" in site.journal
    site.model("fetching")
    site.partition, site.hands = site.agent()
    await settle(site.world, site.partition)
    assert site.status["state"] == "success"


@pytest.mark.parametrize("text", [None, "models: 5", "models: [{repository: acme/big, gate: maybe}]"])
async def test_a_catalog_that_cannot_be_read_is_waited_for_in_its_own_words(tmp_path: Path, text: str | None) -> None:
    site = Site(tmp_path)
    site.world.label(LABEL, "ready")
    site.vouch("acme/big", "main", site.world.boot.id)
    site.catalog.unlink() if text is None else site.catalog.write_text(text, "utf-8")
    site.world.label(value=DAY)
    await site.turns(5)
    assert (site.status["reason"], "model catalog" in site.status["message"]) == ("model-not-ready", True)
    assert site.journal == ["patch"]
    site.catalog.write_text(CATALOG, "utf-8")
    await settle(site.world, site.partition)
    assert site.status["state"] == "success"


async def test_a_dry_run_says_that_the_change_would_wait(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.world.annotate(labels.DRY_RUN, "true")
    site.world.label(value=DAY)
    await site.turns(3)
    answer = json.loads(site.world.node["metadata"]["annotations"][labels.PLAN])
    assert (answer["verdict"], answer["reason"]) == ("wait", "model-not-ready")
    assert len(answer["gpus"][0]["destroy"]) == 7


async def test_a_wish_that_is_taken_back_while_it_waits_leaves_no_trace(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.world.label(value=DAY)
    await site.turns(3)
    site.world.label(value=NIGHT)
    await settle(site.world, site.partition)
    assert (site.status["state"], site.status["layout"]) == ("success", NIGHT)
    assert set(site.journal) == {"patch"}


@pytest.mark.parametrize(
    ("repository", "revision", "boot"),
    [("acme/big", "v1", ""), ("acme/other", "main", ""), ("acme/big", "main", "boot-0")],
)
async def test_a_label_that_speaks_of_something_else_is_not_trusted(
    tmp_path: Path, repository: str, revision: str, boot: str
) -> None:
    """Of the catalog before this one, or of the disk before the last boot: until the cache role has looked again."""
    site = Site(tmp_path)
    site.world.label(LABEL, "ready")
    site.vouch(repository, revision, boot or site.world.boot.id)
    site.world.label(value=DAY)
    await site.turns(5)
    assert (site.status["reason"], site.world.uids("serves")) == ("model-not-ready", [site.pod])
    assert site.status["message"].endswith("big is ready, but of another revision or boot")
    site.model("ready")
    await site.turns(5)
    assert site.status["reason"] != "model-not-ready"
