"""A Prometheus of one's own, scraping agents with the rules that are shipped; and what it answers.

    python -m hack.prometheus --agent gpu-1=127.0.0.1:9470,127.0.0.1:9471

starts one (from PATH, or from build/tools, where ./hack/test unpacks it) with an empty store in a temporary folder, prints its
address, and ends with Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "manifests" / "observability" / "rules" / "rules.yaml"
UNPACKED = ROOT / "build" / "tools" / "prometheus"
START_SECONDS = 30.0
_LISTENS = re.compile(r'msg="Listening on".* address=(\S+)')

Agents = Mapping[str, Sequence[str]]
"""Node to the addresses of its agent: of one container with both roles, or of each."""


class Prometheus:
    """What a server at a URL answers. URLError where it does not."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")

    def get(self, path: str, **parameters: str) -> Any:
        """``data`` of an answer of the HTTP API; ValueError with its words where a query cannot be."""
        asked = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(asked, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error).get("error", str(error))) from error

    def ask(self, query: str) -> list[dict[str, Any]]:
        """Series, each with ``metric`` and ``value``, of an instant query."""
        found: list[dict[str, Any]] = self.get("query", query=query)["result"]
        return found

    def values(self, label: str, metric: str) -> list[str]:
        """What a dashboard's variable offers."""
        found: list[str] = self.get(f"label/{label}/values", **{"match[]": metric})
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Every rule, with ``health`` and ``lastError``."""
        return [rule for group in self.get("rules")["groups"] for rule in group["rules"]]


def program() -> str | None:
    """Path of the server, where there is one."""
    return shutil.which("prometheus") or (str(UNPACKED) if UNPACKED.exists() else None)


@contextmanager
def serving(binary: str, folder: Path, agents: Agents) -> Iterator[Prometheus]:
    """Scrape and evaluate every second, whatever the rules say: what is recorded by the hour is there in a moment too."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_rules(folder / "rules.yml")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration(agents)), "utf-8")
    written = folder / "prometheus.log"
    command = [binary, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    command += ["--web.listen-address=127.0.0.1:0"]
    with written.open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            yield _started(process, written)
        finally:
            process.terminate()


def configuration(agents: Agents) -> dict[str, Any]:
    """Targets have the labels that a PodMonitor gives them: also namespace, pod and container, which are the agent's own."""
    targets = [
        {
            "targets": [address],
            "labels": {"node": node, "namespace": "warmslice", "pod": f"warmslice-{node}", "container": f"c{index}"},
        }
        for node, addresses in agents.items()
        for index, address in enumerate(addresses)
    ]
    job = {"job_name": "warmslice/warmslice", "honor_labels": True, "static_configs": targets}
    return {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": ["rules.yml"],
        "scrape_configs": [job],
    }


def _write_rules(file: Path) -> None:
    groups = yaml.safe_load(RULES.read_text("utf-8"))["spec"]["groups"]
    file.write_text(yaml.safe_dump({"groups": [{**group, "interval": "1s"} for group in groups]}), "utf-8")


def _started(process: subprocess.Popen[bytes], log: Path) -> Prometheus:
    """Once it answers. It has chosen its port itself: one that was free a moment ago may be taken."""
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        listens = _LISTENS.search(log.read_text("utf-8"))
        if listens and _is_ready(f"http://{listens[1]}"):
            return Prometheus(f"http://{listens[1]}")
        time.sleep(0.1)
    raise RuntimeError(f"Prometheus did not start: {log.read_text('utf-8')[-2000:]}")


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
            return True
    except OSError:
        return False


def main() -> int:
    """Exit code 0 after Ctrl-C, 1 where there is no Prometheus."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--agent", action="append", required=True, metavar="NODE=HOST:PORT[,HOST:PORT]")
    wanted = {
        node: addresses.split(",") for node, _, addresses in (a.partition("=") for a in parser.parse_args().agent)
    }
    binary = program()
    if binary is None:
        print("no prometheus on PATH or in build/tools (./hack/test unpacks Debian's)", file=sys.stderr)
        return 1
    # SIGINT too: a shell that starts this in the background has it ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    with (
        tempfile.TemporaryDirectory(prefix="warmslice-prometheus-") as folder,
        contextlib.suppress(KeyboardInterrupt),
        serving(binary, Path(folder), wanted) as server,
    ):
        print(server.url, flush=True)
        while True:
            time.sleep(60)
    return 0


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


if __name__ == "__main__":
    sys.exit(main())
