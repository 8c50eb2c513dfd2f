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


def test_the_corpus_is_whole() -> None:
    """Every file has an expectation, many must not match, and each server is met."""
    assert {path.name for path in PODS.glob("*.yaml")} - {"expected.yaml"} == EXPECTED.keys()
    servers = {one["server"] for listed in EXPECTED.values() for one in listed}
    assert servers == {"vllm", "sglang", "tgi", "tei", "trtllm", "nim", "lmdeploy", "other"}
    assert len(EXPECTED) >= 60
    assert sum(not listed for listed in EXPECTED.values()) >= 15


def pod(**container: Any) -> dict[str, Any]:
    return {"containers": [{"name": "c", **container}]}


def models_of(**container: Any) -> list[str]:
    return [named.repository for one in recognise(pod(**container)) for named in one.models]


class TestKubeletExpansion:
    """``$(NAME)`` as the kubelet does it, before any shell sees the words."""

    def test_a_later_variable_may_use_an_earlier_one(self) -> None:
        env = [{"name": "ORG", "value": "org"}, {"name": "MODEL", "value": "$(ORG)/model"}]
        assert models_of(command=["vllm", "serve", "$(MODEL)"], env=env) == ["org/model"]

    def test_an_earlier_variable_may_not_use_a_later_one(self) -> None:
        env = [{"name": "MODEL", "value": "$(ORG)/model"}, {"name": "ORG", "value": "org"}]
        assert models_of(command=["vllm", "serve", "$(MODEL)"], env=env) == []

    def test_the_last_of_a_name_counts(self) -> None:
        env = [{"name": "MODEL", "value": "org/first"}, {"name": "MODEL", "value": "org/last"}]
        assert models_of(command=["vllm", "serve", "$(MODEL)"], env=env) == ["org/last"]

    def test_a_value_from_elsewhere_hides_an_earlier_one(self) -> None:
        env = [{"name": "MODEL", "value": "org/first"}, {"name": "MODEL", "valueFrom": {"secretKeyRef": {}}}]
        assert models_of(command=["vllm", "serve", "$(MODEL)"], env=env) == []

    def test_two_dollars_are_one_and_expand_nothing(self) -> None:
        env = [{"name": "MODEL", "value": "org/model"}]
        assert models_of(command=["vllm", "serve", "$$(MODEL)"], env=env) == []
        assert models_of(command=["sh", "-c", "vllm serve $$MODEL"], env=env) == ["org/model"]

    def test_an_unknown_name_stays_and_harms_no_other_word(self) -> None:
        assert models_of(command=["vllm", "serve", "org/model", "--port", "$(PORT)"]) == ["org/model"]

    def test_a_plain_dollar_means_nothing_outside_a_shell(self) -> None:
        env = [{"name": "MODEL", "value": "org/model"}]
        assert models_of(command=["vllm", "serve", "$MODEL"], env=env) == []

    def test_values_that_double_one_another_do_not_fill_the_memory(self) -> None:
        env = [{"name": "A0", "value": "x" * 64}]
        env += [{"name": f"A{n}", "value": f"$(A{n - 1})$(A{n - 1})"} for n in range(1, 200)]
        assert models_of(command=["sh", "-c", "vllm serve $A199" + " $(A12)" * 1000], env=env) == []
        assert models_of(command=["vllm", "serve", "$(A199)", *["x$(A12)"] * 10_000], env=env) == []


@pytest.mark.parametrize(
    "script",
    [
        "vllm serve org/model",
        "exec vllm serve org/model &",
        "cd /x; vllm serve org/model",
        "test -d /x && vllm serve org/model || exit 1",
        "vllm serve org/model 2>&1 | tee log",
        "vllm serve \\\n  org/model \\\n  --port 1",
        "vllm serve 'org/model' # org/other",
        'vllm serve "org/mod"el',
        "(vllm serve org/model)",
        "if true; then vllm serve org/model; fi",
        "M=org/model; vllm serve $M",
        "export M=org/model\nvllm serve ${M}",
        "vllm serve ${M:-org/model}",
        "vllm serve ${M:-'org/model'}",
        "env A=b C=d vllm serve org/model",
        "A=b vllm serve org/model",
        "bash -c 'vllm serve org/model'",
        "cat <<EOF\n$x 'unbalanced\nEOF\nvllm serve org/model",
        "> log vllm serve org/model",
        "for n in 1 2; do vllm serve org/model; done",
        "vllm serve org/model#not-a-comment || vllm serve org/model",
        "uname -a\r\nvllm serve org/model\r\n",
        "/opt/venv/bin/vllm serve org/model",
        "sudo -u app /usr/bin/env -u X A=/x /usr/bin/python3.12 -u -W ignore -m vllm.entrypoints.api_server --model org/model",
    ],
)
def test_a_shell_script_is_read_as_the_shell_would(script: str) -> None:
    assert models_of(command=["/bin/sh", "-c", script]) == ["org/model"]


