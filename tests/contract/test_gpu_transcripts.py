"""Public transcripts of real hardware, typed in again: the same commands, the same ids, the same refusals."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.simgpu import H100, SimulatedGpus

A100 = "A100-SXM4-40GB"
IN_USE, INSUFFICIENT_RESOURCES = 19, 23


def mig_node(directory: Path, model: str) -> SimulatedGpus:
    return SimulatedGpus.create(directory, model, mig=True)


def starts(node: SimulatedGpus, wish: str) -> list[int]:
    """Places in the order of creation; the command must succeed."""
    done = node.nvidia_smi("mig", "-cgi", wish)
    assert done.returncode == 0, done.stdout
    return [entry["start"] for entry in node.log() if entry["function"] == "nvmlDeviceCreateGpuInstance"]


def test_the_users_guide_makes_two_halves(tmp_path: Path) -> None:
    """MIG User Guide, A100-40GB: a profile by id and one by name; the second half gets the lower id."""
    node = mig_node(tmp_path, A100)
    done = node.nvidia_smi("mig", "-cgi", "9,3g.20gb", "-C")
    made = re.findall(r"created GPU instance ID +(\d+) on GPU +0 using profile MIG 3g.20gb \(ID +9\)", done.stdout)
    assert (done.returncode, made) == (0, ["2", "1"])
    computes = re.findall(r"compute instance on GPU +0 GPU instance ID +(\d+) using profile ID +2", done.stdout)
    assert computes == ["2", "1"]


def test_the_users_guide_splits_a_half_into_three(tmp_path: Path) -> None:
    node = mig_node(tmp_path, A100)
    node.nvidia_smi("mig", "-cgi", "9")
    for _ in range(3):
        assert node.nvidia_smi("mig", "-cci", "0", "-gi", "2").returncode == 0
    listed = node.nvidia_smi("mig", "-lci", "-gi", "2").stdout
    assert re.findall(r"MIG 1c.3g.20gb +0 +(\d)", listed) == ["0", "1", "2"]


def test_the_users_guide_takes_it_apart_from_the_inside(tmp_path: Path) -> None:
    node = mig_node(tmp_path, A100)
    node.nvidia_smi("mig", "-cgi", "9", "-C")
    gone = node.nvidia_smi("mig", "-dci", "-ci", "0", "-gi", "2")
    assert "Successfully destroyed compute instance ID  0 from GPU  0 GPU instance ID  2" in gone.stdout
    assert node.nvidia_smi("mig", "-dgi", "-gi", "2").returncode == 0
    assert node.show()["gpus"][0]["instances"] == []


@pytest.mark.parametrize("model", [A100, H100])
def test_seven_slices_fill_up_from_the_end(tmp_path: Path, model: str) -> None:
    assert starts(mig_node(tmp_path, model), "19,19,19,19,19,19,19") == [6, 4, 5, 0, 1, 2, 3]


@pytest.mark.parametrize("model", [A100, H100])
def test_three_pairs_leave_the_last_slice_to_the_media_extension(tmp_path: Path, model: str) -> None:
    assert starts(mig_node(tmp_path, model), "14,14,14,20") == [4, 0, 2, 6]


@pytest.mark.parametrize("wish", ["19,19,14,9"])
def test_small_slices_first_leave_no_room_for_a_half(tmp_path: Path, wish: str) -> None:
    node = mig_node(tmp_path, A100)
    refused = node.nvidia_smi("mig", "-cgi", wish)
    assert refused.returncode == INSUFFICIENT_RESOURCES
    assert "using profile 9: Insufficient Resources" in refused.stdout
    assert [instance["profile"] for instance in node.show()["gpus"][0]["instances"]].count("3g.20gb") == 0


def test_the_half_first_leaves_room_for_the_small_ones(tmp_path: Path) -> None:
    assert len(starts(mig_node(tmp_path, A100), "9,19,14,19")) == 4


def test_an_rtx_pro_6000_gives_no_instance_up_before_its_compute_instance(tmp_path: Path) -> None:
    node = mig_node(tmp_path, "RTX-PRO-6000-96GB")
    made = node.nvidia_smi("mig", "-cgi", "14,14,14,14", "-C")
    assert sorted(re.findall(r"created GPU instance ID +(\d+)", made.stdout)) == ["3", "4", "5", "6"]
    refused = node.nvidia_smi("mig", "-dgi", "-gi", "3")
    assert refused.returncode == IN_USE
    assert "In use by another client" in refused.stdout


def test_a_gh200_has_one_media_extension(tmp_path: Path) -> None:
    node = mig_node(tmp_path, "GH200-96GB")
    refused = node.nvidia_smi("mig", "-cgi", "20,20,20", "-C")
    assert refused.returncode == INSUFFICIENT_RESOURCES
    assert "Insufficient Resources" in refused.stdout
    assert [instance["profile"] for instance in node.show()["gpus"][0]["instances"]] == ["1g.12gb+me"]


def test_a_placement_passed_by_value_kills_the_process(tmp_path: Path) -> None:
    """pynvml sets no argument types: the struct's bytes arrive as an address."""
    code = (
        "import pynvml as n\n"
        "n.nvmlInit()\n"
        "gpu = n.nvmlDeviceGetHandleByIndex(0)\n"
        "n.nvmlDeviceCreateGpuInstanceWithPlacement(gpu, 19, n.c_nvmlGpuInstancePlacement_t(3, 1))\n"
    )
    node = mig_node(tmp_path, H100)
    died = subprocess.run([sys.executable, "-c", code], env=node.env(), capture_output=True, check=False)
    assert died.returncode == -signal.SIGSEGV
    assert node.nvidia_smi("mig", "-cgi", "19").returncode == 0


