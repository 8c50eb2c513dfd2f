"""What is recorded: every part of a GPU once, and costs that add up to what the GPUs cost, whoever looks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.report import families
from tests.observability.rules import ROOT, groups, promtool_says, records, write_rules

Series = dict[str, str]
Answers = Mapping[str, Mapping[str, float]]
"""Query to what it answers: labels to value."""


def slice_(node: str, gpu: int, profile: str, uuid: str, instance: int = 1) -> str:
    """Labels of a slice, but its holder."""
    place = f'node="{node}", gpu="{gpu}", gpu_uuid="GPU-{gpu}", profile="{profile}", mig_uuid="{uuid}"'
    return f'{place}, gpu_instance="{instance}"'


def gpu(node: str, index: int) -> str:
    """Labels of a GPU."""
    return f'node="{node}", gpu="{index}", gpu_uuid="GPU-{index}"'


def held(namespace: str = "", pod: str = "") -> str:
    """Labels of a holder."""
    return f'namespace="{namespace}", pod="{pod}", container="{"main" if pod else ""}"'


LARGE = slice_("gpu-1", 0, "3g.40gb", "MIG-a", 1)
SHARED = slice_("gpu-1", 0, "1g.10gb", "MIG-b", 2)
FREE = slice_("gpu-1", 0, "1g.10gb", "MIG-c", 3)
AMPERE = slice_("gpu-2", 4, "7g.40gb", "MIG-d", 0)
CHAT, CHAT_2, SMALL, SMALL_2 = held("ml", "chat-1"), held("ml", "chat-2"), held("ml", "small-1"), held("web", "small-2")
TRAIN = held("batch", "train-0")

_GPUS = ((0, "gpu-1", "on", 1, 2), (1, "gpu-1", "off", 1, 2), (2, "gpu-1", "off", 1, 2))
_MORE = ((3, "gpu-2", "on", 0, 4), (4, "gpu-2", "on", 1, 1), (5, "gpu-2", "on", 1, 1))

SCENE: Series = {
    # GPU 0: a slice of chat's that works half of the time, one that two pods share, a free one, and a quarter uncut.
    f"warmslice_slice_gpu_share_ratio{{{LARGE}, {CHAT}}}": "0.5x30",
    f"warmslice_slice_info{{{LARGE}, {CHAT}}}": "1x30",
    f"warmslice_slice_active_seconds_total{{{LARGE}, {CHAT}}}": "0+30x30",
    f"warmslice_slice_memory_used_bytes{{{LARGE}, {CHAT}}}": "20x30",
    f"warmslice_slice_memory_total_bytes{{{LARGE}, {CHAT}}}": "40x30",
    f"warmslice_slice_gpu_share_ratio{{{SHARED}, {held()}}}": "0.125x30",
    f"warmslice_slice_info{{{SHARED}, {SMALL}}}": "1x30",
    f"warmslice_slice_info{{{SHARED}, {SMALL_2}}}": "1x30",
    f"warmslice_slice_active_seconds_total{{{SHARED}, {held()}}}": "0+15x30",
    f"warmslice_slice_memory_used_bytes{{{SHARED}, {held()}}}": "8x30",
    f"warmslice_slice_memory_total_bytes{{{SHARED}, {held()}}}": "10x30",
    f"warmslice_slice_gpu_share_ratio{{{FREE}, {held()}}}": "0.125x30",
    f"warmslice_slice_info{{{FREE}, {held()}}}": "1x30",
    f"warmslice_slice_active_seconds_total{{{FREE}, {held()}}}": "0+0x30",
    # GPU 1 is whole and works all the time; GPU 2 is whole and nobody's; GPU 3 is lost; GPU 4 tells no load; GPU 5 has no slice.
    f"warmslice_gpu_holder_info{{{gpu('gpu-1', 1)}, {TRAIN}}}": "1x30",
    f"warmslice_gpu_active_seconds_total{{{gpu('gpu-1', 1)}, {TRAIN}}}": "0+60x30",
    f"warmslice_gpu_active_seconds_total{{{gpu('gpu-1', 2)}, {held()}}}": "0+0x30",
    f"warmslice_gpu_memory_used_bytes{{{gpu('gpu-1', 1)}, {TRAIN}}}": "70x30",
    f"warmslice_gpu_memory_total_bytes{{{gpu('gpu-1', 1)}, {TRAIN}}}": "80x30",
    f"warmslice_slice_gpu_share_ratio{{{AMPERE}, {CHAT_2}}}": "1x30",
    f"warmslice_slice_info{{{AMPERE}, {CHAT_2}}}": "1x30",
    **{f'warmslice_gpu_info{{{gpu(n, i)}, model="m", mig="{mig}"}}': "1x30" for i, n, mig, _, _ in _GPUS + _MORE},
    **{f"warmslice_gpu_up{{{gpu(n, i)}}}": f"{up}+0x30" for i, n, _, up, _ in _GPUS + _MORE},
    **{f"warmslice_gpu_price_per_hour{{{gpu(n, i)}}}": f"{price}x30" for i, n, _, _, price in _GPUS + _MORE},
    'warmslice_pod_workload_info{node="gpu-1", namespace="ml", pod="chat-1", kind="Deployment", workload="chat"}': "1x30",
    'warmslice_pod_workload_info{node="gpu-2", namespace="ml", pod="chat-2", kind="Deployment", workload="chat"}': "1x30",
    'warmslice_pod_model_info{node="gpu-1", namespace="ml", pod="chat-1", model="x"}': "1x30",
    'warmslice_pod_model_info{node="gpu-1", namespace="ml", pod="chat-1", model="y"}': "1x30",
    'warmslice_pod_model_info{node="gpu-2", namespace="ml", pod="chat-2", model="x"}': "1x30",
}
STATES = ("free", "idle", "lost", "uncut", "unmeasured", "used")

ANSWERS: Answers = {
    "sum by (gpu) (warmslice:gpu_state:gpu_share)": {f'gpu="{index}"': 1 for index in range(6)},
    "count by (gpu) (warmslice:gpu_state:gpu_share)": {f'gpu="{index}"': 6 for index in range(6)},
    "sum(warmslice:gpu_state:cost_per_hour)": {"": 12},
    "sum by (state) (warmslice:node_state:cost_per_hour{node='gpu-1'})": dict(
        zip((f'state="{s}"' for s in STATES), (2.25, 0.6875, 0, 0.5, 0, 2.5625), strict=True)
    ),
    "sum by (state) (warmslice:node_state:cost_per_hour{node='gpu-2'})": dict(
        zip((f'state="{s}"' for s in STATES), (0, 0, 4, 1, 1, 0), strict=True)
    ),
    # What pods hold is the rest, by namespace, by workload, and (where a pod serves one) by model.
    "sum by (namespace) (warmslice:namespace_state:cost_per_hour)": {
        'namespace="ml"': 2.125,
        'namespace="web"': 0.125,
        'namespace="batch"': 2,
    },
    "sum(warmslice:namespace_state:cost_per_hour) + "
    "sum(warmslice:node_state:cost_per_hour{state=~'free|uncut|lost'})": {"": 12},
    "warmslice:workload_state:cost_per_hour{workload='chat'}": {
        'namespace="ml", kind="Deployment", workload="chat", state="used"': 0.5,
        'namespace="ml", kind="Deployment", workload="chat", state="idle"': 0.5,
        'namespace="ml", kind="Deployment", workload="chat", state="unmeasured"': 1,
    },
    "sum by (kind, workload) (warmslice:workload_state:cost_per_hour{namespace!='ml'})": {
        'kind="Pod", workload="small-2"': 0.125,
        'kind="Pod", workload="train-0"': 2,
    },
    "sum by (model) (warmslice:model_state:cost_per_hour)": {'model="x"': 1.5, 'model="y"': 0.5},
    "sum by (model) (warmslice:model_state:gpu_share)": {'model="x"': 1.25, 'model="y"': 0.25},
    # GPU 1 and 2 are whole: (0.25 + 0.03125 + 0 + 1 + 0) of 2.75 measured.
    "warmslice:node:utilization_ratio": {'node="gpu-1"': 0.4659},
    "warmslice:namespace:utilization_ratio": {
        'namespace="ml"': 0.4722,
        'namespace="web"': 0.25,
        'namespace="batch"': 1,
    },
    "warmslice:namespace:memory_used_bytes": {'namespace="ml"': 24, 'namespace="web"': 4, 'namespace="batch"': 70},
    "warmslice:namespace:memory_total_bytes": {'namespace="ml"': 45, 'namespace="web"': 5, 'namespace="batch"': 80},
    "warmslice:free_devices:count": {
        'node="gpu-1", profile="3g.40gb"': 0,
        'node="gpu-1", profile="1g.10gb"': 1,
        'node="gpu-1", profile="whole"': 1,
        'node="gpu-2", profile="7g.40gb"': 0,
    },
    "warmslice:held_devices:count": {
        'node="gpu-1", profile="3g.40gb"': 1,
        'node="gpu-1", profile="1g.10gb"': 1,
        'node="gpu-1", profile="whole"': 1,
        'node="gpu-2", profile="7g.40gb"': 1,
    },
}


def ask(tmp_path: Path, series: Series, answers: Answers, at: str, every: str = "1m", evaluated: str = "") -> None:
    """Ask promtool what Prometheus would answer, to four digits. Series have a value, and rules are evaluated, so often."""
    order = write_rules(tmp_path / "rules.yml")
    expected = [
        {
            "expr": f"round({query}, 0.0001)",
            "eval_time": at,
            "exp_samples": [{"labels": f"{{{labels}}}", "value": value} for labels, value in found.items()],
        }
        for query, found in answers.items()
    ]
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": every, "input_series": inputs, "promql_expr_test": expected}
    settings = {"evaluation_interval": evaluated or every, "group_eval_order": order}
    file = {"rule_files": ["rules.yml"], **settings, "tests": [test]}
    (tmp_path / "test.yml").write_text(json.dumps(file), "utf-8")
    done = promtool_says("test", "rules", str(tmp_path / "test.yml"))
    assert done.returncode == 0, done.stderr or done.stdout


def test_every_part_of_a_gpu_is_paid_once(tmp_path: Path) -> None:
    """Held, shared, free, uncut, whole, lost, and without measure of load."""
    ask(tmp_path, SCENE, ANSWERS, "20m")


def test_who_scrapes_twice_counts_once(tmp_path: Path) -> None:
    """A PodMonitor beside a ServiceMonitor."""
    twice = {name.replace("{", f'{{job="{job}", instance="{job}", ', 1): v for name, v in SCENE.items() for job in "ab"}
    ask(tmp_path, twice, ANSWERS, "20m")


def test_without_a_price_there_are_no_costs_and_the_parts_are_told(tmp_path: Path) -> None:
    free = {name: values for name, values in SCENE.items() if "price" not in name}
    answers: Answers = {
        "warmslice:gpu_state:cost_per_hour": {},
        "sum(warmslice:namespace_state:gpu_share)": {"": 2.625},
        "sum by (gpu) (warmslice:gpu_state:gpu_share)": {f'gpu="{index}"': 1 for index in range(6)},
    }
    ask(tmp_path, free, answers, "20m")


def test_a_slice_that_changes_hands_is_paid_by_who_has_it(tmp_path: Path) -> None:
    """Its counter goes on under another holder's labels."""
    first, second = held("a", "one"), held("b", "two")
    series = {
        f"warmslice_gpu_up{{{gpu('gpu-1', 0)}}}": "1x30",
        f"warmslice_gpu_price_per_hour{{{gpu('gpu-1', 0)}}}": "8x30",
        **{
            f"warmslice_slice_{name}{{{LARGE}, {who}}}": values.format(**span)
            for name, values in (("gpu_share_ratio", "{before}0.5x{n}"), ("info", "{before}1x{n}"))
            for who, span in ((first, {"before": "", "n": "9 _x20"}), (second, {"before": "_x10 ", "n": 20}))
        },
        f"warmslice_slice_active_seconds_total{{{LARGE}, {first}}}": "0+60x9 _x20",
        f"warmslice_slice_active_seconds_total{{{LARGE}, {second}}}": "_x10 600+0x20",
    }
    before, after = 'namespace="a", state="used"', 'namespace="b", state="idle"'
    used = "warmslice:namespace_state:cost_per_hour"
    ask(tmp_path, series, {used: {before: 4, 'namespace="a", state="idle"': 0}}, "9m")
    ask(tmp_path, series, {used: {after: 4, 'namespace="b", state="used"': 0}}, "20m")


