"""The command line: what a person types, what is printed, and the exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agent.cli import main


def test_a_plan_on_paper_keeps_four_destroys_three_and_creates_one(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", "--gpu", "H100-80GB-SXM", "--from", "7x1g.10gb", "--to", "1x3g.40gb_4x1g.10gb", "--json"]
    assert main(arguments) == 0
    plan = json.loads(capsys.readouterr().out)
    assert (plan["verdict"], plan["pods"], plan["unknown"]) == ("change", [], "")
    gpu = plan["gpus"][0]
    assert gpu["keep"] == [f"1g.10gb@{start}:1" for start in range(4)]
    assert gpu["destroy"] == [f"1g.10gb@{start}:1" for start in (4, 5, 6)]
    assert gpu["create"] == ["3g.40gb@4:4"]


@pytest.mark.parametrize(
    "command",
    [["run"], ["plan"], ["layouts"], ["check"], ["status"], ["cache"], ["cache", "pull"], ["advise"], []],
    ids=" ".join,
)
def test_every_command_explains_itself(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([*command, "--help"])
    assert end.value.code == 0
    assert "usage: warmslice" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["plan", "--gpu", "H200", "--to", "7x1g.10gb"], "GPU model 'H200' is not in the table"),
        (["plan", "--gpu", "A30", "--to", "7x1g.10gb"], "has no profile 1g.10gb"),
        (["plan", "--gpu", "H100-80GB-SXM", "--to", ""], "the layout is empty"),
        (["check", "/nonexistent.yaml"], "/nonexistent.yaml"),
        (["run", "--layouts-file", "x", "--resync-seconds", "soon"], "resync_seconds"),
        (["run", "--resync-seconds", "0", "--node-name", "n"], "resync_seconds is 0"),
        (["run", "--resync-seconds", ".nan", "--node-name", "n"], "resync_seconds is nan"),
        (["run", "--drain-seconds", "-1", "--node-name", "n"], "drain_seconds is -1"),
        (["run", "--wait-for-jobs-seconds", "-1", "--node-name", "n"], "wait_for_jobs_seconds is -1"),
        (["cache", "ls", "--fetch-connections=0"], "fetch_connections is 0; it must be from 1 to 64"),
        (
            ["cache", "ls", "--fetch-at-once=-1"],
            "fetch_at_once is -1; it must be from 1 to 1000 nodes, or 0 for no limit",
        ),
        (["run", "--reconnect-jitter-seconds=0"], "reconnect_jitter_seconds is 0.0; it must be from 0.5 to 600"),
        (["cache", "ls", "--scrub-days=-1"], "scrub_days is -1.0; it must be 0 or more"),
        (["cache", "ls", "--scrub-bytes-per-second=0"], "scrub_bytes_per_second is 0; it must be 1 or more"),
        (
            ["run", "--node-name=n", "--tls-key-file=/k"],
            "tls_key_file is /k and tls_certificate_file is not set; set both or none",
        ),
        (["cache", "ls", "--page-cache-ratio=1.5"], "page_cache_ratio is 1.5; it must be from 0 to 1"),
        (["cache", "gc", "--cache-keep-revisions=-1"], "cache_keep_revisions is -1; it must be 0 or more"),
        (["cache", "ls", "--cache-budget-bytes=-5"], "cache_budget_bytes is -5; it must be 0 or more"),
        (
            ["cache", "ls", "--fetch-bytes-per-second=0"],
            "fetch_bytes_per_second is 0; it must be 1 or more, or not set",
        ),
        (["run", "--cache-reserve-ratio", "1.5", "--node-name", "n"], "cache_reserve_ratio is 1.5"),
        (
            ["run", "--max-unavailable", "some", "--node-name", "n"],
            "max_unavailable is 'some'; it must be a number of nodes",
        ),
        (
            ["run", "--max-unavailable", "3", "--maintenance-window", "at night"],
            "maintenance_window is 'at night'; it must",
        ),
        (
            ["run", "--max-unavailable", "3", "--maintenance-window", "22:00-06:00 Mars/Base"],
            "knows no zone 'Mars/Base'",
        ),
        (["run", "--maintenance-window", "22:00-06:00", "--node-name", "n"], "max_unavailable is 0; nobody grants"),
        (["run", "--namespace", "", "--node-name", "n"], "namespace is empty"),
        (
            ["run", "--dcgm-exporter", "127.0.0.1:9400", "--node-name", "n"],
            "dcgm_exporter is '127.0.0.1:9400'; it must be",
        ),
        (["run", "--dcgm-exporter", "http://me:secret@host/", "--node-name", "n"], "a URL without a user"),
        (["run", "--dcgm-exporter", "http://host:port/", "--node-name", "n"], "dcgm_exporter is 'http://host:port/'"),
        (["run", "--dcgm-exporter-interval-seconds", "0", "--node-name", "n"], "dcgm_exporter_interval_seconds is 0"),
        (["run", "--settings", "/nonexistent.yaml"], "settings file /nonexistent.yaml"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "text", "sentence"),
    [
        (["check"], "version: v1\nmig-configs: {day: 2024-99-99}", "month must be in 1..12; put it in quotes"),
        (["check"], "version: v1\n1: 2\nmig-configs: {}", "unknown field 1"),
        (["check"], "models: [{repository: a/b}]\nsets: {day: [[x]]}", "sets.day[0] is ['x']"),
        (["run", "--settings"], "resync_seconds: 2024-99-99", "month must be in 1..12; put it in quotes"),
        (["run", "--settings"], "{1: 2, a: 3}", "unknown setting 1"),
        (["run", "--cache-budget-bytes", "2024-99-99", "--settings"], "", "'2024-99-99' is not a value for cache_budg"),
    ],
)
def test_whatever_stands_in_a_file_is_one_sentence_too(
    command: list[str], text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The parser's own errors are of many kinds, and the agent reads the same files again and again while it runs."""
    file = tmp_path / "file.yaml"
    file.write_text(text, "utf-8")
    assert main([*command, str(file)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("file", "text", "sentence"),
    [
        ("absent", None, "absent: there is no such file"),
        ("empty", "", "no way to reach an API server, neither by a kubeconfig (--kubeconfig, KUBECONFIG) nor as a pod"),
        ("broken", "}{", "while parsing a block node expected the node content"),
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named(
    file: str, text: str | None, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        (tmp_path / file).write_text(text, "utf-8")
    assert main(["status", "gpu-1", "--kubeconfig", str(tmp_path / file)]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_run_without_a_node_name_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NODE_NAME", raising=False)
    assert main(["run"]) == 2
    assert "node_name is not set" in capsys.readouterr().err


def test_check_tells_which_layouts_a_gpu_cannot_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "layouts.yaml"
    entry = "[{devices: all, mig-enabled: true, mig-devices: %s}]"
    wrong = entry % "{3g.40gb: 2, 2g.20gb: 1}"
    file.write_text(f"version: v1\nmig-configs:\n  good: {entry % '{1g.10gb: 7}'}\n  wrong: {wrong}\n", "utf-8")
    assert main(["check", str(file)]) == 0
    assert main(["check", str(file), "--gpu", "H100-80GB-SXM"]) == 1
    said = capsys.readouterr().out
    assert "layout 'wrong': 2x3g.40gb, 1x2g.20gb do not fit together" in said
    assert "2 layouts, 1 refused" in said


def test_check_says_every_mistake_where_an_editor_finds_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "layouts.yaml"
    file.write_text("version: v1\nmig-configs:\n  a: []\n  b: [{devices: all}]\n", "utf-8")
    assert main(["check", str(file)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines() == [
        f"{file}:3:6: mig-configs.a is []; it must be a list with at least one entry",
        f"{file}:4:7: mig-configs.b[0]: mig-enabled is missing; "
        "an entry has devices, mig-enabled, mig-devices, device-filter, sharing",
    ]


def test_check_tells_which_periods_of_a_schedule_have_no_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "layouts.yaml"
    periods = "{a: {from: '07:00', layout: 7x1g.10gb}, b: {from: '19:00', layout: nigth}}"
    file.write_text(f"version: v1\nmig-configs: {{}}\nschedules:\n  office: {{periods: {periods}}}\n", "utf-8")
    assert main(["check", str(file)]) == 1
    assert "schedules.office.periods.b: layout 'nigth' is neither" in capsys.readouterr().out
    file.write_text(file.read_text("utf-8").replace("nigth", "all-balanced"), "utf-8")
    assert main(["check", str(file)]) == 0
    assert main(["check", str(file), "--gpu", "H100-80GB-SXM"]) == 0
    assert main(["check", str(file), "--gpu", "A100-SXM4-40GB"]) == 1
    assert "schedules.office.periods.a: layout '7x1g.10gb'" in capsys.readouterr().out


def test_what_would_go_from_the_cache_is_told_in_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "catalog.yaml").write_text("models: []\n", "utf-8")
    where = [f"--catalog-file={tmp_path / 'catalog.yaml'}", f"--cache-directory={tmp_path / 'hub'}"]
    assert main(["cache", "gc", "--dry-run", *where, "--cache-reserve-ratio=0"]) == 0
    assert capsys.readouterr().out == "to keep the budget: nothing has to go\n"
    assert main(["cache", "gc", "--free=3GiB", *where, "--cache-budget-bytes=1000000000"]) == 1
    assert "to fit 3.2 GB: 2.22 GB are lacking, and what is there stays:" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["much", "3 apples", "1.2.3GB", ""])
def test_a_number_of_bytes_that_is_none_is_named(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["cache", "gc", "--free", text])
    assert f"{text!r} is no number of bytes: write 20000000000 or 20GB" in capsys.readouterr().err


def test_layouts_lists_the_maximal_geometries(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layouts", "--gpu", "H100-80GB-SXM", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 44
    assert "7x1g.10gb" in found
    assert "1x4g.40gb_1x3g.40gb" in found


def test_settings_come_from_file_environment_and_flags_the_last_wins(tmp_path: Path) -> None:
    from agent.settings import load

    file = tmp_path / "settings.yaml"
    file.write_text("node_name: from-file\nresync_seconds: 100\nevict_unmanaged: true\n", "utf-8")
    settings = load(
        str(file), {"WARMSLICE_RESYNC_SECONDS": "200", "WARMSLICE_NODE_NAME": "from-env"}, {"role": "cache"}
    )
    assert (settings.node_name, settings.resync_seconds, settings.role) == ("from-env", 200, "cache")
    assert settings.evict_unmanaged
    assert settings.roles == {"cache"}


def test_a_mapping_can_be_given_as_a_flag_and_in_the_environment() -> None:
    from agent.settings import load

    settings = load(
        None, {"WARMSLICE_GPU_PRICES": '{"NVIDIA H100*": 2.5, "*": 1}'}, {"prewarm_allow": '{"*": ["org/*"]}'}
    )
    assert settings.gpu_prices == {"NVIDIA H100*": 2.5, "*": 1}
    assert settings.prewarm_allow == {"*": ["org/*"]}


def test_off_may_stand_in_the_settings_file_without_quotes(tmp_path: Path) -> None:
    """YAML takes it for false."""
    from agent.settings import load

    file = tmp_path / "settings.yaml"
    file.write_text("prewarm: off\ndcgm_exporter: off\ndcgm_names: off\n", "utf-8")
    settings = load(str(file), {}, {})
    assert (settings.prewarm, settings.dcgm_exporter, settings.dcgm_names) == ("off", "off", False)
