"""The node object of a host without Kubernetes: one JSON file that takes the same patches.

# Note [A host is a node]
# A change by hand takes the steps of a change by label, with the same record of what was there before. So the record needs
# what the API server gives it: a patch is whole or not there after a crash (written beside, synced, renamed), one made on an
# old version is refused, and two who change the host exclude each other (a lock that the system lets go with its process).
"""

from __future__ import annotations

import copy
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent.adapters.files import write_durably
from agent.model.errors import BadInputError, ConflictError, InUseError, RefusedError
from agent.model.node import PodRef

Object = dict[str, Any]


class HostNode:
    """Plays the API server's part for one node. See Note [A host is a node]."""

    def __init__(self, file: Path, node: Object) -> None:
        self._file = file
        self._node = node

    @classmethod
    @contextmanager
    def held(cls, directory: Path, name: str) -> Iterator[HostNode]:
        """The host's node, ours until the end. InUseError while another process has it, BadInputError where it cannot be kept."""
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise BadInputError(f"state directory {directory}: {error.strerror}; this needs root") from error
        try:
            _exclude_others(lock)
            yield cls(directory / "node.json", _read(directory / "node.json", name))
        finally:
            os.close(lock)

    @property
    def synced(self) -> bool:
        """Always: the file is the truth, and nobody else writes it."""
        return True

    @property
    def objects(self) -> tuple[Object, ...]:
        """The node, as a watch would know it."""
        return (copy.deepcopy(self._node),)

    def put(self, item: Object) -> None:
        """What was written is known already."""

    async def patch_node(self, name: str, patch: Object) -> Object:
        """RFC 7396; with ``metadata.resourceVersion`` in it a stale one is a ConflictError. Returns the node."""
        version = self._node["metadata"]["resourceVersion"]
        if patch.get("metadata", {}).get("resourceVersion", version) != version:
            raise ConflictError(f"the node of host {name} has changed")
        node: Object = _merged(self._node, patch)
        node["metadata"]["resourceVersion"] = str(int(version) + 1)
        write_durably(self._file, json.dumps(node, indent=1).encode())
        self._node = node
        return copy.deepcopy(node)

    async def evict(self, pod: PodRef) -> None:
        """Nobody can be asked to."""
        raise RefusedError(f"{pod} cannot be evicted: this host has no API server")

    async def delete_pod(self, pod: PodRef) -> None:
        """Nobody can be asked to."""
        raise RefusedError(f"{pod} cannot be deleted: this host has no API server")


def _exclude_others(lock: int) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InUseError("another warmslice apply changes this host now") from error


def _read(file: Path, name: str) -> Object:
    """The node as the last change left it."""
    try:
        node = json.loads(file.read_bytes())
        version = str(int(node["metadata"]["resourceVersion"]))
    except FileNotFoundError:
        node, version = {}, "1"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInputError(
            f"{file} cannot be read ({error}); it holds the record of changes by hand: look with nvidia-smi whether the "
            "slices are as they should be, then remove it"
        ) from error
    metadata = {"name": name, "uid": f"host-{name}", "resourceVersion": version}
    fresh = {"metadata": {"labels": {}, "annotations": {}, **metadata}, "spec": {}, "status": {"nodeInfo": {}}}
    found: Object = _merged(fresh, node)
    found["metadata"] |= metadata
    return found


def _merged(target: Any, patch: Any) -> Any:
    """RFC 7396: None removes, a mapping goes down, everything else replaces."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result