def test_of_a_lost_gpu_everything_is_lost(tmp_path: Path) -> None:
    """Its slices may be told for a while yet, and pods hold them."""
    series = {
        f"warmslice_gpu_up{{{gpu('gpu-1', 0)}}}": "1x9 0x20",
        f'warmslice_gpu_info{{{gpu("gpu-1", 0)}, model="m", mig="on"}}': "1x30",
        f"warmslice_gpu_price_per_hour{{{gpu('gpu-1', 0)}}}": "8x30",
        f"warmslice_slice_gpu_share_ratio{{{LARGE}, {CHAT}}}": "0.5x30",
        f"warmslice_slice_info{{{LARGE}, {CHAT}}}": "1x30",
        f"warmslice_slice_active_seconds_total{{{LARGE}, {CHAT}}}": "0+30x30",
    }
    answers: Answers = {
        "warmslice:node_state:cost_per_hour > 0": {'node="gpu-1", state="lost"': 8},
        "sum(warmslice:gpu_state:gpu_share)": {"": 1},
        "warmslice:namespace_state:cost_per_hour": {},
    }
    ask(tmp_path, series, answers, "25m")


def test_compute_instances_part_what_they_share(tmp_path: Path) -> None:
    """Each shows the memory and the load of its GPU instance; their shares are by width."""
    left, right = slice_("gpu-1", 0, "1c.3g.40gb", "MIG-l"), slice_("gpu-1", 0, "2c.3g.40gb", "MIG-r")
    series = {
        f"warmslice_gpu_up{{{gpu('gpu-1', 0)}}}": "1x30",
        f"warmslice_gpu_price_per_hour{{{gpu('gpu-1', 0)}}}": "6x30",
        **{
            f"warmslice_{name}{{{labels}, {held('ml', pod)}}}": values
            for labels, pod, share in ((left, "l", "0.1667x30"), (right, "r", "0.3333x30"))
            for name, values in (
                ("slice_gpu_share_ratio", share),
                ("slice_info", "1x30"),
                ("slice_memory_used_bytes", "30x30"),
                ("slice_memory_total_bytes", "40x30"),
            )
        },
    }
    answers = {
        "warmslice:node:memory_used_bytes": {'node="gpu-1"': 30},
        "warmslice:namespace:memory_total_bytes": {'namespace="ml"': 40},
        "sum by (state) (warmslice:gpu_state:cost_per_hour) > 0": {'state="unmeasured"': 3, 'state="uncut"': 3},
    }
    ask(tmp_path, series, answers, "20m")


