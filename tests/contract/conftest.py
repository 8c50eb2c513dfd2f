"""What the GPU's contract tests share."""

from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest

from tests.contract.nvml_session import Session
from tests.fakes.simgpu import H100, SimulatedGpus


@pytest.fixture
def session(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Session]:
    """One board (H100 unless parametrised) in MIG mode."""
    opened = Session(SimulatedGpus.create(tmp_path, getattr(request, "param", H100), mig=True))
    yield opened
    pynvml.nvmlShutdown()
