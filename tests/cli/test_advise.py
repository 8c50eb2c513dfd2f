"""`warmslice advise`: what it says, from a file and on a host, and what it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.model.history import MOST_BYTES, Day, History, Holder, Holders, Row, SlicePlace
from agent.plan.history import with_gpus
from agent.reconcile.advise import advised
from agent.report.advise import advice_drawn, lasting
from tests.fakes.simgpu import SimulatedGpus
from tests.fakes.world import h100

DAY = 86400.0
NOW = 20_780 * DAY
GIB = 1 << 30
GPU = replace(h100("3g.40gb@4:4 1g.10gb@1:1 1g.10gb@3:1"), uuid="GPU-3df027a3-553e-54b3-a462-f332a88d0a45")
EMBED = (Holder("search", "Deployment", "embed"),)


def _row(number: int, holders: Holders, peak_gib: float, load: float | None, quiet: float = 0.0) -> Row:
    instance = GPU.instances[number]
    place = SlicePlace(GPU.uuid, instance.profile, instance.placement)
    loaded = 0.0 if load is None else DAY
    days = tuple(Day(day, DAY, loaded, 0.05 * loaded, int(peak_gib * GIB), load) for day in range(20_771, 20_780))
    return Row(place, holders, NOW - 9 * DAY, NOW, None, NOW if holders else None, quiet, 0.0, days)


HISTORY = with_gpus(
    History(
        NOW,
        dict.fromkeys(range(20771, 20780), DAY),
        (
            _row(0, (Holder("default", "Deployment", "web"),), 9.0, 0.5),
            _row(1, (), 0.0, 0.0, quiet=9 * DAY),
            _row(2, EMBED, 6.2, 0.12),
        ),
        period_seconds=10.0,
    ),
    (GPU,),
    NOW,
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "history.json"
    path.write_bytes(HISTORY.to_json())
    return path


def _told(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["advise", *words]) == 0
    return capsys.readouterr().out


def test_it_is_said_for_people_in_lines_that_fit_a_terminal(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = _told(capsys, "--history", str(file))
    assert max(map(len, said.splitlines())) <= 100


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (
            0.12,
            "at most 12 % of its multiprocessors were busy on average over 10 s, 5 % over the whole time: "
            "1g.10gb has twice that.",
        ),
        (0.26, "over the whole time: 1g.10gb has that, but not twice; 2g.20gb has twice that."),
        (0.9, "over the whole time: more than 1g.10gb has, and no smaller one has twice that, so it could be slower."),
    ],
)
def test_a_load_is_called_the_average_that_it_is(load: float, said: str) -> None:
    history = replace(HISTORY, rows=(*HISTORY.rows[:2], _row(2, EMBED, 6.2, load)))
    text = " ".join(advice_drawn(advised(history, (GPU,), None, NOW, DAY)).split())
    assert f"{said} Shorter bursts are not seen, and would take longer there" in text


def test_programs_are_told_the_same_in_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer: dict[str, Any] = json.loads(_told(capsys, "--history", str(file), "--json"))
    assert list(answer) == ["observed_seconds", "needed_seconds", "seen", "gpus_seen", "advice", "gpus", "unknown"]
    kinds = [one["kind"] for one in answer["advice"]]
    assert kinds == ["oversized", "geometry", "idle"]
    assert (answer["observed_seconds"], answer["needed_seconds"], answer["unknown"]) == (9 * DAY, DAY, "")
    assert answer["gpus"][0]["fragmentation"] == pytest.approx(0.5)


def test_what_was_observed_for_too_short_a_time_says_how_long_it_takes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = h100("7g.80gb@0:8")
    (tmp_path / "h").write_bytes(with_gpus(History(NOW, {20_779: 3 * 3600.0}), (whole,), NOW).to_json())
    said = _told(capsys, "--history", str(tmp_path / "h"))
    assert said.splitlines()[:2] == [
        "observed 3 h, until 2026-11-23 00:00Z; GPUs as of 2026-11-23 00:00Z",
        "nothing to advise yet: advice on sizes and idle slices needs 24 h",
    ]
    assert "nothing to advise\n" in _told(capsys, "--history", str(tmp_path / "h"), "--min-days", "0.1")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--history", "/none/history.json"], "--history: there is no file /none/history.json"),
        (["--history", "/dev"], "history /dev cannot be read: Is a directory"),
        (["--min-days", "31"], "--min-days is 31; it must be from 0 to 30"),
        (["--min-days", "-1"], "--min-days is -1; it must be from 0 to 30"),
        (["--min-days", "nan"], "--min-days is nan; it must be from 0 to 30"),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"warmslice: {sentence}")
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b'{"version": 2, "history": {}}',
        b'{"version": 1, "history": {"gpus": [{"uuid": "\xff"}]}}',
        b"[" * 5000,
        b"x" * (MOST_BYTES + 1),
    ],
)
def test_a_file_that_is_no_history_is_refused(text: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "h").write_bytes(text)
    assert main(["advise", "--history", str(tmp_path / "h")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def _run(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agent", "advise", f"--state-directory={folder / 'state'}", *words]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **environment}, timeout=30
    )


def test_on_a_host_without_a_history_the_geometry_is_judged_all_the_same(tmp_path: Path) -> None:
    gpus = SimulatedGpus.create(tmp_path, mig=True)
    gpus.nvidia_smi("mig", "-cgi", "19,19,19,19,19,19,19", "-C")
    gpus.run("show")
    told = _run(tmp_path, **gpus.env())
    assert told.returncode == 0
    assert told.stdout.startswith("nothing observed yet; GPUs as they are now\n")
    assert "GPU 0  NVIDIA H100 80GB HBM3: fragmentation 0.00" in told.stdout
    assert "no history at" in told.stdout


def test_where_nvml_is_not_the_gpus_are_as_the_history_saw_them(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "history.json").write_bytes(HISTORY.to_json())
    told = _run(tmp_path, LD_LIBRARY_PATH="", SIMGPU_STATE="")
    assert told.returncode == 0
    assert "GPUs as of 2026-11-23 00:00Z" in told.stdout
    assert "NVML does not tell the GPUs of now" in told.stdout
    asked = _run(tmp_path, "--here", LD_LIBRARY_PATH="", SIMGPU_STATE="")
    assert asked.returncode == 1
    assert asked.stderr.count("\n") == 1


def test_a_gpu_that_cannot_be_read_is_named() -> None:
    lost = replace(GPU, unknown="a call has not come back", instances=())
    assert advice_drawn(advised(HISTORY, (lost,), None, NOW, DAY)).splitlines() == [
        "observed 9.0 days, until 2026-11-23 00:00Z; GPUs as they are now",
        "nothing to advise by what is known",
        "GPU 0 cannot be read: a call has not come back",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"), [(90, "2 min"), (3 * 3600, "3 h"), (86400, "24 h"), (9.2 * 86400, "9.2 days")]
)
def test_durations_are_as_people_say_them(seconds: float, words: str) -> None:
    assert lasting(seconds) == words
