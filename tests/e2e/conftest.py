"""The cluster that kubectl's tests share, run as its users run it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack.kubectl import NoKubectlError, carried
from tests.e2e.kubectl import SLICE, Kubectl

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """Two nodes of two slices each, in processes of their own."""
    try:
        program = carried("kubectl")
    except NoKubectlError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("cluster")
    (folder / "devices.json").write_text(json.dumps({SLICE: ["MIG-a", "MIG-b"]}))
    command = [sys.executable, "-m", "hack.devcluster", "--nodes", "gpu-1,gpu-2", "--run-dir", str(folder)]
    command += ["--devices-file", str(folder / "devices.json"), "--plugin-without-pod"]
    command += ["--status-interval", "0.2", "--pod-start", "0.05", "--rbac", "--no-anonymous"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as cluster:
        assert cluster.stdout is not None
        cluster.stdout.readline()
        environment = {"KUBECONFIG": str(folder / "kubeconfig"), "HOME": str(folder), "PATH": os.environ["PATH"]}
        run = Kubectl(program, environment)
        key = SLICE.replace(".", "\\.")
        try:
            for node in ("gpu-1", "gpu-2"):
                run("wait", f"node/{node}", "--for=create", "--timeout=10s")
                run("wait", f"node/{node}", f"--for=jsonpath={{.status.allocatable.{key}}}=2", "--timeout=10s")
            yield run
        finally:
            cluster.send_signal(signal.SIGTERM)
            assert cluster.wait(10) == 0