def test_what_is_held_and_idle_for_an_hour_is_what_scaling_to_zero_would_save(tmp_path: Path) -> None:
    answers = {
        "warmslice:namespace:idle1h_cost_per_hour": {'namespace="ml"': 1, 'namespace="web"': 0},
        "warmslice:namespace:never_active_cost_per_hour": {'namespace="ml"': 1, 'namespace="web"': 0},
        "warmslice:idle_devices:count": {'node="gpu-1", profile="3g.40gb"': 1, 'node="gpu-1", profile="1g.10gb"': 0},
    }
    series = {
        f"warmslice_gpu_up{{{gpu('gpu-1', 0)}}}": "1x60",
        f"warmslice_gpu_price_per_hour{{{gpu('gpu-1', 0)}}}": "2x60",
        f"warmslice_slice_gpu_share_ratio{{{LARGE}, {CHAT}}}": "0.5x60",
        f"warmslice_slice_info{{{LARGE}, {CHAT}}}": "1x60",
        f"warmslice_slice_active_seconds_total{{{LARGE}, {CHAT}}}": "0+0x60",
        f"warmslice_slice_gpu_share_ratio{{{SHARED}, {SMALL_2}}}": "0.125x60",
        f"warmslice_slice_info{{{SHARED}, {SMALL_2}}}": "1x60",
        f"warmslice_slice_active_seconds_total{{{SHARED}, {SMALL_2}}}": "0+5x60",
    }
    ask(tmp_path, series, answers, "90m", every="4m")


