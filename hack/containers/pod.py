"""Runs the containers of a pod as its object in an API server says: ``python -m hack.containers.pod``.

It is what a kubelet and a container runtime do for a pod that a simulated kubelet has admitted: volumes laid out in folders,
environment, command, mounts, user and capabilities. The paths of the host are below a folder. ``--bind`` and ``--env`` are what
the pod's runtime class puts in, in all containers that NVIDIA_VISIBLE_DEVICES does not keep it from. It ends when it is told to,
or when a container has ended: with 1 then.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hack.containers.image import ROOT, Builder, BuildError, Image, copy
from hack.containers.mounts import Bind, Process, remove_work
from hack.containers.volumes import Configured, MountError, laid_out
from hack.kubectl import kubectl
from hack.processes import Children
from hack.uv import uv_program

Object = dict[str, Any]
_IDENTITY = "/var/run/secrets/kubernetes.io/serviceaccount"
_KEPT_BY_RUNTIMES = (
    *(
        "chown",
        "dac_override",
        "fowner",
        "fsetid",
        "kill",
        "setgid",
        "setuid",
        "setpcap",
        "net_bind_service",
        "net_raw",
    ),
    *("sys_chroot", "mknod", "audit_write", "setfcap"),
)


@dataclass(frozen=True, slots=True)
class Place:
    """``host`` holds the host's paths, ``identity`` the token of the pod; ``api``: host and port of the API server. ``injected``
    and ``variables`` are what the runtime class puts in."""

    host: Path
    run: Path
    identity: Path
    api: tuple[str, str]
    injected: tuple[Bind, ...]
    variables: Mapping[str, str]


def process(pod: Object, container: Object, image: Image, place: Place, volumes: Mapping[str, Path]) -> Process:
    """What a runtime would start. The layer, and the folders beside it, have to be made."""
    context = {**(pod["spec"].get("securityContext") or {}), **(container.get("securityContext") or {})}
    variables = environment(pod, container, place.api)
    has_gpus = variables.get("NVIDIA_VISIBLE_DEVICES") != "void"
    folder = place.run / container["name"]
    return Process(
        arguments=(
            *(container.get("command") or image.entrypoint),
            *(container.get("args") or ([] if container.get("command") else image.command)),
        ),
        environment={**image.environment, **variables, **(place.variables if has_gpus else {})},
        layer=str(folder / "layer"),
        work=str(folder / "work"),
        root=str(folder / "root"),
        directory=container.get("workingDir") or image.directory,
        binds=(
            *(place.injected if has_gpus else ()),
            *(_bind(mount, volumes) for mount in container.get("volumeMounts") or ()),
            Bind(str(place.identity), _IDENTITY, is_read_only=True),
        ),
        is_root_read_only=bool(context.get("readOnlyRootFilesystem")),
        user=int(context.get("runAsUser", image.user)),
        keeps=None if context.get("privileged") else _kept(context.get("capabilities") or {}),
        may_gain=context.get("allowPrivilegeEscalation", True),
    )


def _kept(capabilities: Object) -> tuple[str, ...]:
    dropped = {name.lower() for name in capabilities.get("drop") or ()}
    kept = () if "all" in dropped else tuple(name for name in _KEPT_BY_RUNTIMES if name not in dropped)
    return (*kept, *(name.lower() for name in capabilities.get("add") or ()))


def _bind(mount: Object, volumes: Mapping[str, Path]) -> Bind:
    source = volumes[mount["name"]]
    if "subPath" in mount:
        source /= mount["subPath"]
        source.mkdir(parents=True, exist_ok=True)
    return Bind(str(source), mount["mountPath"], bool(mount.get("readOnly")))


def environment(pod: Object, container: Object, api: tuple[str, str]) -> dict[str, str]:
    """As the kubelet puts it together. ValueError for a source that is not known here."""
    found = {"KUBERNETES_SERVICE_HOST": api[0], "KUBERNETES_SERVICE_PORT": api[1], "HOSTNAME": pod["metadata"]["name"]}
    for one in container.get("env") or ():
        found[one["name"]] = str(one["value"]) if "value" in one else _from_field(pod, one)
    return found


def _from_field(pod: Object, one: Object) -> str:
    path = (one.get("valueFrom") or {}).get("fieldRef", {}).get("fieldPath")
    if path is None:
        raise ValueError(f"{one['name']}: only fieldRef is known here, not {one.get('valueFrom')}")
    here: Any = pod
    for name in path.split("."):
        here = here[name]
    return str(here)


class Kubectl:
    """Reads of an API server."""

    def __init__(self, kubeconfig: Path) -> None:
        self._command = [str(kubectl()), f"--kubeconfig={kubeconfig}"]

    def get(self, *what: str) -> Object:
        """The object, or the list; empty where it is not there."""
        command = [*self._command, "get", "-o", "json", "--ignore-not-found", *what]
        text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
        found: Object = json.loads(text) if text else {}
        return found

    def server(self) -> tuple[str, str]:
        """Host and port."""
        command = [*self._command, "config", "view", "-o", "jsonpath={.clusters[0].cluster.server}"]
        url = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
        host, _, port = url.rpartition("/")[2].partition(":")
        return host, port


class InitError(Exception):
    """An init container ended with another code than 0; with what it said."""


class Containers:
    """A pod's, of one image, with their files made. ``clean`` after they have ended."""

    def __init__(self, pod: Object, image: Image, place: Place, volumes: Mapping[str, Path]) -> None:
        self._pod = pod
        self._image = image
        self._place = place
        self._volumes = volumes
        self._made: list[Process] = []

    def initialize(self) -> None:
        """The init containers, one after the other, each to its end. InitError."""
        for container in self._pod["spec"].get("initContainers") or ():
            done = subprocess.run(self._command(container), capture_output=True, text=True, check=False)
            if done.returncode:
                raise InitError(f"{container['name']}: exit code {done.returncode}: {done.stdout}{done.stderr}")

    def start(self, children: Children) -> None:
        """All others, at once."""
        for container in self._pod["spec"]["containers"]:
            children.start(container["name"], self._command(container))

    def clean(self) -> None:
        for process in self._made:
            remove_work(process)

    def _command(self, container: Object) -> list[str]:
        told = process(self._pod, container, self._image, self._place, self._volumes)
        copy(self._image, Path(told.layer), is_read_only=told.is_root_read_only)
        for folder in (told.work, told.root):
            Path(folder).mkdir()
        self._made.append(told)
        print(f"{container['name']}: {' '.join(told.arguments)}", flush=True)
        return told.command(self._place.run / container["name"] / "process.json")


