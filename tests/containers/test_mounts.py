"""What a process finds as its file system is what was written down, and what it leaves there is not on this machine."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from hack.containers.image import ROOT
from hack.containers.mounts import Bind, Process, remove_work

_CAPABILITIES = "grep CapEff /proc/self/status | cut -f2"


@pytest.fixture
def process(tmp_path: Path) -> Process:
    for name in ("layer", "work", "root"):
        (tmp_path / name).mkdir()
    layer, work, root = (str(tmp_path / name) for name in ("layer", "work", "root"))
    return Process(("true",), {}, layer=layer, work=work, root=root)


def said(process: Process, script: str) -> str:
    """Its output, or the last line of its errors."""
    Path(process.work).mkdir(exist_ok=True)
    command = replace(process, arguments=("sh", "-c", script)).command(Path(process.layer).with_name("process.json"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=30)
    remove_work(process)
    return done.stdout.strip() or done.stderr.strip().splitlines()[-1]


def test_what_is_written_is_in_the_layer_and_not_on_this_machine(process: Process) -> None:
    assert said(process, "echo hello > /etc/from-a-container && cat /etc/from-a-container") == "hello"
    assert not Path("/etc/from-a-container").exists()
    assert (Path(process.layer) / "etc" / "from-a-container").read_text() == "hello\n"


def test_a_read_only_root_takes_nothing_and_its_mounts_do(process: Process, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    told = replace(process, is_root_read_only=True, binds=(Bind(str(shared), "/no/such/place"),))
    assert "Read-only file system" in said(told, "touch /etc/from-a-container")
    assert said(told, "touch /no/such/place/a && ls /no/such/place") == "a"
    assert (shared / "a").exists()


def test_a_mount_that_is_read_only_takes_nothing(process: Process, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    told = replace(process, binds=(Bind(str(tmp_path / "shared"), "/mnt", is_read_only=True),))
    assert "Read-only file system" in said(told, "touch /mnt/a")


def test_a_place_behind_a_link_is_in_the_container(process: Process, tmp_path: Path) -> None:
    """/var/run is a link to /run: followed outside, the mount would be on this machine's."""
    (tmp_path / "token").write_text("secret")
    told = replace(process, binds=(Bind(str(tmp_path / "token"), "/var/run/secrets/token"),))
    assert said(told, "cat /run/secrets/token") == "secret"
    assert not Path("/run/secrets/token").exists()


def test_a_container_that_drops_all_capabilities_has_none_though_it_is_root(process: Process) -> None:
    told = replace(process, keeps=(), may_gain=False)
    assert int(said(told, _CAPABILITIES), 16) == 0
    assert said(told, "id -u; grep NoNewPrivs /proc/self/status | cut -f2") == "0\n1"
    assert int(said(process, _CAPABILITIES), 16) > 0


def test_a_container_of_another_user_ends_with_who_started_it(process: Process) -> None:
    """A change of user makes Linux forget that a process ends with its parent."""
    told = replace(process, user=65532, keeps=(), may_gain=False, arguments=("sh", "-c", "echo up; exec sleep 30"))
    starter = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    command = [sys.executable, "-c", starter, *told.command(Path(told.layer).with_name("process.json"))]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        parent.kill()
        # The pipe is the container's as long as it runs.
        assert parent.communicate(timeout=10)[0] == b""
    remove_work(told)