def test_what_was_quiet_only_since_its_agent_started_was_not_never_active(tmp_path: Path) -> None:
    """The counter begins at 0 with the agent; the slice worked before."""
    series = {
        f"warmslice_gpu_up{{{gpu('gpu-1', 0)}}}": "1x90",
        f"warmslice_gpu_price_per_hour{{{gpu('gpu-1', 0)}}}": "2x90",
        f"warmslice_slice_gpu_share_ratio{{{LARGE}, {CHAT}}}": "0.5x90",
        f"warmslice_slice_info{{{LARGE}, {CHAT}}}": "1x90",
        f"warmslice_slice_active_seconds_total{{{LARGE}, {CHAT}}}": "0+100x30 0x60",
    }
    answers: Answers = {
        "warmslice:namespace:idle1h_cost_per_hour": {'namespace="ml"': 1},
        "warmslice:namespace:never_active_cost_per_hour": {'namespace="ml"': 0},
    }
    ask(tmp_path, series, answers, "300m", every="4m")


def test_a_slice_that_answers_a_small_request_now_and_then_is_not_idle(tmp_path: Path) -> None:
    """10 ms a minute."""
    series = {
        f"warmslice_gpu_up{{{gpu('gpu-1', 0)}}}": "1x60",
        f"warmslice_gpu_price_per_hour{{{gpu('gpu-1', 0)}}}": "2x60",
        f"warmslice_slice_gpu_share_ratio{{{LARGE}, {CHAT}}}": "0.5x60",
        f"warmslice_slice_info{{{LARGE}, {CHAT}}}": "1x60",
        f"warmslice_slice_active_seconds_total{{{LARGE}, {CHAT}}}": "0+0.04x60",
    }
    answers: Answers = {
        "warmslice:namespace:idle1h_cost_per_hour": {'namespace="ml"': 0},
        "warmslice:namespace:never_active_cost_per_hour": {'namespace="ml"': 0},
    }
    ask(tmp_path, series, answers, "200m", every="4m")