PROFILES_SEEN = """\
+-------------------------------------------------------------------------------+
| GPU instance profiles:                                                        |
| GPU   Name               ID    Instances   Memory     P2P    SM    DEC   ENC  |
|                                Free/Total   GiB              CE    JPEG  OFA  |
|===============================================================================|
|   0  MIG 1g.10gb         19     7/7        9.75       No     16     1     0   |
|                                                               1     1     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 1g.10gb+me      20     1/1        9.75       No     16     1     0   |
|                                                               1     1     1   |
+-------------------------------------------------------------------------------+
|   0  MIG 1g.20gb         15     4/4        19.62      No     26     1     0   |
|                                                               1     1     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 2g.20gb         14     3/3        19.62      No     32     2     0   |
|                                                               2     2     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 3g.40gb          9     2/2        39.50      No     60     3     0   |
|                                                               3     3     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 4g.40gb          5     1/1        39.50      No     64     4     0   |
|                                                               4     4     0   |
+-------------------------------------------------------------------------------+
|   0  MIG 7g.80gb          0     1/1        79.25      No     132    7     0   |
|                                                               8     7     1   |
+-------------------------------------------------------------------------------+
"""
PLACEMENTS_SEEN = """\
GPU  0 Profile ID 19 Placements: {0,1,2,3,4,5,6}:1
GPU  0 Profile ID 20 Placements: {0,1,2,3,4,5,6}:1
GPU  0 Profile ID 15 Placements: {0,2,4,6}:2
GPU  0 Profile ID 14 Placements: {0,2,4}:2
GPU  0 Profile ID  9 Placements: {0,4}:4
GPU  0 Profile ID  5 Placement : {0}:4
GPU  0 Profile ID  0 Placement : {0}:8
"""


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["-lgip"], PROFILES_SEEN),
        (["-lgipp"], PLACEMENTS_SEEN),
        (["-lgi"], "No MIG-enabled devices found.\n"),
        (["-lci"], "No MIG-enabled devices found.\n"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_lists_of_an_h100_with_mig_off(tmp_path: Path, words: list[str], seen: str) -> None:
    """Driver 580.159.04, on a machine of our own."""
    done = SimulatedGpus.create(tmp_path, H100).nvidia_smi("mig", *words)
    assert (done.returncode, done.stdout) == (0, seen)
