"""One line of JSON per event, and no secrets in it."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.report.log import JsonLines, redacted


@pytest.fixture
def written() -> Iterator[io.StringIO]:
    """What the logger ``agent.test`` writes, without touching the root logger."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonLines())
    logger = logging.getLogger("agent.test")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    yield stream
    logger.handlers, logger.propagate = [], True


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_object_with_its_fields(written: io.StringIO) -> None:
    logging.getLogger("agent.test").info("step.done", extra={"step": "Destroy", "gpu": Path("/dev/nvidia0"), "n": 2})

    (line,) = lines(written)
    assert line.pop("ts").endswith("Z")
    assert line == {
        "level": "info",
        "logger": "agent.test",
        "event": "step.done",
        "step": "Destroy",
        "gpu": "/dev/nvidia0",
        "n": 2,
    }


def test_an_error_keeps_its_traceback_on_the_same_line(written: io.StringIO) -> None:
    try:
        raise ValueError("no such\nprofile, asked with hf_abcdefghijklmnop")
    except ValueError:
        logging.getLogger("agent.test").exception("pass.failed")

    (line,) = lines(written)
    assert "ValueError: no such\nprofile" in line["traceback"]
    assert "hf_abcdefghijklmnop" not in written.getvalue()


def test_fields_cannot_pose_as_ours(written: io.StringIO) -> None:
    logging.getLogger("agent.test").info("pod.evicted", extra={"event": "other", "level": 7, "ratio": float("nan")})

    (line,) = lines(written)
    assert (line["event"], line["level"], line["event_"], line["level_"], line["ratio"]) == (
        "pod.evicted",
        "info",
        "other",
        7,
        "nan",
    )


@pytest.mark.parametrize(
    "secret",
    [
        "Authorization: Bearer abcdefghijklmnop1234",
        "{'Authorization': 'Basic dXNlcjpzM2NyZXRzM2NyZXQ='}",
        "token hf_SeCrEtSeCrEtSeCrEt was refused",
        "sent Bearer s3cr3t-s3cr3t-s3cr3t to the API server",
        "GET https://cdn.example.com/a/b?X-Amz-Signature=s3cr3t&X-Amz-Credential=me failed",
        "GET https://cas.example.com/x?Expires=1&Policy=s3cr3t&Key-Pair-Id=s3cr3t: 403",
        "proxy http://user:s3cr3t@proxy.example.com:3128",
        "eyJhbGciOiJSUzI1NiJ9.eyJzM2NyZXQiOjF9.c2lnbmF0dXJl",
    ],
)
def test_secrets_do_not_reach_the_log(written: io.StringIO, secret: str) -> None:
    logging.getLogger("agent.test").info("fetch.failed", extra={"why": secret, "more": [{"deep": secret}]})
    logging.getLogger("agent.test").warning("%s", secret)

    for part in ("s3cr3t", "SeCrEt", "dXNlcjp", "abcdefghijklmnop1234", "eyJzM2NyZXQ"):
        assert part not in written.getvalue()
    assert written.getvalue().count("[redacted]") >= 3


def test_a_field_named_like_a_secret_is_hidden_and_a_path_to_one_is_not() -> None:
    assert redacted({"hub_token": "anything", "hub_token_file": "/etc/token", "tokens": 3}) == {
        "hub_token": "[redacted]",
        "hub_token_file": "/etc/token",
        "tokens": 3,
    }


def test_plain_addresses_stay_readable() -> None:
    text = "GET https://hub.example.com/api/models/org/name?recursive=true: 200, basic information follows"
    assert redacted(text) == text
