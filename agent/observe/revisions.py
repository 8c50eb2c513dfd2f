"""Reads which revisions lie on disk, what they take, and who uses them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from agent.adapters.files import allocated_bytes, is_open
from agent.adapters.hub_cache import ModelFolder, model_folders, read_manifest
from agent.model.cache import Manifest
from agent.model.revision import UNFINISHED, PodText, Revision, RevisionKey

MANIFEST = re.compile(r"([0-9a-f]{40})\.json")
_PART = re.compile(r"[0-9a-f]{40,64}\.warmslice-(part|grains)")
_ENDED = frozenset({"Succeeded", "Failed"})


def read_revisions(cache: Path) -> tuple[Revision, ...]:
    """Every commit that has our manifest, and what fetches have left unfinished. What others put into the cache is not
    counted: it is not ours to remove. Raises RetryError where the disk does not answer."""
    return tuple(revision for folder in model_folders(cache) for revision in _of_folder(folder))


def opened(cache: Path, revisions: Iterable[Revision]) -> frozenset[RevisionKey]:
    """Those of which a process has a file open, or mapped."""
    return frozenset(
        revision.key
        for revision in revisions
        if any(is_open(ModelFolder(cache, revision.key.repository).blob(name)) for name in revision.blobs)
    )


def pod_texts(pods: Sequence[dict[str, Any]]) -> tuple[PodText, ...]:
    """Of every pod that has not ended: all that its containers are told, and the paths that it mounts."""
    return tuple(
        PodText(f"{pod['metadata']['namespace']}/{pod['metadata']['name']}", "\n".join(_words(pod.get("spec") or {})))
        for pod in pods
        if (pod.get("status") or {}).get("phase") not in _ENDED
    )


def _of_folder(folder: ModelFolder) -> Iterator[Revision]:
    names = sorted(path.name for path in folder.private.glob("*.json"))
    for match in filter(None, map(MANIFEST.fullmatch, names)):
        manifest = read_manifest(folder, match[1])
        if manifest is not None:
            yield _revision(folder, manifest)
    parts = [path for path in folder.blobs.glob("*.warmslice-*") if _PART.fullmatch(path.name)]
    if parts:
        sizes = {path.name: allocated_bytes(path) for path in parts}
        yield Revision(RevisionKey(folder.repository, UNFINISHED), sizes, max(map(_changed_at, parts)))


def _revision(folder: ModelFolder, manifest: Manifest) -> Revision:
    sizes = {name: size for name in sorted(manifest.blobs) if (size := allocated_bytes(folder.blob(name)))}
    used = max(_changed_at(folder.used(manifest.commit)), _changed_at(folder.manifest(manifest.commit)))
    return Revision(RevisionKey(folder.repository, manifest.commit), sizes, used)


def _changed_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _words(spec: dict[str, Any]) -> Iterator[str]:
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.get(kind) or ():
            yield from container.get("command") or ()
            yield from container.get("args") or ()
            yield from (variable.get("value") or "" for variable in container.get("env") or ())
            yield from (mount.get("subPath") or "" for mount in container.get("volumeMounts") or ())
    yield from ((volume.get("hostPath") or {}).get("path") or "" for volume in spec.get("volumes") or ())
