"""What the node should show for its slices."""

from __future__ import annotations

from agent.model.node import Node
from agent.plan.advertise import Word, difference, expected
from tests.fakes.world import h100

CUT = h100("3g.40gb@0:4 1g.10gb@4:1 1g.10gb@5:1")


def _node(allocatable: dict[str, int]) -> Node:
    return Node("gpu-1", "u", "1", {}, {}, False, allocatable, {}, "b")


def test_each_strategy_shows_slices_in_its_own_way() -> None:
    assert expected((CUT,), "mixed") == {"nvidia.com/mig-3g.40gb": 1, "nvidia.com/mig-1g.10gb": 2}
    assert expected((CUT,), "single") == {"nvidia.com/gpu": 3}
    assert expected((CUT,), "none") == {"nvidia.com/gpu": 1}


def test_a_resource_that_is_listed_with_none_left_is_not_shown() -> None:
    shown = {"nvidia.com/mig-3g.40gb": 1, "nvidia.com/mig-1g.10gb": 2, "nvidia.com/mig-7g.80gb": 0}
    assert difference(_node(shown), (CUT,), Word()) == ""
    assert "2 nvidia.com/mig-1g.10gb" in difference(_node({**shown, "nvidia.com/mig-1g.10gb": 3}), (CUT,), Word())


def test_shared_slices_are_shown_times_their_replicas_under_their_own_or_a_new_name() -> None:
    labels = {"nvidia.com/mig-1g.10gb.replicas": "4"}
    node = _node({"nvidia.com/mig-3g.40gb": 1, "nvidia.com/mig-1g.10gb": 8})
    renamed = _node({"nvidia.com/mig-3g.40gb": 1, "nvidia.com/mig-1g.10gb.shared": 8})
    for one in (node, renamed):
        with_labels = Node(one.name, one.uid, "1", labels, {}, False, one.allocatable, {}, "b")
        assert difference(with_labels, (CUT,), Word()) == ""
        assert difference(one, (CUT,), Word()) != ""