def test_a_slice_that_never_used_its_memory_could_have_been_half_as_large(tmp_path: Path) -> None:
    """After seven days, and not where it was full for a moment."""
    hours = 170
    points = hours * 12
    series = {f"warmslice_gpu_up{{{gpu('gpu-1', 0)}}}": f"1x{points}"}
    for labels, who, used in (
        (LARGE, held("ml", "small-use"), f"10x{points}"),
        (slice_("gpu-1", 0, "2g.20gb", "MIG-e", 5), held("web", "peak"), f"5x700 39x3 5x{points}"),
        (slice_("gpu-1", 0, "1g.10gb", "MIG-f", 6), held("one", "smallest"), f"1x{points}"),
    ):
        series |= {
            f"warmslice_slice_gpu_share_ratio{{{labels}, {who}}}": f"0.25x{points}",
            f"warmslice_slice_info{{{labels}, {who}}}": f"1x{points}",
            f"warmslice_slice_memory_used_bytes{{{labels}, {who}}}": used,
            f"warmslice_slice_memory_total_bytes{{{labels}, {who}}}": f"40x{points}",
        }
    answers = {
        "sum by (namespace) (warmslice:workload:oversized_gpu_share)": {
            'namespace="ml"': 0.125,
            'namespace="web"': 0,
            'namespace="one"': 0,
        }
    }
    ask(tmp_path, series, answers, f"{hours - 1}h", every="5m", evaluated="15m")


def test_half_a_profile_is_less_than_its_next_smaller_neighbour_on_every_gpu() -> None:
    """What the rule for right-sizing takes for granted."""
    table: dict[str, Any] = json.loads((ROOT / "agent" / "data" / "mig_geometry.json").read_text("utf-8"))
    looked_at = 0
    for board in table.values():
        for profile in board["profiles"]:
            if profile["slices"] == 1 or profile["memory_mib"] is None:
                continue
            smaller = [p["memory_mib"] for p in board["profiles"] if p["size"] * 2 == profile["size"]]
            assert min(smaller) > 0.45 * profile["memory_mib"], profile["name"]
            looked_at += 1
    assert looked_at > 20


