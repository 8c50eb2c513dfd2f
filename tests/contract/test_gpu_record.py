"""``hack/record_gpu`` on every simulated model gives the table back, and leaves everything as it is."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pynvml
import pytest

from hack.record import compute_profiles, compute_row, instance_handles, record, table_row
from tests.contract.nvml_contract import profiles
from tests.contract.nvml_session import Session, destroy_all
from tests.fakes.simgpu import H100, SimulatedGpus

ROOT = Path(__file__).parents[2]
TABLE: dict[str, dict[str, Any]] = json.loads((ROOT / "agent/data/mig_geometry.json").read_text())
RECORDED = ROOT / "tests/data/recorded"
NOT_ASKED = {"profiles", "compute", "names", "pci_device_ids", "mig_mode_survives_reboot", "name_aliases", "source"}


def differences(known: dict[str, Any], told: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What the table knows and the record says otherwise."""
    asked = known.keys() - NOT_ASKED
    return {key: (known[key], told[key]) for key in asked if known[key] is not None and known[key] != told[key]}


def by_enum(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    return {row["enum"]: row for row in rows}


@pytest.mark.parametrize("session", TABLE, indirect=True)
def test_a_record_is_the_tables_row(session: Session, request: pytest.FixtureRequest) -> None:
    key = request.node.callspec.params["session"]
    [(told_key, told)] = record()["table"].items()
    known = TABLE[key]
    assert told_key == key
    assert differences(known, told) == {}
    assert told["names"] == known["names"][:1]
    assert not known["pci_device_ids"] or told["pci_device_ids"] == known["pci_device_ids"][:1]
    assert by_enum(told["profiles"]).keys() == by_enum(known["profiles"]).keys()
    for enum, row in by_enum(known["profiles"]).items():
        assert differences(row, by_enum(told["profiles"])[enum]) == {}


def told_of_hardware(told: dict[str, Any]) -> list[dict[str, Any]]:
    """A record's raw answers without what is one machine's or one moment's: board number, utilization."""
    raws = []
    for raw in told["raw"]:
        returns = {metric: row["return"] for metric, row in raw["gpm"]["metrics"].items()}
        changes = {
            "pci_subsystem_id": None,
            "gpm": {**raw["gpm"], "metrics": returns},
            "health": _kinds(raw["health"]),
        }
        raws.append({**raw, **changes})
    return raws


def _kinds(answer: Any) -> Any:
    """Numbers are of the moment; that there is one, or which error, is the hardware's."""
    if isinstance(answer, dict) and "error" not in answer:
        return {key: _kinds(value) for key, value in answer.items() if key != "event_types"}
    return answer if isinstance(answer, dict) else type(answer).__name__


@pytest.mark.parametrize("model", sorted(path.stem for path in RECORDED.glob("*.json")))
def test_the_simulated_gpu_answers_as_the_real_one_did(tmp_path: Path, model: str) -> None:
    """``tests/data/recorded``: what ``hack/record_gpu`` printed on hardware, MIG off."""
    seen = json.loads((RECORDED / f"{model}.json").read_text())
    opened = Session(SimulatedGpus.create(tmp_path, model))
    simulated = record()
    pynvml.nvmlShutdown()
    assert told_of_hardware(simulated) == told_of_hardware(seen)
    assert simulated["driver"].partition(".")[0] == seen["driver"].partition(".")[0]
    [(key, row)] = seen["table"].items()
    assert (key, opened.node.show()["gpus"][0]["model"]) == (model, model)
    assert differences(TABLE[model] | {"max_mig_devices": None}, row) == {}


def test_a_gpu_with_mig_off_has_no_instances(tmp_path: Path) -> None:
    opened = Session(SimulatedGpus.create(tmp_path, H100))
    handles, count = (pynvml.c_nvmlGpuInstance_t * 32)(), pynvml.c_uint(7)
    pynvml.nvmlDeviceGetGpuInstances(opened.gpu, opened.profile("1g.10gb").id, handles, pynvml.byref(count))
    pynvml.nvmlShutdown()
    assert count.value == 0


@pytest.mark.parametrize("session", TABLE, indirect=True)
def test_compute_profiles_are_told_by_the_instances_that_exist(
    session: Session, request: pytest.FixtureRequest
) -> None:
    known = by_enum(TABLE[request.node.callspec.params["session"]]["profiles"])
    for profile in profiles(session.gpu):
        session.create(profile.name, profile.starts[0])
        [handle] = instance_handles(session.gpu, profile.id)
        told = by_enum([compute_row(compute) for compute in compute_profiles(handle)])
        rows = by_enum(known[profile.enumerator]["compute"])
        assert told.keys() == rows.keys()
        assert [differences(row, told[enum]) for enum, row in rows.items()] == [{}] * len(rows)
        destroy_all(session.gpu)


def test_the_program_prints_json_and_changes_nothing(tmp_path: Path) -> None:
    node = SimulatedGpus.create(tmp_path, f"{H100}:1", "A100-SXM4-40GB", mig=True)
    node.nvidia_smi("mig", "-cgi", "9,19", "-C")
    before, log = node.show(), node.log()
    program = [sys.executable, str(ROOT / "hack" / "record_gpu")]
    told = json.loads(subprocess.run(program, env=node.env(), capture_output=True, text=True, check=True).stdout)
    assert told["table"].keys() == {H100, "A100-SXM4-40GB"}
    assert (node.show(), node.log()) == (before, log)
    assert not [name for name in node.counters() if "Set" in name and not name.startswith("nvmlEventSet")]
    hopper, ampere = told["raw"]
    assert {metric["return"] for metric in list(hopper["gpm"]["metrics"].values())[:13]} == {0}
    assert ampere["gpm"] == {"supported": False}


@pytest.mark.parametrize("branch", [535, 550, 570, 580])
def test_what_an_old_driver_does_not_tell_is_null(tmp_path: Path, branch: int) -> None:
    node = SimulatedGpus.create(tmp_path, H100, driver=branch, mig=True)
    program = [sys.executable, str(ROOT / "hack" / "record_gpu")]
    told = json.loads(subprocess.run(program, env=node.env(), capture_output=True, text=True, check=True).stdout)
    rows = told["table"][H100]["profiles"]
    assert {row["name"] is None for row in rows} == {branch == 535}
    assert told["table"][H100] == table_row(told["raw"][0], told["driver"])


def test_without_a_driver_it_says_so(tmp_path: Path) -> None:
    node = SimulatedGpus.create(tmp_path)
    node.state.unlink()
    program = [sys.executable, str(ROOT / "hack" / "record_gpu")]
    done = subprocess.run(program, env=node.env(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "record_gpu: no NVML here: Driver Not Loaded\n"
