"""A node of simulated GPUs in a development cluster, with an agent of both roles, as processes."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hack import simgpu
from hack.containers.mounts import namespace, why_not
from hack.devcluster.kubeconfig import Access, read_kubeconfig
from hack.processes import Children

NODE = "gpu-1"
CONFIG = "nvidia.com/mig.config"
STATE = "nvidia.com/mig.config.state"
_WITH_ACCOUNT = """
secrets=/run/secrets/kubernetes.io
mount -t tmpfs none /run && mkdir -p $secrets && ln -s "$0" $secrets/serviceaccount && exec "$@"
"""
_DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
_BODIES = {"PATCH": "application/merge-patch+json"}


class ApiClient:
    """Asks the API server of a kubeconfig as its user."""

    def __init__(self, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON of an answer of the API server."""
        with self._answer(method, path, body) as answer:
            text = answer.read()
            return json.loads(text) if text else None

    @contextmanager
    def watched(self, path: str = "/api/v1/nodes") -> Iterator[Iterator[dict[str, Any]]]:
        """Events: what is there, and then each change."""
        with self._answer("GET", f"{path}?watch=1", None) as answer:
            yield (json.loads(line) for line in answer)

    def requests(self, since: int = 0, verb: str = "") -> list[dict[str, Any]]:
        """What the API server was asked for after the request of that number."""
        found: list[dict[str, Any]] = self.ask("GET", f"/_dev/requests?since={since}&verb={verb}")
        return found

    def last_request(self) -> int:
        return int(self.ask("GET", "/_dev/requests/last")["number"])

    def open_requests(self, since: int) -> int:
        """How many watches that were begun after the request of that number are open. The log itself, of large fleets, would take
        the API server's time while others ask it."""
        return int(self.ask("GET", f"/_dev/requests/open?since={since}")["number"])

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> http.client.HTTPResponse:
        access = self._access
        request = urllib.request.Request(
            access.server + path,
            method=method,
            data=json.dumps(body).encode() if body else None,
            headers={
                "Content-Type": _BODIES.get(method, "application/json"),
                "Authorization": f"Bearer {access.token}",
            },
        )
        answer: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=600, context=self._trust)
        return answer

    @cached_property
    def _access(self) -> Access:
        return read_kubeconfig(self._kubeconfig)

    @cached_property
    def _trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self._access.authority)


