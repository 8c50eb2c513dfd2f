"""`warmslice advise` beside an agent: what is used on the simulated GPUs is what it names."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families as parse

from tests.e2e.agent_node import AgentNode, agent_node

LAYOUT = "1x3g.40gb_1x2g.20gb_1x1g.10gb"


async def _advise(node: AgentNode, *words: str) -> str:
    command = [sys.executable, "-m", "agent", "advise", f"--state-directory={node.folder / 'state'}", *words]
    process = await asyncio.create_subprocess_exec(
        *command, env={**os.environ, **node.gpus.env()}, stdout=asyncio.subprocess.PIPE
    )
    text, _ = await process.communicate()
    assert process.returncode == 0
    return text.decode()


def _slices(node: AgentNode) -> dict[str, str]:
    """Profile to MIG UUID."""
    return {i["profile"]: i["cis"][0]["mig_uuid"] for i in node.gpus.show()["gpus"][0]["instances"]}


async def _seen(node: AgentNode, part: str, life: int = 1) -> None:
    """Wait until the metrics of that life of the agent have that, and two looks more."""
    async with asyncio.timeout(20):
        while [line["event"] for line in node.log()].count("started") < life:
            await asyncio.sleep(0.1)
        while part not in await node.page("/metrics"):
            await asyncio.sleep(0.1)
    await asyncio.sleep(0.5)


async def _loaded(node: AgentNode, uuid: str) -> None:
    """Wait until the metrics have its load and its memory."""
    load, memory = "warmslice_slice_utilization_ratio", "warmslice_slice_memory_used_bytes"
    async with asyncio.timeout(20):
        while True:
            samples = [one for family in parse(await node.page("/metrics")) for one in family.samples]
            shown = {one.name: one.value for one in samples if one.labels.get("mig_uuid") == uuid}
            if shown.get(load, 0.0) > 0.49 and shown.get(memory, 0.0) > 6000 << 20:
                return
            await asyncio.sleep(0.1)


async def test_what_was_used_is_named_with_who_used_it_and_what_would_do(tmp_path: Path) -> None:
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish(LAYOUT)
        await node.until("success", LAYOUT)
        await node.run_deployment("embed", "nvidia.com/mig-3g.40gb")
        await node.run_deployment("notebook", "nvidia.com/mig-2g.20gb")
        slices = _slices(node)
        node.gpus.attach(slices["3g.40gb"], memory_mib=6000)
        node.gpus.run("util", "--device", slices["3g.40gb"], "--graphics", "0.5", "--sm", "0.1")
        await _seen(node, 'pod="notebook')
        await _loaded(node, slices["3g.40gb"])
        assert await node.stop() == 0

        assert "advice on sizes and idle slices needs 24 h" in await _advise(node)
        answer: dict[str, Any] = json.loads(await _advise(node, "--min-days", "0", "--json"))
        assert answer["gpus_seen"] is None
        found = {(one["kind"], _place(one)): one for one in answer["advice"]}
        large = found["oversized", "3g.40gb"]
        assert (large["holders"], large["fits"]) == (["default/Deployment/embed"], "1g.10gb")
        # The simulated pod has a gigabyte of its own.
        assert 6000 << 20 <= large["peak_memory_bytes"] < 7200 << 20
        assert (large["compute"], round(large["peak_load"], 1)) == ("enough", 0.1)
        assert large["load_seconds"] > 0
        assert found["idle", "2g.20gb"]["slice"]["holders"] == ["default/Deployment/notebook"]
        assert found["idle", "1g.10gb"]["slice"]["holders"] == []
        assert ("idle", "3g.40gb") not in found

        # Elsewhere, from the file alone, the same is said of the same GPUs.
        (copy := tmp_path / "copy.json").write_bytes((node.folder / "state" / "history.json").read_bytes())
        elsewhere: dict[str, Any] = json.loads(await _advise(node, "--history", str(copy), "--min-days", "0", "--json"))
        assert elsewhere["gpus_seen"] is not None
        assert (elsewhere["advice"], elsewhere["gpus"]) == (answer["advice"], answer["gpus"])


async def test_an_agent_that_was_killed_has_lost_no_more_than_the_last_minutes(tmp_path: Path) -> None:
    """The file of the life before is still there, and the next life goes on with it."""
    async with agent_node(tmp_path) as node:
        await node.start()
        node.wish("small")
        await node.until("success", "small")
        await _seen(node, "warmslice_slice_info{")
        assert await node.stop() == 0
        before = json.loads(await _advise(node, "--json"))
        assert before["observed_seconds"] > 0

        await node.start()
        await _seen(node, "warmslice_slice_info{", 2)
        await node.kill()
        assert json.loads(await _advise(node, "--json"))["observed_seconds"] == before["observed_seconds"]

        await node.start()
        await _seen(node, "warmslice_slice_info{", 3)
        assert await node.stop() == 0
        assert json.loads(await _advise(node, "--json"))["observed_seconds"] > before["observed_seconds"]


def _place(one: dict[str, Any]) -> str:
    name: str = (
        one["profile"] if one["kind"] == "oversized" else one.get("slice", {}).get("slice", "").partition("@")[0]
    )
    return name
