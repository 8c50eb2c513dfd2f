"""Every overlay is taken whole by an API server, by the kubectl of its users."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.e2e.kubectl import Kubectl
from tests.manifests.sources import MANIFESTS, ROOT
from tests.manifests.test_policies import OVERLAYS


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_an_overlay_is_applied_and_applied_again(kube: Kubectl, overlay: Path) -> None:
    folder = str(overlay.relative_to(MANIFESTS.parent))
    assert "daemonset.apps/warmslice created" in kube("apply", "-k", folder)
    again = kube("apply", "-k", folder)
    assert {line.split()[-1] for line in again.splitlines()} == {"unchanged"}
    # Namespaces take what is in them along.
    kube("delete", "-k", folder, "--ignore-not-found", "--timeout=20s")


def test_kind_up_runs_from_the_apply_on_and_can_be_repeated(kube: Kubectl) -> None:
    """The cluster itself, and the image in it, need Docker."""
    cluster = yaml.safe_load((ROOT / "hack" / "kind.yaml").read_text())
    labels = [f"{name}={value}" for name, value in cluster["nodes"][0]["labels"].items()]
    kube("label", "node", "gpu-1", "--overwrite", *labels)
    environment = {**kube.environment, "PATH": f"{kube.program.parent}{os.pathsep}{kube.environment['PATH']}"}
    for started_anew in (False, True):
        done = subprocess.run(
            [ROOT / "hack" / "kind-up", "--existing"],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "The agent runs on gpu-1" in done.stdout
        # An image that was built again has the same name, which apply does not see as a change.
        for namespace, daemon_set in (("warmslice", "warmslice"), ("nvidia", "nvidia-device-plugin-daemonset")):
            template = json.loads(kube("-n", namespace, "get", "daemonset", daemon_set, "-o", "json"))["spec"][
                "template"
            ]
            annotations = template["metadata"].get("annotations", {})
            assert ("kubectl.kubernetes.io/restartedAt" in annotations) == started_anew
    kube("delete", "-k", "manifests/overlays/dev", "--ignore-not-found", "--timeout=20s")