MODELS = {
    'warmslice_pod_start_duration_seconds_count{node="gpu-1", model="x", cache="ready"}': "_x30 4x30",
    'warmslice_pod_start_duration_seconds_sum{node="gpu-1", model="x", cache="ready"}': "_x30 40x30",
    'warmslice_pod_start_duration_seconds_count{node="gpu-2", model="x", cache="absent"}': "_x30 2x30",
    'warmslice_pod_start_duration_seconds_sum{node="gpu-2", model="x", cache="absent"}': "_x30 140x30",
    'warmslice_pod_start_duration_seconds_count{node="gpu-2", model="y", cache="page-cache"}': "3x60",
    'warmslice_pod_start_duration_seconds_sum{node="gpu-2", model="y", cache="page-cache"}': "3x60",
    'warmslice_model_size_bytes{node="gpu-2", model="y", revision="main"}': "500x60",
    'warmslice_fetch_bytes_total{node="gpu-1"}': "1000x60",
    'warmslice_fetch_duration_seconds_sum{node="gpu-1"}': "50x60",
    'warmslice_model_ready{node="gpu-1", model="x", revision="main"}': "1x60",
    'warmslice_model_ready{node="gpu-2", model="x", revision="main"}': "0+0x60",
    'warmslice_model_ready{node="gpu-1", model="z", revision="main"}': "1x60",
    'warmslice_model_not_ready_seconds{node="gpu-2", model="x", revision="main", reason="gated"}': "9x60",
}


def test_what_starts_with_the_weights_at_hand_have_saved(tmp_path: Path) -> None:
    """x started both ways: 70 s without them and 10 s with them. y never started without: 500 bytes at 20 a second."""
    answers = {
        "warmslice:model:warm_starts1d": {'model="x"': 4, 'model="y"': 3},
        "warmslice:model:seconds_saved_per_start": {'model="x"': 60, 'model="y"': 25},
        "warmslice:model:seconds_saved1d": {'model="x"': 240, 'model="y"': 75},
        "warmslice:model:nodes_ready": {'model="x"': 1, 'model="z"': 1},
        "warmslice:model:nodes_wanted": {'model="x"': 2, 'model="z"': 1},
        "warmslice:model_reason:nodes_not_ready": {'model="x", reason="gated"': 1, 'model="z"': 0},
    }
    ask(tmp_path, MODELS, answers, "50m")


def test_promtool_finds_no_fault_with_the_rules(tmp_path: Path) -> None:
    write_rules(tmp_path / "rules.yml")
    done = promtool_says("check", "rules", str(tmp_path / "rules.yml"))
    assert done.returncode == 0, done.stdout + done.stderr


def test_rules_ask_for_metrics_that_there_are() -> None:
    """A name that is misspelt would answer nothing, and nobody would notice."""
    names = {family.exposed for family in families.ALL} | set(records())
    names |= {
        f"{f.exposed}_{part}" for f in families.ALL if f.kind == "histogram" for part in ("bucket", "sum", "count")
    }
    for group in groups():
        for rule in group["rules"]:
            assert mentioned(rule["expr"]) <= names, rule


def mentioned(query: str) -> set[str]:
    """Names of our metrics in a query."""
    words = "".join(c if c.isalnum() or c in "_:" else " " for c in query).split()
    return {word for word in words if word.startswith(("warmslice_", "warmslice:"))}


def test_a_name_is_recorded_once() -> None:
    assert len(set(records())) == len(records())


@pytest.mark.parametrize("group", [g["name"] for g in groups() if "interval" in g])
def test_what_is_recorded_never_goes_stale_between_two_evaluations(group: str) -> None:
    """Prometheus lets a sample stand for five minutes."""
    (found,) = (g for g in groups() if g["name"] == group)
    assert yaml.safe_load(found["interval"].removesuffix("m")) < 5
