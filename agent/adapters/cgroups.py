"""The door to what the kernel says of a process: the pod whose cgroup it is in, and of one in no pod its user and command.

# Note [Pods by cgroup]
# The kubelet puts the containers of a pod into a cgroup that has the pod's UID in its name, beneath one named kubepods. The
# cgroupfs driver writes ``kubepods/burstable/pod<uid>/<container>``, systemd's writes
# ``kubepods-burstable-pod<uid, - as _>.slice/cri-containerd-<container>.scope``, and a runtime that is not told about systemd
# writes the latter as one name, ``kubepods-burstable-pod<uid>.slice:cri-containerd:<container>``. What stands before that (the
# ``/kubelet`` of kind, the cgroup of a container around the node, ``/../..`` seen from a cgroup namespace) tells nothing. The UID
# of a static pod is a hash without hyphens. Under cgroup v1 there is a path for each controller, under v2 one.
"""

from __future__ import annotations

import re
from pathlib import Path

from agent.model.node import Origin

_UID = r"[0-9a-f]{8}(?:[-_]?[0-9a-f]{4}){3}[-_]?[0-9a-f]{12}"
_POD = re.compile(
    rf"(?:/(?:[^/:]*-)?kubepods(?:/[^/:]+)?/pod|/(?:[^/:]*-)?kubepods(?:-[a-z]+)?-pod)({_UID})(?=\.slice|/|:|$)"
)
_LONGEST_COMMAND = 80
"""A process may call itself anything."""


class Processes:
    """Processes as one /proc shows them. ``root`` is that of the host: a container sees it with ``hostPID``."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)

    def origin(self, pid: int) -> Origin | None:
        """Where it comes from; None for a process that is not there, or cannot be seen from here."""
        folder = self._root / str(pid)
        try:
            paths = _paths((folder / "cgroup").read_text("utf-8", "replace"))
            pods = tuple(dict.fromkeys(uid.replace("_", "-") for path in paths for uid in _POD.findall(path)))
            return Origin(pods) if pods else Origin((), self._user(folder.stat().st_uid), _command(folder))
        except OSError:
            return None

    def _user(self, uid: int) -> str:
        """By the host's own list of users: that of this container is another."""
        try:
            lines = (self._root / "1" / "root" / "etc" / "passwd").read_text("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        rows = (line.split(":") for line in lines)
        return next((row[0] for row in rows if len(row) > 2 and row[2] == str(uid)), f"uid {uid}")


def _paths(text: str) -> list[str]:
    """``hierarchy:controllers:path`` in each line."""
    return [line.split(":", 2)[-1] for line in text.splitlines()]


def _command(folder: Path) -> str:
    """Its command line up to the first long option or assignment: behind one there may be a secret, and this is shown."""
    words: list[str] = []
    try:
        line = (folder / "cmdline").read_bytes()
    except OSError:
        return ""
    for word in line.decode("utf-8", "replace").split("\0"):
        if word.startswith("--") or "=" in word:
            break
        words.append(word)
    return " ".join(" ".join(words).split())[:_LONGEST_COMMAND]
