"""Which models a pod serves is read from its spec, and from nothing that is not surely a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.desired.recognise import recognise
from agent.model.demand import Named, Role, Serving

PODS = Path(__file__).parent.parent / "data" / "pods"
EXPECTED: dict[str, list[dict[str, Any]]] = yaml.safe_load((PODS / "expected.yaml").read_text())


def serving(written: dict[str, Any]) -> Serving:
    models = tuple(Named(repository, revision, Role(role)) for repository, revision, role in written["models"])
    return Serving(**{**written, "models": models})


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_a_pod_serves_what_its_spec_says(name: str) -> None:
    """Exactly that, with all that the server is told."""
    spec = yaml.safe_load((PODS / name).read_text())
    assert recognise(spec) == tuple(map(serving, EXPECTED[name]))