class _Pod:
    def __init__(self, options: argparse.Namespace) -> None:
        self._api = Kubectl(options.kubeconfig)
        self._options = options
        self._pod = self._scheduled()

    def _scheduled(self) -> Object:
        """Once the simulated kubelet has given it its token."""
        namespace, node = self._options.namespace, self._options.node
        while True:
            pods: list[Object] = self._api.get("pods", "-n", namespace, "-l", self._options.selector)["items"]
            for pod in pods:
                if pod["spec"].get("nodeName") == node and (self._identity(pod) / "token").exists():
                    return pod
            time.sleep(0.2)

    def _identity(self, pod: Object) -> Path:
        found: Path = self._options.kubelet / "pods" / pod["metadata"]["uid"] / "kube-api-access"
        return found

    def laid_out(self, image: Image) -> tuple[Containers, Callable[[], None]]:
        """Its containers, and what brings their volumes up to date."""
        options, run = self._options, self._options.run
        place = Place(
            options.host, run, self._identity(self._pod), self._api.server(), tuple(options.bind), dict(options.env)
        )
        configured = Configured(lambda kind, name: self._api.get(kind, name, "-n", options.namespace))
        listed = self._pod["spec"]["volumes"]
        volumes = {one["name"]: laid_out(one, place.host, run / "volumes", configured) for one in listed}
        return Containers(self._pod, image, place, volumes), configured.refresh


def _bind_option(text: str) -> Bind:
    source, _, target = text.partition(":")
    return Bind(source, target, is_read_only=False)


def _variable(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m hack.containers.pod", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--namespace", default="warmslice")
    parser.add_argument("--selector", default="app.kubernetes.io/name=warmslice", help="which pod, by its labels")
    parser.add_argument("--node", required=True, help="on which node")
    parser.add_argument("--host", type=Path, required=True, help="folder with the paths of the host")
    parser.add_argument(
        "--kubelet", type=Path, required=True, help="folder of the simulated kubelet: it has the pod's token"
    )
    parser.add_argument(
        "--run", type=Path, required=True, help="folder for volumes, layers and logs; it must not be there"
    )
    parser.add_argument("--bind", type=_bind_option, action="append", default=[], metavar="SOURCE:TARGET")
    parser.add_argument("--env", type=_variable, action="append", default=[], metavar="NAME=VALUE")
    return parser.parse_args()


def _interrupt(number: int, _: object) -> None:
    raise KeyboardInterrupt(number)


def main() -> int:
    """Until a container ends, or a signal comes."""
    options = _options()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _interrupt)
    options.run.mkdir(parents=True)
    os.chdir(ROOT)
    with ExitStack() as after, Children(options.run) as children:
        try:
            image = Builder(ROOT, options.run / "image", uv_program(), lambda _: None).build()
            containers, refresh = _Pod(options).laid_out(image)
            after.callback(containers.clean)
            containers.initialize()
            containers.start(children)
            while not (gone := children.ended()):
                time.sleep(0.5)
                refresh()
        except KeyboardInterrupt:
            return 0
        except (BuildError, InitError, MountError) as error:
            print(error, file=sys.stderr)
            return 1
    print(gone, file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
