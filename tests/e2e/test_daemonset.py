"""The DaemonSet as it stands: its commands, environment, mounts, users and capabilities, with the token of its pod."""

from __future__ import annotations

import subprocess

from hack.containers.mounts import why_not
from tests.fakes.programs import missing
from tests.manifests.sources import ROOT


def test_the_daemon_set_as_it_stands_passes_the_whole_story() -> None:
    """What RBAC, policies, mounts and a read-only root forbid would show as a chapter that does not come."""
    if why := why_not():
        missing(why)
    done = subprocess.run(
        [f"{ROOT}/hack/demo", "--daemonset"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "Done in" in done.stdout
