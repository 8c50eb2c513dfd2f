"""What the development API server remembers of the past: so many changes, for whoever watches from one of them on."""

from __future__ import annotations

from typing import Any

import pytest

from hack.devcluster import kinds
from hack.devcluster.store import HISTORY_LENGTH, Store


def _node(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name}}


@pytest.mark.parametrize("name", ["", "gpu-1"])
async def test_the_last_changes_are_remembered_in_order_of_all_and_of_one_name(name: str) -> None:
    store = Store()
    for number in range(HISTORY_LENGTH + 7):
        store.put(kinds.NODES if number % 2 else kinds.EVENTS, _node(f"gpu-{number % 5}"))
    assert store.oldest_watchable_revision() == 7
    watched = store.subscribe(kinds.NODES, kinds.EVENTS, after=store.oldest_watchable_revision(), name=name)
    revisions = [change.revision for change in await watched.next_batch()]
    expected = range(8, HISTORY_LENGTH + 8)
    assert revisions == [revision for revision in expected if not name or (revision - 1) % 5 == 1]
    store.compact()
    store.put(kinds.NODES, _node("gpu-1"))
    watched = store.subscribe(kinds.NODES, after=store.oldest_watchable_revision(), name=name)
    assert [change.revision for change in await watched.next_batch()] == [HISTORY_LENGTH + 8]
