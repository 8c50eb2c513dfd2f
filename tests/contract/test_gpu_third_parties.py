"""Programs that know nothing of us, run unchanged on the simulated GPU."""

import re
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from hack.ports import free_port
from tests.fakes.simgpu import H100, SimulatedGpus

PROGRAMS = Path(sys.executable).parent


@pytest.fixture
def node(tmp_path: Path) -> SimulatedGpus:
    """An H100 with a half and a slice, and an A100 outside MIG."""
    made = SimulatedGpus.create(tmp_path, H100, "A100-SXM4-40GB")
    assert made.nvidia_smi("-i", "0", "-mig", "1").returncode == 0
    assert made.nvidia_smi("mig", "-i", "0", "-cgi", "9,19", "-C").returncode == 0
    return made


def test_nvitop_draws_the_slices(node: SimulatedGpus) -> None:
    command = [str(PROGRAMS / "nvitop"), "-1", "--no-unicode"]
    shown = subprocess.run(command, env=node.env(), capture_output=True, text=True, timeout=60, check=True).stdout
    assert re.search(r"0:0 +3g\.40gb @ GI/CI: +2/0 .*39\.47GiB", shown)
    assert re.search(r"0:1 +1g\.10gb @ GI/CI: +\d+/0 ", shown)
    assert re.search(r"1 +A100-SXM4-40GB .*", shown)
    assert re.findall(r"\b(Enabled|Disabled)\b", shown) == ["Enabled", "Disabled"]


def test_nvitop_exporter_has_series_for_each_slice(node: SimulatedGpus, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "exporter.log"
    command = [str(PROGRAMS / "nvitop-exporter"), "--bind-address", "127.0.0.1", "--port", str(port)]
    with log.open("w") as output:
        exporter = subprocess.Popen(command, env=node.env(), stdout=output, stderr=subprocess.STDOUT)
    try:
        page = wait_for_series(exporter, f"http://127.0.0.1:{port}/metrics", log)
    finally:
        exporter.kill()
        exporter.wait()
    series = [line for line in page.splitlines() if "memory_total" in line and not line.startswith("#")]
    assert [uuid for uuid in node.mig_uuids() if not any(uuid in line for line in series)] == []


def wait_for_series(exporter: "subprocess.Popen[bytes]", url: str, log: Path) -> str:
    """The page once it has GPU series; AssertionError with the exporter's words when it ends or takes too long."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and exporter.poll() is None:
        page = fetch(url)
        if "MIG-" in page:
            return page
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def fetch(url: str) -> str:
    try:
        with urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
    except OSError:
        return ""