@pytest.mark.parametrize(
    "script",
    [
        "echo vllm serve org/model",
        "echo 'x; vllm serve org/model'",
        'echo "x; vllm serve org/model"',
        "# vllm serve org/model",
        "true # ; vllm serve org/model",
        "cat <<-EOF\nvllm serve org/model\n\tEOF\ntrue",
        "cat > vllm serve org/model",
        "vllm serve '$M'",
        "vllm serve org/model#no-comment",
        "vllm serve \\$M",
        "vllm serve $(echo org/model)",
        "vllm serve `echo org/model`",
        "M=$(cat /model); vllm serve $M",
        "vllm serve ${M%/*}org/model",
        "vllm serve $M org/model",
        "vllm serve 'org/model",
        "timeout 10 echo vllm serve org/model",
        "printf '%s' 'vllm' serve org/model",
        "python -c 'import vllm' -m vllm.entrypoints.openai.api_server --model org/model",
        "python server.py -m vllm.entrypoints.openai.api_server --model org/model",
    ],
)
def test_what_a_shell_would_not_serve_is_not_recognised(script: str) -> None:
    env = [{"name": "M", "valueFrom": {"fieldRef": {}}}]
    assert models_of(command=["/bin/sh", "-c", script], env=env) == []


def test_parameters_of_a_shell_are_its_arguments() -> None:
    assert models_of(command=["sh", "-c", 'exec vllm serve "$1"', "sh"], args=["org/model"]) == ["org/model"]


@pytest.mark.parametrize(
    ("written", "tokens"),
    [
        ("4096", 4096),
        ("32k", 32000),
        ("32K", 32768),
        ("1.5k", 1500),
        ("1M", 1 << 20),
        ("-1", None),
        ("auto", None),
        ("0", None),
        ("1.5", None),
        ("9" * 5000, None),
        ("\u0661", None),
        ("1e3", None),
    ],
)
def test_a_length_is_in_tokens(written: str, tokens: int | None) -> None:
    [one] = recognise(pod(command=["vllm", "serve", "org/model", "--max-model-len", written]))
    assert one.max_model_len == tokens


@pytest.mark.parametrize("written", ["0", "1.1", "nan", "inf", "-0.5", "90%", "1e-1", "", "."])
def test_a_share_that_is_none_is_not_told(written: str) -> None:
    [one] = recognise(pod(command=["vllm", "serve", "org/model", f"--gpu-memory-utilization={written}"]))
    assert one.memory_utilization is None


def test_limits_of_gpus_count_before_requests() -> None:
    resources = {
        "limits": {"nvidia.com/gpu": "2", "cpu": "1", "nvidia.com/mig-1g.5gb": 0, "nvidia.com/x": "1k"},
        "requests": {"nvidia.com/gpu": 1, "nvidia.com/gpu.shared": "3"},
    }
    [one] = recognise(pod(command=["vllm", "serve", "org/model"], resources=resources))
    assert one.resources == {"nvidia.com/gpu": 2, "nvidia.com/gpu.shared": 3}


def test_a_script_without_end_is_given_up() -> None:
    """A stranger's work is bounded, and what was read before counts."""
    assert models_of(command=["sh", "-c", "true;" * 40_000 + "vllm serve org/model"]) == []
    assert models_of(command=["sh", "-c", "vllm serve org/model;" + "true;" * 40_000]) == ["org/model"]


def test_json_that_nests_without_end_is_no_draft() -> None:
    words = ["vllm", "serve", "org/model", "--speculative-config", "[" * 100_000, "--lora-modules", "{" * 100_000]
    assert models_of(command=words) == ["org/model"]
