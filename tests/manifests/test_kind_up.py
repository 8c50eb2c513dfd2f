"""The script that makes a kind cluster, as far as it goes without Docker and a cluster: what it names is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from hack.containers.dockerfile import stages
from tests.manifests.sources import MANIFESTS, ROOT, rendered

SCRIPT = (ROOT / "hack" / "kind-up").read_text()
OVERLAY = MANIFESTS / "overlays" / "dev"


def test_a_linter_has_nothing_to_say_of_the_shell_scripts() -> None:
    scripts = [ROOT / "hack" / name for name in ("kind-up", "test", "demo")]
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [shellcheck, "--external-sources", "--source-path=SCRIPTDIR", *scripts],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_that_it_builds_is_the_one_that_the_overlay_runs() -> None:
    (image,) = re.findall(r"^IMAGE=(\S+)$", SCRIPT, flags=re.MULTILINE)
    (target,) = re.findall(r"docker build --target (\S+)", SCRIPT)
    assert target in {stage.name for stage in stages(ROOT / "Dockerfile")}
    pods = [one["spec"]["template"]["spec"] for one in rendered(OVERLAY) if one["kind"] == "DaemonSet"]
    assert {c["image"] for pod in pods for c in (*pod.get("initContainers", ()), *pod["containers"])} == {image}


def test_its_node_has_the_labels_by_which_the_pods_choose() -> None:
    cluster = yaml.safe_load((ROOT / "hack" / "kind.yaml").read_text())
    (node,) = cluster["nodes"]
    for one in rendered(OVERLAY):
        if one["kind"] == "DaemonSet":
            assert one["spec"]["template"]["spec"]["nodeSelector"].items() <= node["labels"].items()


def test_without_docker_it_says_what_is_missing(tmp_path: Path) -> None:
    for name in ("dirname", "bash", "cat"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        [ROOT / "hack" / "kind-up"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no docker on PATH" in done.stderr