class BenchNode(ApiClient):
    """``folder`` has everything that the processes write; ``children`` ends them. ``gpus`` as simgpu takes them."""

    def __init__(self, folder: Path, children: Children, gpus: str = "H100-80GB-SXM:2") -> None:
        super().__init__(folder / "kubeconfig")
        self.folder = folder
        self._children = children
        self._boards = gpus
        self._gpus = simgpu.build()
        self.environment = {
            **simgpu.environment(self._gpus, folder / "gpus.state", os.environ),
            "KUBECONFIG": str(folder / "kubeconfig"),
            # Compiled bytecode is kept from the first start on, as the image has it.
            "PYTHONDONTWRITEBYTECODE": "",
        }

    def start_cluster(self, *flags: str) -> None:
        """Returns when the node is there."""
        state = self.environment["SIMGPU_STATE"]
        control = [str(self._gpus.simgpu), "--state", state, "init", "--gpu", self._boards, "--mig"]
        subprocess.run(control, check=True, stdout=subprocess.DEVNULL)
        cluster = [sys.executable, "-m", "hack.devcluster", "--nodes", NODE, "--run-dir", str(self.folder)]
        cluster += ["--simgpu-dir", str(self._gpus.simgpu.parent), "--simgpu-state", state, *flags]
        for name, text in (("layouts", "version: v1\nmig-configs: {}\n"), ("catalog", "models: []\n")):
            if not (self.folder / f"{name}.yaml").exists():
                (self.folder / f"{name}.yaml").write_text(text, "utf-8")
        self._children.start("cluster", cluster)
        until(self._kubeconfig.exists)
        until(lambda: self._node() is not None)

    def start_agent(self, *flags: str) -> None:
        """Both roles in one process. It has not done anything yet."""
        listen = ["--partition-listen=127.0.0.1:0", "--cache-listen=127.0.0.1:0"]
        self._children.start("agent", [*self._command("all"), *listen, *flags], self.environment)

    def start_roles(self) -> None:
        """A process for each, as the two containers of a pod."""
        for role in ("partition", "cache"):
            self.start_role(role)

    def start_role(self, role: str, *flags: str, module: str = "agent") -> None:
        """With a pod's service account, where a process may have mounts of its own; else with a kubeconfig."""
        command = [*self._command(role, module), f"--{role}-listen=127.0.0.1:0", *flags]
        command += [f"--status-socket={self.folder / 'share.sock'}"]
        environment = {name: value for name, value in self.environment.items() if name != "KUBECONFIG"}
        if why_not():
            self._children.start(role, command, self.environment)
            return
        access = self._access
        account = self.folder / "account"
        account.mkdir(exist_ok=True)
        (account / "token").write_text(access.token)
        (account / "ca.crt").write_text(access.authority)
        address = urlsplit(access.server)
        service = {"KUBERNETES_SERVICE_HOST": str(address.hostname), "KUBERNETES_SERVICE_PORT": str(address.port)}
        entered = [*namespace(), "sh", "-c", _WITH_ACCOUNT, str(account), *command]
        self._children.start(role, entered, {**environment, **service})

    def _command(self, role: str, module: str = "agent") -> list[str]:
        kubelet = self.folder / NODE / "pod-resources" / "kubelet.sock"
        agent = [sys.executable, "-m", module, "run", f"--role={role}", f"--node-name={NODE}"]
        agent += [f"--layouts-file={self.folder / 'layouts.yaml'}", f"--catalog-file={self.folder / 'catalog.yaml'}"]
        agent += [f"--pod-resources-socket={kubelet}", f"--cache-directory={self.folder / 'hub'}"]
        agent += [
            f"--state-directory={self.folder / NODE / 'state'}",
            f"--proc-directory={self.folder / NODE / 'proc'}",
        ]
        return agent

    def address(self, name: str) -> str:
        """Where the agent of that child serves its pages; empty before it does."""
        found = re.findall(r'"event": "started".*"address": "([^"]+)"', self._children.log(name))
        return str(found[-1]) if found else ""

    def label(self, labels: Mapping[str, str | None]) -> None:
        """Set labels of the node; None removes one."""
        self.ask("PATCH", f"/api/v1/nodes/{NODE}", {"metadata": {"labels": labels}})

    def labels(self) -> Mapping[str, str]:
        """Empty where there is no node yet."""
        found: Mapping[str, str] = (self._node() or {"metadata": {}})["metadata"].get("labels") or {}
        return found

    def applied(self) -> bool:
        return self.labels().get(STATE) == "success"

    def _node(self) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = self.ask("GET", f"/api/v1/nodes/{NODE}")
        except OSError:
            return None
        return found

    def simulator(self, *words: str) -> None:
        """Steer the simulated driver."""
        subprocess.run([str(self._gpus.simgpu), *words], env=self.environment, check=True, stdout=subprocess.DEVNULL)

    def deploy(self, name: str, resource: str, replicas: int, waits: bool = True) -> None:
        """A Deployment of pods that take one of ``resource`` each; returns when they run, unless it is not waited for."""
        limits = {"resources": {"limits": {resource: "1"}}}
        pod = {"containers": [{"name": "main", "image": "busybox", **limits}], "terminationGracePeriodSeconds": 5}
        template = {"metadata": {"labels": {"app": name}}, "spec": pod}
        spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template}
        self.ask("POST", _DEPLOYMENTS, {"metadata": {"name": name}, "spec": spec})
        until(lambda: not waits or self._running(name) == replicas)

    def remove(self, name: str) -> None:
        """The Deployment and its pods; returns when they are gone."""
        self.ask("DELETE", f"{_DEPLOYMENTS}/{name}")
        until(lambda: not self._pods_of(name))

    def _running(self, name: str) -> int:
        return sum(pod["status"].get("phase") == "Running" for pod in self._pods_of(name))

    def _pods_of(self, name: str) -> list[dict[str, Any]]:
        pods: list[dict[str, Any]] = self.ask("GET", f"/api/v1/namespaces/default/pods?labelSelector=app%3D{name}")[
            "items"
        ]
        return pods


def until(
    holds: Callable[[], bool], seconds: float = 60.0, every: float = 0.1, what: str = "the node did not get ready"
) -> None:
    """Look, as often as is needed; ends the program with those words where it never comes."""
    late = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > late:
            raise SystemExit(what)
        time.sleep(every)
