"""``warmslice status``: what a person reads first when a node is not as it should be."""

from __future__ import annotations

import json
from pathlib import Path

from agent.commands.status import print_status
from agent.settings import Settings
from hack.devcluster import kinds
from tests.fakes.devcluster import bare_node, dev_cluster


async def test_a_record_that_cannot_be_read_hides_nothing_else(tmp_path: Path) -> None:
    async with dev_cluster(tmp_path) as cluster:
        cluster.create(kinds.NODES, bare_node("gpu-1"))
        changed = {"warmslice.dev/operation": "half a rec"}
        labels = {"models.warmslice.dev/tiny": "ready"}
        cluster.merge(kinds.NODES, "gpu-1", {"metadata": {"annotations": changed, "labels": labels}})
        code, text = await print_status("gpu-1", Settings(kubeconfig=str(cluster.kubeconfig())), as_json=False)
        assert code == 0
        assert "change   annotation warmslice.dev/operation cannot be read" in text
        assert "model    tiny  ready" in text
        _, document = await print_status("gpu-1", Settings(kubeconfig=str(cluster.kubeconfig())), as_json=True)
    assert json.loads(document) == {
        "status": None,
        "operation": "half a rec",
        "models": {"tiny": "ready"},
        "starts": None,
    }
