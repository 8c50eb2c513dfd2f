"""The door to what the kernel says of this boot. Both files show the host's values inside a container too."""

from __future__ import annotations

from pathlib import Path

from agent.model.node import Boot

_STAT = Path("/proc/stat")


def this_boot(id_file: str) -> Boot:
    """Which boot this is (``/proc/sys/kernel/random/boot_id``), and when it began (``btime`` in ``/proc/stat``); what cannot
    be read is empty, or 0."""
    return Boot(_text(Path(id_file)).strip(), _began(_text(_STAT)))


def _began(stat: str) -> float:
    line = next((line for line in stat.splitlines() if line.startswith("btime ")), "btime 0")
    return float(line.split()[1])


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8")
    except OSError:
        return ""
