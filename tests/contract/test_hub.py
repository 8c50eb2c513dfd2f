"""What a hub does, asked the way the fetcher and the library ask. The local hub must do as the public one does.

The public hub is asked only where ``WARMSLICE_PUBLIC_HUB=https://huggingface.co`` allows it.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import HfApi, close_session, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile, RepoFolder
from huggingface_hub.utils._http import parse_ratelimit_headers

from agent.adapters.hub import HubClient
from agent.model.cache import FetchError
from agent.model.catalog import Listing
from hack.hub.server import Hub
from tests.fakes.hub import published_files, served_files, tiny_model
from tests.fakes.hub_client import ask, ask_along

PUBLIC_HUB = os.environ.get("WARMSLICE_PUBLIC_HUB")
COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, slots=True)
class Subject:
    """A hub with a public model that has safetensors in LFS and a configuration that is not."""

    url: str
    repository: str

    @property
    def api(self) -> HfApi:
        return HfApi(endpoint=self.url, token=False)

    def client(self, repository: str | None = None) -> HubClient:
        return HubClient(repository or self.repository, self.url, None, 10.0)


class HubContract:
    async def listing(self, subject: Subject) -> Listing:
        client = subject.client()
        return await asyncio.to_thread(lambda: client.listing(client.resolve("main")))

    async def test_a_branch_is_at_a_commit_and_a_commit_at_itself(self, subject: Subject) -> None:
        commit = await asyncio.to_thread(subject.client().resolve, "main")
        assert COMMIT.fullmatch(commit)
        assert await asyncio.to_thread(subject.client().resolve, commit) == commit

    async def test_large_files_are_listed_by_sha256_and_small_ones_by_git_sha1(self, subject: Subject) -> None:
        blobs = {f.path: f.blob for f in (await self.listing(subject)).files}
        assert (len(blobs["model.safetensors"]), len(blobs["config.json"])) == (64, 40)

    async def test_a_large_file_is_redirected_with_its_hash_size_and_commit(self, subject: Subject) -> None:
        listing = await self.listing(subject)
        file = next(f for f in listing.files if f.path == "model.safetensors")
        answer = await ask("HEAD", subject.client().file_url(listing.commit, file.path))
        assert answer.status in {302, 307}
        assert answer.headers["x-linked-etag"] == f'"{file.blob}"'
        assert answer.headers["x-linked-size"] == str(file.size_bytes)
        assert answer.headers["x-repo-commit"] == listing.commit

    async def test_a_small_file_has_its_git_sha1_as_etag(self, subject: Subject) -> None:
        listing = await self.listing(subject)
        file = next(f for f in listing.files if f.path == "config.json")
        answer = await ask_along("HEAD", subject.client().file_url(listing.commit, file.path))
        assert (answer.status, answer.headers["etag"].removeprefix("W/")) == (200, f'"{file.blob}"')
        assert answer.headers["x-repo-commit"] == listing.commit

    async def test_a_range_of_a_large_file_is_served_with_an_etag_to_hold_on_to(self, subject: Subject) -> None:
        listing = await self.listing(subject)
        file = next(f for f in listing.files if f.path == "model.safetensors")
        answer = await ask_along("GET", subject.client().file_url(listing.commit, file.path), Range="bytes=5-104")
        assert (answer.status, len(answer.body)) == (206, 100)
        assert answer.headers["content-range"] == f"bytes 5-104/{file.size_bytes}"
        assert answer.headers["etag"].startswith('"')

    @pytest.mark.parametrize(
        ("repository", "revision", "reason"),
        [("warmslice/no-such-model", "main", "not-found"), (None, "no-such-branch", "no-revision")],
    )
    async def test_what_is_not_there_is_refused_by_name(
        self, repository: str | None, revision: str, reason: str, subject: Subject
    ) -> None:
        with pytest.raises(FetchError) as caught:
            await asyncio.to_thread(subject.client(repository).resolve, revision)
        assert caught.value.reason == reason

    async def test_a_file_that_is_not_there_is_refused_by_name(self, subject: Subject) -> None:
        answer = await ask("HEAD", subject.client().file_url("main", "no-such-file.json"))
        assert (answer.status, answer.headers["x-error-code"]) == (404, "EntryNotFound")

    async def test_paths_can_be_asked_for_one_by_one(self, subject: Subject) -> None:
        (info,) = await asyncio.to_thread(subject.api.get_paths_info, subject.repository, ["config.json", "absent"])
        listed = {f.path: f for f in (await self.listing(subject)).files}["config.json"]
        assert (info.path, getattr(info, "blob_id", None)) == (listed.path, listed.blob)

    async def test_a_folder_is_listed_with_what_is_in_it_only_when_asked(self, subject: Subject) -> None:
        shallow = await asyncio.to_thread(lambda: list(subject.api.list_repo_tree(subject.repository)))
        deep = await asyncio.to_thread(lambda: list(subject.api.list_repo_tree(subject.repository, recursive=True)))
        inside = await asyncio.to_thread(lambda: list(subject.api.list_repo_tree(subject.repository, "1_Pooling")))
        (folder,) = (entry for entry in shallow if entry.path == "1_Pooling")
        assert isinstance(folder, RepoFolder)
        assert COMMIT.fullmatch(folder.tree_id)
        assert [entry.path for entry in inside] == ["1_Pooling/config.json"]
        assert {e.path for e in deep} - {e.path for e in shallow} >= {"1_Pooling/config.json"}

    async def test_an_expanded_listing_names_the_commit_that_last_changed_a_file(self, subject: Subject) -> None:
        entries = await asyncio.to_thread(lambda: list(subject.api.list_repo_tree(subject.repository, expand=True)))
        commits = await asyncio.to_thread(subject.api.list_repo_commits, subject.repository)
        (config,) = (e for e in entries if isinstance(e, RepoFile) and e.path == "config.json")
        assert config.last_commit is not None
        assert config.last_commit.oid in {commit.commit_id for commit in commits}
        assert config.security is not None

    async def test_a_branch_is_among_the_refs_with_its_commit(self, subject: Subject) -> None:
        refs = await asyncio.to_thread(subject.api.list_repo_refs, subject.repository)
        (main,) = (branch for branch in refs.branches if branch.name == "main")
        assert (main.ref, main.target_commit) == ("refs/heads/main", (await self.listing(subject)).commit)

    async def test_the_history_of_a_branch_begins_with_its_commit(self, subject: Subject) -> None:
        commits = await asyncio.to_thread(subject.api.list_repo_commits, subject.repository)
        assert commits[0].commit_id == (await self.listing(subject)).commit

    async def test_the_raw_form_of_a_large_file_is_its_pointer(self, subject: Subject) -> None:
        blobs = {f.path: f for f in (await self.listing(subject)).files}
        answer = await ask_along("GET", f"{subject.url}/{subject.repository}/raw/main/model.safetensors")
        assert answer.status == 200
        assert f"oid sha256:{blobs['model.safetensors'].blob}\n" in answer.body.decode()

    async def test_every_answer_says_what_is_left_of_the_quota(self, subject: Subject) -> None:
        answer = await ask("GET", f"{subject.url}/api/models/{subject.repository}")
        info = parse_ratelimit_headers(answer.headers)
        assert info is not None
        assert (info.resource_type, info.remaining > 0, info.window_seconds) == ("api", True, 300)

    async def test_a_token_that_is_none_is_refused(self, subject: Subject) -> None:
        api = HfApi(endpoint=subject.url, token="hf_forged")
        with pytest.raises(HfHubHTTPError) as caught:
            await asyncio.to_thread(api.model_info, subject.repository)
        assert caught.value.response.status_code == 401

    async def test_a_range_beyond_the_end_is_not_satisfiable(self, subject: Subject) -> None:
        url = subject.client().file_url("main", "model.safetensors")
        answer = await ask_along("GET", url, Range=f"bytes={10**15}-")
        assert answer.status == 416


class TestLocalHub(HubContract):
    @pytest.fixture
    async def hub(self, tmp_path: Path) -> AsyncIterator[Hub]:
        model = tiny_model(tmp_path / "tiny", weights_bytes=10_000)
        async with Hub({model.repository: model}, tokens={"known": frozenset()}) as hub:
            yield hub
            close_session()

    @pytest.fixture
    def subject(self, hub: Hub) -> Subject:
        return Subject(hub.url, next(iter(hub.models)))

    async def test_the_library_itself_downloads_the_model(self, hub: Hub, subject: Subject, tmp_path: Path) -> None:
        model = hub.models[subject.repository]
        folder = await asyncio.to_thread(
            snapshot_download, subject.repository, endpoint=subject.url, token=False, cache_dir=tmp_path / "cache"
        )
        assert folder.endswith(model.commit)
        assert published_files(tmp_path / "cache") == served_files(model, model.files)

    async def test_a_long_listing_comes_in_pages(self, hub: Hub, subject: Subject) -> None:
        hub.page_entries = 2
        assert len((await self.listing(subject)).files) == len(hub.models[subject.repository].files)
        assert sum("/tree/" in line for line in hub.counters.request_lines) == 3  # five files and a folder

    async def test_a_token_says_who_one_is(self, subject: Subject) -> None:
        who = await asyncio.to_thread(HfApi(endpoint=subject.url, token="known").whoami)
        assert who["name"] == "developer"


@pytest.mark.hub
@pytest.mark.skipif(PUBLIC_HUB is None, reason="WARMSLICE_PUBLIC_HUB is not set")
class TestPublicHub(HubContract):
    @pytest.fixture
    def subject(self) -> Subject:
        assert PUBLIC_HUB is not None
        return Subject(PUBLIC_HUB, "sentence-transformers/all-MiniLM-L6-v2")
