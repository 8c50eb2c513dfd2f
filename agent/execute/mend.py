"""Does what a finding asks for."""

from __future__ import annotations

from pathlib import Path

import msgspec

from agent.adapters.files import content_hash, locked, unshare, write_durably
from agent.adapters.hub_cache import ModelFolder, read_listing_of_the_client
from agent.model.cache import MANIFEST_FORMAT, Manifest
from agent.model.cache_finding import Finding, Remedy
from agent.model.errors import RetryError

_BLOB_MODE = 0o644
_DIRECTORY_MODE = 0o755


def mend(cache: Path, finding: Finding) -> str:
    """What was done, in words; a finding without a remedy is left. Raises RetryError where the disk refuses."""
    folder = ModelFolder(cache, finding.where)
    if finding.remedy is Remedy.NONE:
        return "left as it is"
    try:
        folder.private.mkdir(exist_ok=True)
        with locked(folder.lock) as ours:
            return _do(folder, finding) if ours else "left, since a fetch is at work on it"
    except OSError as error:
        raise RetryError(f"{finding.where} cannot be mended: {error}") from error


def _do(folder: ModelFolder, finding: Finding) -> str:
    paths = [folder.cache / path for path in finding.paths]
    match finding.remedy:
        case Remedy.ADOPT:
            return "; ".join(_adopt(folder, path) for path in paths)
        case Remedy.REMOVE:
            for path in paths:
                path.unlink(missing_ok=True)
            return f"removed, {finding.bytes / 1e9:.2f} GB"
        case Remedy.OPEN:
            for path in paths:
                path.chmod(_DIRECTORY_MODE if path.is_dir() else _BLOB_MODE)
            return "opened for everybody"
        case Remedy.UNSHARE:
            for path in paths:
                unshare(path)
            return "the files are in their place now"
        case Remedy.NONE:
            return "left as it is"


def _adopt(folder: ModelFolder, snapshot: Path) -> str:
    """Vouch for a snapshot whose every file has the content that its commit lists, as the hub's client wrote the list down.
    What of the list is not here is not vouched for."""
    try:
        files = read_listing_of_the_client(folder, snapshot.name)
    except msgspec.DecodeError:
        return "not adopted: the list of its files cannot be read"
    here = [file for file in files if (snapshot / file.path).is_file()]
    wrong = [file.path for file in here if content_hash(snapshot / file.path, like=file.blob) != file.blob]
    if wrong:
        return f"not adopted: {', '.join(wrong[:3])} has not the content that is listed; remove it and fetch it again"
    paths = tuple(file.path for file in here)
    manifest = Manifest(MANIFEST_FORMAT, folder.repository, snapshot.name, files, paths)
    write_durably(folder.manifest(snapshot.name), msgspec.json.encode(manifest))
    # Offline readers miss what stands in the list and is not here; without the list they take what there is.
    record = folder.listing_of_the_client(snapshot.name)
    record.chmod(_BLOB_MODE) if len(here) == len(files) else record.unlink()
    return f"adopted: {len(here)} of its {len(files)} files are here, with the content that is listed"
