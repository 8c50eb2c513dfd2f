"""The sampler on a real GPU, which it only reads: ``pytest -m gpu``, alone in its process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from importlib.util import find_spec

import pytest
import pytest_asyncio

from agent.adapters.nvml import Hardware
from agent.model.telemetry import GpuSample, TelemetrySnapshot
from agent.observe.telemetry import Telemetry

pytestmark = pytest.mark.gpu
INTERVAL_SECONDS = 2.0
BURN = """
import time, torch
a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
torch.cuda.synchronize()
print("busy", flush=True)
while True:
    for _ in range(50):
        a @ a
    torch.cuda.synchronize()
"""


@pytest_asyncio.fixture
async def telemetry(request: pytest.FixtureRequest) -> AsyncIterator[Telemetry]:
    if request.config.getoption("-m") != "gpu":
        pytest.skip("needs a process of its own: pytest -m gpu")
    hardware = Hardware()
    seen: list[TelemetrySnapshot] = []
    sampler = Telemetry(hardware, INTERVAL_SECONDS, time.time, seen.append)
    try:
        if (await sampler.look()).error:
            pytest.skip(f"no GPU: {seen[-1].error}")
        yield sampler
    finally:
        await sampler.pause()
        await hardware.release()


async def whole(telemetry: Telemetry) -> GpuSample:
    gpu = (await telemetry.look()).gpus[0]
    if gpu.mig:
        pytest.skip("the GPU is cut into slices")
    return gpu


async def test_a_gpu_at_rest_tells_its_health_and_that_it_rests(telemetry: Telemetry) -> None:
    await whole(telemetry)
    await asyncio.sleep(INTERVAL_SECONDS)  # the hardware's own time
    gpu = await whole(telemetry)
    assert gpu.down == ""
    assert gpu.temperature_celsius is not None
    assert gpu.power_watts is not None
    assert gpu.memory_total_bytes is not None
    assert gpu.utilization.graphics == pytest.approx(0, abs=0.05)
    assert gpu.processes == 0


async def test_a_gpu_that_multiplies_matrices_is_busy_by_every_word(telemetry: Telemetry) -> None:
    before = await whole(telemetry)
    if find_spec("torch") is None:
        pytest.skip("nothing here that could use the GPU")
    burning = await asyncio.create_subprocess_exec(sys.executable, "-c", BURN, stdout=subprocess.PIPE)
    try:
        assert burning.stdout is not None
        assert (await burning.stdout.readline()).strip() == b"busy"
        for _ in range(3):
            await asyncio.sleep(INTERVAL_SECONDS)
            gpu = await whole(telemetry)
    finally:
        burning.kill()
        await burning.wait()
    load = gpu.utilization
    assert load.graphics is not None
    assert load.graphics > 0.9
    assert load.tensor is not None
    assert load.tensor > 0.3
    assert gpu.processes == 1
    assert gpu.memory_used_bytes is not None
    assert before.memory_used_bytes is not None
    assert gpu.memory_used_bytes - before.memory_used_bytes > 128 << 20
    assert gpu.active_seconds is not None
    assert INTERVAL_SECONDS < gpu.active_seconds < 4 * INTERVAL_SECONDS


async def test_no_xid_comes_of_looking(telemetry: Telemetry) -> None:
    assert [(await telemetry.look()).xids for _ in range(3)] == [{}, {}, {}]
