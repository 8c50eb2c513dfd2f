"""The demo's node: its layouts and models, and the agent on it, as one process or as its DaemonSet says."""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hack.ports import free_port

if TYPE_CHECKING:
    from hack.demo import Story

ROOT = Path(__file__).resolve().parents[1]
NODE = "gpu-1"
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
MODEL_LABEL = "models.warmslice.dev/sentence-transformers--all-MiniLM-L6-v2"
STATE = "nvidia.com/mig.config.state"
LAYOUTS = """\
version: v1
mig-configs:
  night:
  - {devices: [0], mig-enabled: true, mig-devices: {3g.40gb: 1, 2g.20gb: 1}}
  - {devices: [1], mig-enabled: true, mig-devices: {7g.80gb: 1}}
  day:
  - {devices: [0], mig-enabled: true, mig-devices: {3g.40gb: 1, 1g.10gb: 3}}
  - {devices: [1], mig-enabled: true, mig-devices: {2g.20gb: 3}}
  shared:
  - devices: [0]
    mig-enabled: true
    mig-devices: {3g.40gb: 1, 1g.10gb: 3}
    sharing: {strategy: time-slicing, replicas: {1g.10gb: 4}}
  - {devices: [1], mig-enabled: true, mig-devices: {2g.20gb: 3}}
  evening:
  - devices: [0]
    mig-enabled: true
    mig-devices: {3g.40gb: 1, 1g.10gb: 3}
    sharing: {strategy: time-slicing, replicas: {1g.10gb: 4}}
  - {devices: [1], mig-enabled: false, sharing: {strategy: time-slicing, replicas: {gpu: 8}}}
"""
PLUGIN_CONFIG = "warmslice-device-plugin"
EARLY, LATE = "acme/early", "acme/late"
CONNECTION_RATE = 10_000_000
CATALOG = f"""\
models:
- repository: {MODEL}
"""


class AsProcess:
    """The agent as one process with both roles."""

    def __init__(self, folder: Path) -> None:
        self.ports = [free_port()]
        self.cache = folder / "hub-cache"

    def start(self, story: Story, hub: str) -> None:
        """It has not done anything yet."""
        (story.folder / "catalog.yaml").write_text(CATALOG, "utf-8")
        node = story.folder / NODE
        command = [sys.executable, "-m", "agent", "run", "--role=all", f"--node-name={NODE}"]
        command += [
            f"--layouts-file={story.folder / 'layouts.yaml'}",
            f"--catalog-file={story.folder / 'catalog.yaml'}",
        ]
        command += [f"--pod-resources-socket={node / 'pod-resources' / 'kubelet.sock'}"]
        command += [f"--proc-directory={node / 'proc'}", f"--state-directory={node / 'state'}"]
        command += [f"--cache-directory={self.cache}", f"--partition-listen=127.0.0.1:{self.ports[0]}"]
        command += ["--namespace=default"]
        command += [f"--{name.replace('_', '-')}={_flag(value)}" for name, value in _settings(hub).items()]
        paths = {
            "LD_LIBRARY_PATH": str(story.simulated.library.parent),
            "PATH": f"{story.simulated.nvidia_smi.parent}{os.pathsep}{os.environ.get('PATH', '')}",
        }
        story.children.start("agent", command, {**story.environment, **paths})

    def ask_the_doctor(self, story: Story) -> None:
        """It would miss the DaemonSet."""


class AsDaemonSet:
    """run the agent as manifests/base has it: its DaemonSet's commands, environment and mounts, with the token of its pod"""

    ports = (9470, 9471)

    def __init__(self, folder: Path) -> None:
        self._host = folder / "host"
        self.cache = self._host / "var/lib/warmslice/hub"

    def start(self, story: Story, hub: str) -> None:
        """It has not done anything yet."""
        self._lay_out_the_host(story)
        self._apply(story, hub)
        folder, api = story.folder, [f"--kubeconfig={story.environment['KUBECONFIG']}", f"--node={NODE}"]
        command = [sys.executable, "-m", "hack.containers.pod", *api, f"--host={self._host}"]
        command += [f"--kubelet={folder / NODE}", f"--run={folder / 'pod'}"]
        # As the runtime class does it: the driver's library and program, at their places.
        libraries = f"/usr/lib/{sysconfig.get_config_var('MULTIARCH')}"
        command += [f"--bind={story.simulated.library}:{libraries}/libnvidia-ml.so.1"]
        command += [f"--bind={story.simulated.nvidia_smi}:/usr/bin/nvidia-smi"]
        # The GPUs, and the processes of pods, are simulated.
        command += [f"--bind={folder / 'simulated'}:/simulated", "--env=SIMGPU_STATE=/simulated/gpus.state"]
        command += [f"--bind={folder / NODE / 'proc'}:/simulated-proc"]
        story.children.start("pod", command)

    def _lay_out_the_host(self, story: Story) -> None:
        """The kubelet's folder; the others come with the pod, as its volumes say."""
        (self._host / "var/lib").mkdir(parents=True)
        (story.folder / NODE / "proc").mkdir(exist_ok=True)
        (self._host / "var/lib/kubelet").symlink_to(story.folder / NODE)

    def _apply(self, story: Story, hub: str) -> None:
        """The base, with the files that an administrator writes."""
        overlay = story.folder / "overlay"
        overlay.mkdir()
        base = (ROOT / "manifests/base/settings.yaml").read_text("utf-8")
        settings = {**_settings(hub), "proc_directory": "/simulated-proc"}
        (overlay / "settings.yaml").write_text(base + yaml.safe_dump(settings), "utf-8")
        (overlay / "layouts.yaml").write_text(LAYOUTS, "utf-8")
        (overlay / "catalog.yaml").write_text(CATALOG, "utf-8")
        generated = [
            {"name": f"warmslice-{name}", "namespace": "warmslice", "behavior": "replace", "files": [f"{name}.yaml"]}
            for name in ("settings", "layouts", "catalog")
        ]
        kustomization = {
            "resources": [os.path.relpath(ROOT / "manifests/base", overlay.resolve())],
            "configMapGenerator": generated,
            "generatorOptions": {"disableNameSuffixHash": True},
        }
        (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization), "utf-8")
        story.kubectl("apply", "-k", str(overlay), show=False)
        story.say("$ kubectl apply -k overlay    # manifests/base, with these settings, layouts and models")
        story.kubectl("apply", "-f", str(ROOT / "manifests/components/prewarm/rbac.yaml"), show=False)
        # NVIDIA's container toolkit brings it.
        story.apply(
            {
                "apiVersion": "node.k8s.io/v1",
                "kind": "RuntimeClass",
                "metadata": {"name": "nvidia"},
                "handler": "nvidia",
            }
        )

    def ask_the_doctor(self, story: Story) -> None:
        """Nothing is wrong with it, as it stands."""
        story.chapter("9. The doctor looks at the cluster")
        story.say("$ warmslice doctor")
        for line in story.warmslice("doctor").splitlines():
            print(f"          {line}", flush=True)


def _settings(hub: str) -> dict[str, Any]:
    return {
        "hub_endpoint": hub,
        "telemetry_period_seconds": 0.5,
        # A machine that is nearly full shall be able to show the story too.
        "cache_reserve_ratio": 0.0,
        "gpu_prices": {"NVIDIA H100*": 2.5},
        "prewarm": "auto",
        "prewarm_allow": {"default": ["acme/*"]},
    }


def _flag(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict) else str(value)
