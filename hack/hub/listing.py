"""The JSON of listings: tree, paths-info, refs, commits, model info; and the pages that long ones come in."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from hack.hub.content import Access, ServedFile
from hack.hub.git import lfs_pointer
from hack.hub.repository import Commit, Repository

_Entry = dict[str, Any]

# With `expand` a page of the public hub is a twentieth as long: 50 entries instead of 1000.
_EXPANDED_PAGES_PER_PAGE = 20


def page_of(
    request: web.Request,
    entries: list[_Entry],
    page_entries: int,
    finish: Callable[[list[_Entry]], list[_Entry]] = list,
) -> web.Response:
    """One page, with the address of the next in ``Link``; the cursor is the index of its first entry.

    ``finish`` completes the entries of this page alone. The address has the name that the client used for the hub.
    """
    first = int(request.query.get("cursor", "0"))
    headers = {}
    if first + page_entries < len(entries):
        following = request.url.update_query(cursor=str(first + page_entries))
        headers["Link"] = f'<{following}>; rel="next"'
    return web.json_response(finish(entries[first : first + page_entries]), headers=headers)


def expanded_page_entries(page_entries: int) -> int:
    return max(1, page_entries // _EXPANDED_PAGES_PER_PAGE)


def tree(commit: Commit, below: str, *, recursive: bool) -> list[dict[str, Any]] | None:
    """Files and folders below a folder (``""``: the root) in path order; None where there is no such folder."""
    folders = commit.model.folders()
    if below and below not in folders:
        return None
    start = f"{below}/" if below else ""
    entries = [file_entry(path, file) for path, file in commit.model.files.items()]
    entries += [folder_entry(path, oid) for path, oid in folders.items()]
    listed = [e for e in entries if e["path"].startswith(start) and (recursive or "/" not in e["path"][len(start) :])]
    return sorted(listed, key=lambda entry: str(entry["path"]))


def entries_of(commit: Commit, paths: Iterable[str]) -> list[dict[str, Any]]:
    """What of ``paths`` the commit has, in the order asked."""
    files, folders = commit.model.files, commit.model.folders()
    found = []
    for path in paths:
        if path in files:
            found.append(file_entry(path, files[path]))
        elif path in folders:
            found.append(folder_entry(path, folders[path]))
    return found


def with_last_commits(repository: Repository, commit: Commit, entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same entries with what ``expand`` adds; files are said to be scanned and found safe."""
    return [
        entry
        | {"lastCommit": _last_commit(repository.last_change(commit, entry["path"]))}
        | ({"securityFileStatus": _SAFE} if entry["type"] == "file" else {})
        for entry in entries
    ]


_SAFE: Mapping[str, Any] = {"status": "safe", "avScan": None, "pickleImportScan": None}


def _last_commit(commit: Commit) -> dict[str, str]:
    return {"id": commit.id, "title": commit.title, "date": commit.at_text}


def file_entry(path: str, file: ServedFile) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "oid": file.git_oid, "size": file.size_bytes, "path": path}
    if file.sha256 is not None:
        pointer_bytes = len(lfs_pointer(file.sha256, file.size_bytes))
        entry["lfs"] = {"oid": file.sha256, "size": file.size_bytes, "pointerSize": pointer_bytes}
    if file.xet_hash is not None:
        entry["xetHash"] = file.xet_hash
    return entry


def folder_entry(path: str, oid: str) -> dict[str, Any]:
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def refs(repository: Repository, *, pull_requests: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "branches": _named("refs/heads/", repository.branches),
        "converts": [],
        "tags": _named("refs/tags/", repository.tags),
    }
    return found | ({"pullRequests": _named("refs/pr/", repository.pull_requests)} if pull_requests else {})


def _named(start: str, commits: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "ref": f"{start}{name}", "targetCommit": commit} for name, commit in sorted(commits.items())]


def commits(history: Iterable[Commit], *, formatted: bool) -> list[dict[str, Any]]:
    return [_commit(commit, formatted=formatted) for commit in history]


def _commit(commit: Commit, *, formatted: bool) -> dict[str, Any]:
    said: dict[str, Any] = {
        "id": commit.id,
        "title": commit.title,
        "message": "",
        "authors": [{"user": "developer"}],
        "date": commit.at_text,
    }
    return said | ({"formatted": {"title": html.escape(commit.title), "message": ""}} if formatted else {})


def model_info(commit: Commit, *, blobs: bool) -> dict[str, Any]:
    model = commit.model
    return {
        "_id": model.commit[:24],
        "id": model.repository,
        "modelId": model.repository,
        "author": model.repository.partition("/")[0],
        "sha": model.commit,
        "lastModified": commit.at_text,
        "private": model.access is Access.PRIVATE,
        "gated": "manual" if model.access is Access.GATED else False,
        "disabled": False,
        "tags": [],
        "siblings": [_sibling(path, file, blobs=blobs) for path, file in model.files.items()],
    }


def _sibling(path: str, file: ServedFile, *, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": path}
    lfs = None
    if file.sha256 is not None:
        pointer_bytes = len(lfs_pointer(file.sha256, file.size_bytes))
        lfs = {"sha256": file.sha256, "size": file.size_bytes, "pointerSize": pointer_bytes}
    return {"rfilename": path, "size": file.size_bytes, "blobId": file.git_oid} | ({"lfs": lfs} if lfs else {})
