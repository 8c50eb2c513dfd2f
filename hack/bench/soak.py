"""Whether an agent that has much to do for long grows: a change every five seconds, faults at random, models that come and go.

Its two roles as two processes, on a node of two simulated GPUs in a development cluster, with a local hub. Each round sets
another layout (now and then one that does not exist) or another catalog; meanwhile the API server cuts connections, refuses,
forgets, the driver fails a call, the hub cuts bodies, and a Deployment takes slices. A wish is reached, or refused where there is
no such layout, before the next one comes. Then memory, threads, descriptors and asyncio tasks after the first minute and at
the end, both at rest, are laid side by side.

    python -m hack.bench.soak [--minutes 10] [--seed 1]
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agent.model import labels
from hack.bench.node import CONFIG, STATE, BenchNode, until
from hack.ports import free_port
from hack.processes import Children

EVERY_SECONDS = 5.0
LONGEST_SECONDS = 150.0
MOST_MB = 5.0
ROLES = ("partition", "cache")
LAYOUTS = ("7x1g.10gb", "2x3g.40gb", "1x3g.40gb_4x1g.10gb", "3x2g.20gb", "1x7g.80gb")
NONE_SUCH = "no-such-layout"
MODELS = tuple(f"soak/model-{number}" for number in range(4))
MODEL_BYTES = 8_000_000
API_FAULTS = (
    {"reset": True, "count": 3},
    {"code": 500, "count": 3},
    {"code": 429, "retry_after": 1, "count": 2},
    {"code": 503, "body": "<html>", "content_type": "text/html", "count": 2},
    {"method": "PATCH", "code": 409, "count": 1},
    {"path": "watch=true", "error_after_lines": 0, "count": 2},
    {"path": "watch=true", "cut_after_lines": 0, "count": 2},
)
"""They strike the agent alone. For those of watches the open ones are broken off first."""
DRIVER_FAULTS = (
    ("nvmlDeviceCreateGpuInstanceWithPlacement", "UNKNOWN"),
    ("nvmlGpuInstanceDestroy", "IN_USE"),
    ("nvmlGpuInstanceCreateComputeInstance", "INSUFFICIENT_RESOURCES"),
    ("nvmlDeviceGetMemoryInfo", "UNKNOWN"),
    ("nvmlDeviceGetCount_v2", "DRIVER_NOT_LOADED"),
)
HUB_FAULTS = (
    {"pattern": "GET cdn/", "kind": "truncate", "times": 2, "after_bytes": 1_000_000},
    {"pattern": "GET cdn/", "kind": "reset", "times": 2, "after_bytes": 500_000},
    {"pattern": ".", "kind": "status", "times": 2, "status": 503},
    {"pattern": "GET cdn/", "kind": "wrong-bytes", "times": 1},
)


@dataclass(frozen=True, slots=True)
class State:
    """Of one process at rest. ``tasks``: of its event loop; ``threads``: beside that loop's pool; ``children``: processes."""

    rss_mb: float
    threads: int
    files: int
    tasks: int
    children: int

    def more_than(self, before: State) -> int:
        """Of what must not become more, what has become more by most."""
        return max(
            self.threads - before.threads,
            self.files - before.files,
            self.tasks - before.tasks,
            self.children - before.children,
        )


