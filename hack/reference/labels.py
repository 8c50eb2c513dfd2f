"""All labels, annotations and taints, from the table in ``agent/model/labels.py``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.model.labels import CLIENTS, KEYS, PAUSED
from hack.reference.words import code, made_by, table

ABOUT = (
    "What the agent reads and writes on its node, and reads on pods. It writes no other label, annotation or taint: the "
    "policies in `manifests/base/admission.yaml` are made from the same table. The first key may be another one: "
    "[`mig_config_label`](settings.md#mig_config_label)."
)
CLIENTS_ABOUT = (
    f"Such a label, where it is there and not `false`, is `{PAUSED}` during a change that needs its client out of the way, and "
    "is put back then."
)


def page() -> str:
    """Keys of the node and of pods, and the clients that are paused."""
    lines = [
        *made_by("Labels, annotations and taints", ABOUT),
        *table(("key", "where", "the agent", "meaning"), _rows()),
        "",
        "## GPU clients",
        "",
        CLIENTS_ABOUT,
        "",
        *table(("label", "paused for"), _clients()),
    ]
    return "\n".join(lines) + "\n"


def _rows() -> Iterator[Sequence[str]]:
    for key in KEYS:
        does = "takes it away" if key.where == "taint" else "writes" if key.written else "reads"
        yield code(key.name), key.where, does, key.meaning


def _clients() -> Iterator[Sequence[str]]:
    for client in CLIENTS:
        yield code(client.label), "every change" if client.every_change else "a change of MIG mode"
