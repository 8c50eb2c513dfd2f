"""A local hub with one small model, on the loop of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from huggingface_hub import close_session

from hack.hub.content import ServedModel
from hack.hub.server import Hub
from tests.fakes.hub import tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
async def hub(model: ServedModel) -> AsyncIterator[Hub]:
    async with Hub({model.repository: model}) as running:
        yield running
        close_session()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "hub"