class Soak:
    """One node, its agent, its hub, and who troubles them."""

    def __init__(self, folder: Path, children: Children, seed: int) -> None:
        self._folder = folder
        self._children = children
        self._random = random.Random(seed)
        self._node = _PatientNode(folder, children)
        self._hub = f"http://127.0.0.1:{free_port()}"
        self.reached: Counter[str] = Counter()
        self.seconds: list[float] = []
        self.faults: Counter[str] = Counter()
        self.struck = 0
        self._last = ""

    def start(self) -> None:
        models = []
        for name in MODELS:
            folder = self._folder / name.replace("/", "--")
            folder.mkdir()
            (folder / "model.safetensors").write_bytes(self._random.randbytes(MODEL_BYTES))
            (folder / "config.json").write_text("{}")
            models += ["--model", f"{name}={folder}"]
        self._write_catalog(MODELS[:1])
        hub = [sys.executable, "-m", "hack.hub", "--port", self._hub.rpartition(":")[2], *models]
        self._children.start("hub", hub)
        until(lambda: "hub:" in self._children.log("hub"))
        self._node.start_cluster("--status-interval=0.2", "--pod-start=0.1", "--pod-stop=0.1")
        self._node.label({CONFIG: LAYOUTS[0]})
        flags = [f"--hub-endpoint={self._hub}", "--cache-reserve-ratio=0", "--reconnect-jitter-seconds=1"]
        flags += [f"--cache-budget-bytes={3 * MODEL_BYTES}", "--telemetry-period-seconds=1", "--resync-seconds=10"]
        for role in ROLES:
            self._node.start_role(role, *flags, module="hack.bench.soaked")
        until(self._node.applied)

    def run(self, minutes: float) -> dict[str, tuple[State, State]]:
        """By role: after the first minute, and at the end."""
        began = time.monotonic()
        self._until(began + 60.0)
        first = self._at_rest()
        self._until(began + minutes * 60.0)
        last = self._at_rest()
        return {role: (first[role], last[role]) for role in ROLES}

    # -- what happens -----------------------------------------------------------------------------------------------

    def _until(self, late: float) -> None:
        while time.monotonic() < late:
            began = time.monotonic()
            self._trouble()
            self._random.choice((self._layout, self._layout, self._models, self._pods))()
            self.seconds.append(time.monotonic() - began)
            time.sleep(max(0.0, began + EVERY_SECONDS - time.monotonic()))

    def _layout(self) -> None:
        wish = NONE_SUCH if self._random.random() < 0.15 else self._random.choice(LAYOUTS)
        self._last = wish
        self._node.label({CONFIG: wish})
        said: list[str] = []

        def ended() -> bool:
            said.append(self._word_on(wish))
            return said[-1] != ""

        self._until_it_holds("layout", ended)
        self.reached[f"layout {said[-1]}"] += 1

    def _word_on(self, wish: str) -> str:
        """What the agent says of it in the end; empty before. Where the driver refuses, the old layout is back: that is told, and
        tried again when nobody here waits for it."""
        node = self._node.ask("GET", "/api/v1/nodes/gpu-1")["metadata"]
        status = json.loads(node["annotations"].get(labels.STATUS, "{}"))
        if labels.OPERATION in node["annotations"] or status.get("layout") != wish:
            return ""
        if status.get("reason") == "rolled-back":
            return "rolled back"
        state = "failed" if wish == NONE_SUCH else "success"
        return state if node["labels"].get(STATE) == state else ""

    def _models(self) -> None:
        wanted = tuple(self._random.sample(MODELS, self._random.randint(0, 2)))
        self._write_catalog(wanted)
        names = {f"{labels.MODEL_PREFIX}{name.replace('/', '--')}" for name in wanted}

        def there() -> bool:
            now = self._node.labels()
            return {
                key for key, word in now.items() if key.startswith(labels.MODEL_PREFIX) and word == "ready"
            } == names

        self._until_it_holds("catalog", there)
        self.reached["catalog"] += 1

    def _pods(self) -> None:
        """A Deployment for a moment; where its slices are not there, its pods wait."""
        name = f"holders-{self._random.randrange(10**6)}"
        self._node.deploy(name, "nvidia.com/mig-1g.10gb", 2, waits=False)
        time.sleep(1.0)
        self._node.remove(name)

    def _until_it_holds(self, what: str, holds: Callable[[], bool]) -> None:
        until(holds, LONGEST_SECONDS, 0.1, f"a wish was not reached: {what}, labels {self._node.labels()}")

    def _trouble(self) -> None:
        where = self._random.choice(("api", "api", "driver", "hub", "restart", "none"))
        self.faults[where] += 1
        match where:
            case "api":
                fault = {"path": "^/api", "user_agent": "^warmslice", **self._random.choice(API_FAULTS)}
                self._node.ask("POST", "/_dev/faults", fault)
                if "watch" in str(fault["path"]):
                    self._node.ask("POST", "/_dev/restart?forgets=false", {})
            case "driver":
                function, code = self._random.choice(DRIVER_FAULTS)
                self._node.simulator("fault", "clear")
                self._node.simulator("fault", "add", "--function", function, "--code", code, "--count", "1")
            case "hub":
                self._ask_hub(self._random.choice(HUB_FAULTS))
            case "restart":
                self._node.ask("POST", "/_dev/restart?away_s=0", {})

    def _ask_hub(self, fault: Mapping[str, object]) -> None:
        request = urllib.request.Request(f"{self._hub}/_dev/faults", json.dumps(fault).encode(), method="POST")
        urllib.request.urlopen(request, timeout=10).close()

    def _write_catalog(self, models: Sequence[str]) -> None:
        new = self._folder / "catalog.new"
        new.write_text(json.dumps({"models": [{"repository": name} for name in models]}), "utf-8")
        new.replace(self._folder / "catalog.yaml")

    # -- what it costs ----------------------------------------------------------------------------------------------

    def _at_rest(self) -> dict[str, State]:
        """Some seconds after a last wish that nothing troubles."""
        self.struck += sum(fault["hits"] for fault in self._node.ask("GET", "/_dev/faults"))
        self._node.ask("DELETE", "/_dev/faults")
        self._node.simulator("fault", "clear")
        # Another wish than the one before, which may have to wait for its next try; then the one that memory is measured with.
        other = next(layout for layout in LAYOUTS[1:] if layout != self._last)
        for wish in (other, LAYOUTS[0]):
            self._last = wish
            self._node.label({CONFIG: wish})
            self._until_it_holds("layout", lambda wish=wish: self._word_on(wish) == "success")  # type: ignore[misc]
        # A connection that was asked over is kept for 15 s.
        time.sleep(20.0)
        return {role: self._state(role) for role in ROLES}

    def _state(self, role: str) -> State:
        pid, found = self._children.pid(role), []
        for _ in range(5):
            before = len(self._said(role))
            os.kill(pid, signal.SIGUSR2)
            until(partial(self._has_said_more, role, before))
            found.append(json.loads(self._said(role)[-1]))
            time.sleep(1.0)
        size, files = statistics.median(one["rss_mb"] for one in found), len(os.listdir(f"/proc/{pid}/fd"))
        return State(size, found[-1]["threads"], files, min(one["tasks"] for one in found), len(_children_of(pid)))

    def _said(self, role: str) -> list[str]:
        return [line for line in self._children.log(role).splitlines() if '"soaked"' in line]

    def _has_said_more(self, role: str, count: int) -> bool:
        return len(self._said(role)) > count


