"""The one door to huggingface_hub. Only the fetching process imports it: it blocks, and it is large.

The library reads its environment at import; ``agent.execute.fetcher`` sets that up before it imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, hf_hub_url, set_client_factory, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import default_client_factory

from agent.adapters import clock
from agent.model.cache import FailureKind, FetchEndedError, FetchFaultError
from agent.model.catalog import Listing, RepositoryFile, file_and_folder, unusable_path
from agent.model.wait import wait_asked

_COMMIT = re.compile(r"[0-9a-f]{40}")
_TOKEN = re.compile(r"[!-~]+")
_XET = re.compile(r"[0-9a-f]{64}")
_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class HubClient:
    """One repository of one hub, as one token sees it. Every method blocks; errors are FetchFaultError (try again)
    and FetchEndedError (do not)."""

    def __init__(self, repository: str, endpoint: str | None, token: str | None, timeout_seconds: float) -> None:
        if token is not None and not _TOKEN.fullmatch(token):
            # Said here: the error of whoever builds the header would quote it.
            message = "the hub's token has a space, a line break or a letter that no token has: write the token alone"
            raise FetchEndedError("token", message, FailureKind.REFUSED)
        self._repository = repository
        self._token: str | bool = token if token is not None else False
        self._api = HfApi(endpoint=endpoint, token=self._token)
        set_client_factory(lambda: _client(timeout_seconds))

    def resolve(self, revision: str) -> str:
        """The commit (40 hex digits) that a branch or tag is at now; a commit is its own."""
        if _COMMIT.fullmatch(revision):
            return revision
        with self._our_errors(revision):
            commit = self._api.model_info(self._repository, revision=revision).sha
        if commit is None or not _COMMIT.fullmatch(commit):
            raise FetchEndedError("hub-answer", f"the hub gave {commit!r} as the commit of {self._repository}")
        return commit

    def listing(self, commit: str) -> Listing:
        """Every file of the commit. A name or hash that has no place in a cache refuses the whole repository."""
        with self._our_errors(commit):
            entries = self._api.list_repo_tree(self._repository, revision=commit, recursive=True)
            files = tuple(_listed(entry) for entry in entries if isinstance(entry, RepoFile))
        both = file_and_folder(file.path for file in files)
        if both is not None:
            raise _unusable_name(both, "is a folder too")
        return Listing(self._repository, commit, files)

    def file_url(self, commit: str, path: str) -> str:
        return hf_hub_url(self._repository, path, revision=commit, endpoint=self._api.endpoint)

    def xet_token_url(self, commit: str) -> str:
        """Who asks there with our headers is told where the Xet store is, and given a token for it."""
        return f"{self._api.endpoint}/api/models/{self._repository}/xet-read-token/{commit}"

    def headers(self) -> Mapping[str, str]:
        """What a request to the hub itself carries; not for other hosts."""
        return build_hf_headers(token=self._token, library_name="warmslice")

    @contextmanager
    def _our_errors(self, revision: str) -> Iterator[None]:
        try:
            yield
        except HfHubHTTPError as error:
            raise self._refusal_or_fault(error, revision) from error
        except httpx2.TimeoutException as error:
            raise FetchFaultError("stalled", f"the hub did not answer in time ({type(error).__name__})") from error
        except (httpx2.HTTPError, OSError) as error:
            raise FetchFaultError(
                "unreachable", f"the hub at {_shown(self._api.endpoint)} is not reachable: {error}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise FetchFaultError(
                "hub-answer", f"the hub at {_shown(self._api.endpoint)} gave no usable answer"
            ) from error

    def _refusal_or_fault(self, error: HfHubHTTPError, revision: str) -> FetchEndedError | FetchFaultError:
        status = error.response.status_code
        match error:
            case GatedRepoError():  # before its base, RepositoryNotFoundError
                message = f"{self._repository} is gated: ask for access on its page and give a token of that account"
                return FetchEndedError("gated", message, FailureKind.REFUSED)
            case RepositoryNotFoundError():
                return FetchEndedError("not-found", self._not_found(), FailureKind.REFUSED)
            case RevisionNotFoundError():
                message = f"{self._repository} has no revision {revision!r}: name a branch, a tag or a commit it has"
                return FetchEndedError("no-revision", message, FailureKind.REFUSED)
            case DisabledRepoError():
                message = f"{self._repository} was disabled by the hub: choose another model"
                return FetchEndedError("disabled", message, FailureKind.REFUSED)
        if status in {401, 403}:
            message = f"the hub refused the token for {self._repository} ({status}): give a valid one with read access"
            return FetchEndedError("token", message, FailureKind.REFUSED)
        if status == 429:
            wait = wait_asked(error.response.headers, clock.now())
            return FetchFaultError("throttled", "the hub asks to slow down (429)", after_seconds=wait)
        if status == 408 or status >= 500:
            wait = wait_asked(error.response.headers, clock.now())
            return FetchFaultError("unavailable", f"the hub is not available ({status})", after_seconds=wait)
        return FetchEndedError("hub-answer", f"the hub answered {status} for {self._repository}")

    def _not_found(self) -> str:
        if self._token:
            return f"the hub has no {self._repository} that this token may see: check the name or the token's access"
        return f"the hub has no public {self._repository}: check the name, or give a token if it is private"


def confirm(repository: str, cache: Path, commit: str) -> None:
    """Let the library find the finished snapshot as an offline reader would. Raises FetchEndedError if it cannot."""
    try:
        snapshot_download(repository, revision=commit, cache_dir=cache, local_files_only=True)
    except LocalEntryNotFoundError as error:
        raise FetchEndedError("layout", f"huggingface_hub does not find the snapshot: {error}") from error


def _shown(endpoint: str) -> str:
    """For people, who may be others than those who know the password in it."""
    return re.sub(r"//[^/@]*@", "//", endpoint)


def _client(timeout_seconds: float) -> httpx2.Client:
    """The library's own client, which would wait for ever, with a time limit for connecting and for silence."""
    client = default_client_factory()
    client.timeout = httpx2.Timeout(timeout_seconds)
    return client


def _unusable_name(path: str, problem: str) -> FetchEndedError:
    message = f"the hub lists a file name that {problem}: {path[:80]!r}"
    return FetchEndedError("unusable-name", message, FailureKind.REFUSED)


def _listed(entry: RepoFile) -> RepositoryFile:
    problem = unusable_path(entry.path)
    if problem is not None:
        raise _unusable_name(entry.path, problem)
    blob, size = (entry.lfs.sha256, entry.lfs.size) if entry.lfs is not None else (entry.blob_id, entry.size)
    if not _BLOB.fullmatch(blob) or not isinstance(size, int) or size < 0:
        raise FetchEndedError("hub-answer", f"the hub lists no usable hash or size for {entry.path[:80]!r}")
    xet = entry.xet_hash if isinstance(entry.xet_hash, str) and _XET.fullmatch(entry.xet_hash) else None
    return RepositoryFile(entry.path, size, blob, xet)
