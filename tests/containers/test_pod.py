"""A pod's containers run as its object says."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hack.containers.image import Image
from hack.containers.pod import Containers, InitError, Place
from hack.containers.volumes import Configured, MountError, laid_out
from hack.processes import Children

Object = dict[str, Any]
_SHARED = {"name": "shared", "mountPath": "/shared"}


def container(name: str, script: str, **more: Any) -> Object:
    return {"name": name, "command": ["sh", "-c", script], "volumeMounts": [_SHARED], **more}


def pod(*containers: Object, first: tuple[Object, ...] = ()) -> Object:
    spec = {"nodeName": "gpu-1", "initContainers": list(first), "containers": list(containers)}
    return {"metadata": {"name": "agent-x", "namespace": "warmslice", "uid": "u"}, "spec": spec}


class Site:
    def __init__(self, folder: Path) -> None:
        (folder / "identity").mkdir()
        (folder / "run").mkdir()
        (folder / "identity" / "token").write_text("secret")
        self.shared = laid_out(
            {"name": "shared", "emptyDir": {}}, folder, folder / "run" / "volumes", Configured(lambda *_: {})
        )
        self._place = Place(
            folder, folder / "run", folder / "identity", ("127.0.0.1", "6443"), (), {"SEEN": "by the runtime"}
        )
        self._children = Children(folder)
        self._made: list[Containers] = []

    def run(self, told: Object) -> None:
        containers = Containers(told, Image(), self._place, {"shared": self.shared})
        self._made.append(containers)
        containers.initialize()
        containers.start(self._children)

    def said(self, name: str) -> str:
        """What a container has written, once it has."""
        file = self.shared / name
        for _ in range(500):
            if file.exists() and file.read_text().endswith("\n"):
                return file.read_text().strip()
            time.sleep(0.02)
        raise AssertionError(f"{name} never came: {self._children.ended()}")

    def close(self) -> None:
        self._children.__exit__(None, None, None)
        for containers in self._made:
            containers.clean()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path)
    yield found
    found.close()


def test_init_containers_end_before_the_others_begin_and_all_share_what_they_mount(site: Site) -> None:
    site.run(
        pod(
            container("main", "cat /shared/made > /shared/seen; sleep 60"),
            first=(container("one", "echo first > /shared/made"), container("two", "echo second >> /shared/made")),
        )
    )
    assert site.said("seen") == "first\nsecond"


def test_an_init_container_that_fails_keeps_the_others_from_starting(site: Site) -> None:
    with pytest.raises(InitError, match="one: exit code 3: not yet"):
        site.run(pod(container("main", "echo yes > /shared/seen"), first=(container("one", "echo not yet; exit 3"),)))
    assert not (site.shared / "seen").exists()


def test_variables_are_what_the_kubelet_and_the_runtime_class_give(site: Site) -> None:
    field = {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}
    script = (
        "echo $NODE_NAME $HOSTNAME $KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT $SEEN > /shared/$NAME; sleep 60"
    )
    without = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"}]
    site.run(
        pod(
            container("with", script, env=[field, {"name": "NAME", "value": "with"}]),
            container("without", script, env=[field, {"name": "NAME", "value": "without"}, *without]),
        )
    )
    assert site.said("with") == "gpu-1 agent-x 127.0.0.1:6443 by the runtime"
    assert site.said("without") == "gpu-1 agent-x 127.0.0.1:6443"


def test_every_container_has_the_token_of_the_pod(site: Site) -> None:
    path = "/var/run/secrets/kubernetes.io/serviceaccount/token"
    site.run(pod(container("main", f"cat {path} > /shared/seen; echo >> /shared/seen; sleep 60")))
    assert site.said("seen") == "secret"


def test_a_change_of_a_config_map_comes_all_at_once_and_one_that_is_not_there_is_said(tmp_path: Path) -> None:
    data = {"a.yaml": "1", "b.yaml": "1"}
    configured = Configured(lambda _, name: {"data": dict(data)} if name == "there" else {})
    volume = {"name": "configuration", "projected": {"sources": [{"configMap": {"name": "there"}}]}}
    folder = laid_out(volume, tmp_path, tmp_path / "volumes", configured)
    before = (folder / "..data").resolve()
    data.update({"a.yaml": "2", "b.yaml": "2"})
    configured.refresh()
    assert [(folder / name).read_text() for name in sorted(data)] == ["2", "2"]
    assert not before.exists()
    with pytest.raises(MountError, match="configmap 'nowhere' not found"):
        laid_out({"name": "x", "configMap": {"name": "nowhere"}}, tmp_path, tmp_path / "volumes", configured)


def test_a_folder_of_the_host_that_has_to_be_there_and_is_not_is_said(tmp_path: Path) -> None:
    volume: Object = {"name": "pods", "hostPath": {"path": "/var/lib/kubelet/pod-resources", "type": "Directory"}}
    with pytest.raises(MountError, match="is not a directory"):
        laid_out(volume, tmp_path, tmp_path / "volumes", Configured(lambda *_: {}))
    volume["hostPath"]["type"] = "DirectoryOrCreate"
    assert laid_out(volume, tmp_path, tmp_path / "volumes", Configured(lambda *_: {})).is_dir()
