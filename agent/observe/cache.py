"""Reads what the disk holds of a wanted model. Nothing is remembered and no hub is asked."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.adapters.files import content_hash, enterable_by_others, readable_by_others
from agent.adapters.hub_cache import ModelFolder, read_manifest
from agent.model.cache import CachedModel, Manifest
from agent.model.catalog import CatalogModel, RepositoryFile, selected

_COMMIT = re.compile(r"[0-9a-f]{40}")
_NO_FILE = "the patterns leave no file of the model"


def observe_model(cache: Path, model: CatalogModel) -> CachedModel:
    """Complete where every wanted file of the revision's commit was checked by us when it came, is linked from the
    snapshot to a blob of the listed length, and is readable for everyone."""
    folder = ModelFolder(cache, model.repository)
    commit = commit_here(cache, model)
    if commit is None:
        return CachedModel(None, 0, 0, "not fetched yet")
    manifest = read_manifest(folder, commit)
    if manifest is None:
        return CachedModel(commit, 0, 0, "never checked against the hub's listing")
    return replace(_compared(folder, manifest, _wanted(manifest, model)), checked_at_seconds=_checked_at(folder, model))


def verify_model(cache: Path, model: CatalogModel) -> str | None:
    """What is wrong, in words; None where every wanted file is here with the content that was listed. Reads all of them:
    seconds per GB."""
    folder = ModelFolder(cache, model.repository)
    commit = commit_here(cache, model)
    manifest = read_manifest(folder, commit) if commit is not None else None
    if manifest is None:
        return observe_model(cache, model).lacking
    files = _wanted(manifest, model)
    bad = [f.path for f in files if not _is_intact(folder, manifest.commit, f)]
    if bad:
        return f"missing or wrong: {', '.join(bad)}"
    return None if files else _NO_FILE


def commit_here(cache: Path, model: CatalogModel) -> str | None:
    """The commit at which the model's revision is on this disk; None where it is not known."""
    if _COMMIT.fullmatch(model.revision):
        return model.revision
    try:
        commit = ModelFolder(cache, model.repository).ref(model.revision).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def files_here(cache: Path, model: CatalogModel) -> tuple[RepositoryFile, ...]:
    """The wanted files of the revision's commit on this disk, as they are listed; none where it is not known."""
    commit = commit_here(cache, model)
    manifest = read_manifest(ModelFolder(cache, model.repository), commit) if commit is not None else None
    return _wanted(manifest, model) if manifest is not None else ()


def _wanted(manifest: Manifest, model: CatalogModel) -> tuple[RepositoryFile, ...]:
    return selected(manifest.files, model.allow_patterns, model.ignore_patterns, model.engine)


def _checked_at(folder: ModelFolder, model: CatalogModel) -> float | None:
    """A fetch writes the ref anew whether the commit has changed or not."""
    try:
        return None if _COMMIT.fullmatch(model.revision) else folder.ref(model.revision).stat().st_mtime
    except OSError:
        return None


def _compared(folder: ModelFolder, manifest: Manifest, files: Sequence[RepositoryFile]) -> CachedModel:
    verified = frozenset(manifest.verified)
    closed = _closed_folder(folder, manifest.commit)
    problems = {f.path: _problem(folder, manifest.commit, f) for f in files}
    problems |= {f.path: "never checked" for f in files if f.path not in verified}
    blobs = {f.blob: f.size_bytes for f in files}
    present = {f.blob: f.size_bytes for f in files if problems[f.path] is None}
    bad = [(path, problem) for path, problem in problems.items() if problem is not None]
    lacking = None if files else _NO_FILE
    if closed is not None:
        lacking = f"folder {closed} cannot be entered by others"
    if bad:
        path, problem = bad[0]
        lacking = f"{path} is {problem}" + (f", and {len(bad) - 1} more files" if len(bad) > 1 else "")
    return CachedModel(manifest.commit, sum(blobs.values()), sum(present.values()), lacking)


def _problem(folder: ModelFolder, commit: str, file: RepositoryFile) -> str | None:
    """In words, as the end of "config.json is ..."."""
    link = folder.snapshot(commit) / file.path
    try:
        status = link.stat()
        blob = folder.blob(file.blob).stat()
    except OSError:
        return "missing"
    if not os.path.samestat(status, blob):
        return "linked to another content"
    if not stat.S_ISREG(status.st_mode) or status.st_size != file.size_bytes:
        return "of another length than listed"
    return None if readable_by_others(status) else "not readable for others"


def _closed_folder(folder: ModelFolder, commit: str) -> str | None:
    """One on the way to the files that a pod which is not their owner cannot enter."""
    way = (folder.cache, folder.root, folder.blobs, folder.root / "snapshots", folder.snapshot(commit))
    closed = (path for path in way if path.is_dir() and not enterable_by_others(path.stat()))
    return next((path.name for path in closed), None)


def _is_intact(folder: ModelFolder, commit: str, file: RepositoryFile) -> bool:
    path = folder.snapshot(commit) / file.path
    try:
        return content_hash(path, like=file.blob) == file.blob
    except OSError:
        return False