def _children_of(pid: int) -> list[str]:
    """Also those that have ended and that nobody has looked after."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            words = file.read_text().rpartition(") ")[2].split()
            found += [file.parent.name] if int(words[1]) == pid else []
    return found


class _PatientNode(BenchNode):
    """An API server that restarts hears nobody: this asks again."""

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        for _ in range(50):
            try:
                return super().ask(method, path, body)
            except (OSError, http.client.HTTPException):
                time.sleep(0.1)
        return super().ask(method, path, body)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; 1 where something grew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="soak-") as folder, Children(Path(folder)) as children:
        soak = Soak(Path(folder), children, options.seed)
        soak.start()
        found = soak.run(options.minutes)
    print(
        f"{options.minutes:g} minutes, seed {options.seed} | wishes | faults | of the API server, answers to the agent spoilt"
    )
    faults = " ".join(f"{name}:{count}" for name, count in sorted(soak.faults.items()))
    print(f"counts | {sum(soak.reached.values())} | {faults} | {soak.struck}")
    print()
    print("wish, and what came of it | times")
    for what, count in sorted(soak.reached.items()):
        print(f"{what} | {count}")
    print(f"median, s | {statistics.median(soak.seconds):.2f}")
    print(f"longest, s | {max(soak.seconds):.1f}")
    print()
    print("role | RSS, MB | threads | files | tasks | child processes")
    for role, states in found.items():
        for when, one in zip(("after the first minute", "at the end"), states, strict=True):
            print(f"{role}, {when} | {one.rss_mb:.1f} | {one.threads} | {one.files} | {one.tasks} | {one.children}")
    grown = max(last.rss_mb - first.rss_mb for first, last in found.values())
    leaked = max(last.more_than(first) for first, last in found.values())
    back, done = soak.reached["layout rolled back"], soak.reached["layout success"]
    print(f"limit: {MOST_MB:g} MB more than after the first minute; {grown / MOST_MB:.2f} of that")
    print(f"limit: no thread, descriptor, task or child more; {max(0, leaked)} more")
    print(f"limit: half as many layouts rolled back as applied; {2 * back / max(1, done):.2f} of that")
    return int(grown > MOST_MB or leaked > 0 or 2 * back > done)


if __name__ == "__main__":
    sys.exit(main())
