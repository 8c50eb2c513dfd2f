"""Branches that move, tags, pull requests and histories of the local hub, as huggingface_hub asks for them."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import HfApi, close_session, hf_hub_download
from huggingface_hub.errors import RevisionNotFoundError

from hack.hub.content import Access, ServedModel, model_of, read_model
from hack.hub.server import Hub
from tests.fakes.hub import REPOSITORY, tiny_model
from tests.fakes.hub_client import ask, ask_along, tell


@pytest.fixture
def first(tmp_path: Path) -> ServedModel:
    return tiny_model(tmp_path / "first", weights_bytes=1000)


@pytest.fixture
def second(first: ServedModel, tmp_path: Path) -> ServedModel:
    """The weights changed, all else stayed."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.safetensors").write_bytes(b"better")
    changed = read_model(REPOSITORY, tmp_path / "weights").files
    return model_of({**first.files, **changed}, REPOSITORY, Access.PUBLIC)


@pytest.fixture
async def hub(first: ServedModel, second: ServedModel) -> AsyncIterator[Hub]:
    """``main`` went from the first to the second; the first has a tag and a pull request."""
    async with Hub({REPOSITORY: first}) as running:
        running.tag(REPOSITORY, "v1", "main")
        running.open_pull_request(REPOSITORY, 1, "v1")
        running.add(second, title="Better <weights>")
        yield running
        close_session()


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


@pytest.mark.parametrize("revision", ["v1", "refs/tags/v1", "refs/pr/1", "commit"])
async def test_a_name_for_an_old_commit_stays_when_the_branch_moves(
    revision: str, api: HfApi, first: ServedModel, second: ServedModel
) -> None:
    asked = first.commit if revision == "commit" else revision
    assert (await asyncio.to_thread(api.model_info, REPOSITORY, revision=asked)).sha == first.commit
    assert (await asyncio.to_thread(api.model_info, REPOSITORY)).sha == second.commit


async def test_an_old_commit_has_its_old_content(hub: Hub, first: ServedModel, tmp_path: Path) -> None:
    path = await asyncio.to_thread(
        hf_hub_download,
        REPOSITORY,
        "model.safetensors",
        revision="v1",
        endpoint=hub.url,
        token=False,
        cache_dir=tmp_path / "cache",
    )
    assert await asyncio.to_thread(Path(path).read_bytes) == first.files["model.safetensors"].source.read_bytes()


async def test_a_branch_beside_main_leaves_main_alone(hub: Hub, api: HfApi, second: ServedModel) -> None:
    trial = model_of({"config.json": second.files["config.json"]}, REPOSITORY, Access.PUBLIC)
    hub.add(trial, branch="trial")
    refs = await asyncio.to_thread(api.list_repo_refs, REPOSITORY, include_pull_requests=True)
    assert {b.name: b.target_commit for b in refs.branches} == {"main": second.commit, "trial": trial.commit}
    assert [t.name for t in refs.tags] == ["v1"]
    assert [p.ref for p in refs.pull_requests or []] == ["refs/pr/1"]


async def test_the_history_is_newest_first_and_its_titles_can_be_had_as_html(
    api: HfApi, first: ServedModel, second: ServedModel
) -> None:
    commits = await asyncio.to_thread(lambda: api.list_repo_commits(REPOSITORY, formatted=True))
    assert [c.commit_id for c in commits] == [second.commit, first.commit]
    assert (commits[0].title, commits[0].formatted_title) == ("Better <weights>", "Better &lt;weights&gt;")
    assert commits[0].created_at > commits[1].created_at


async def test_a_long_history_comes_in_pages(hub: Hub, api: HfApi) -> None:
    hub.page_entries = 1
    assert len(await asyncio.to_thread(api.list_repo_commits, REPOSITORY)) == 2
    assert sum("/commits/" in line for line in hub.counters.request_lines) == 2


async def test_each_file_knows_the_commit_that_changed_it(api: HfApi, first: ServedModel, second: ServedModel) -> None:
    entries = await asyncio.to_thread(
        lambda: api.get_paths_info(REPOSITORY, ["model.safetensors", "1_Pooling", "config.json"], expand=True)
    )
    changed = {entry.path: entry.last_commit.oid for entry in entries if entry.last_commit is not None}
    assert changed == {"model.safetensors": second.commit, "1_Pooling": first.commit, "config.json": first.commit}


async def test_expanded_pages_are_a_twentieth_as_long(hub: Hub, api: HfApi) -> None:
    hub.page_entries = 40
    await asyncio.to_thread(lambda: list(api.list_repo_tree(REPOSITORY, expand=True, recursive=True)))
    assert sum("/tree/" in line for line in hub.counters.request_lines) == 3  # five files and a folder, two a page


async def test_a_revision_that_is_none_is_refused_by_every_question(hub: Hub, api: HfApi) -> None:
    for question in (
        lambda: api.model_info(REPOSITORY, revision="v2"),
        lambda: list(api.list_repo_tree(REPOSITORY, revision="v2")),
        lambda: api.list_repo_commits(REPOSITORY, revision="v2"),
        lambda: api.get_paths_info(REPOSITORY, ["config.json"], revision="v2"),
    ):
        with pytest.raises(RevisionNotFoundError):
            await asyncio.to_thread(question)
    answer = await ask("HEAD", f"{hub.url}/{REPOSITORY}/resolve/v2/config.json")
    assert (answer.status, answer.headers["x-error-code"]) == (404, "RevisionNotFound")


async def test_the_head_of_an_old_commit_is_not_what_the_branch_says(hub: Hub, first: ServedModel) -> None:
    answer = await ask_along("HEAD", f"{hub.url}/{REPOSITORY}/resolve/{first.commit}/config.json")
    assert answer.headers["x-repo-commit"] == first.commit


async def test_a_branch_is_moved_by_request(hub: Hub, api: HfApi, tmp_path: Path) -> None:
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "config.json").write_text("{}")
    moved = await tell(f"{hub.url}/_dev/commits", {"repository": REPOSITORY, "folder": str(tmp_path / "third")})
    assert (await asyncio.to_thread(api.model_info, REPOSITORY)).sha == moved.document()["commit"]
    tagged = await tell(f"{hub.url}/_dev/tags", {"repository": REPOSITORY, "tag": "v3", "revision": "nowhere"})
    assert tagged.status == 400


async def test_ids_of_files_and_folders_are_those_of_git(first: ServedModel, tmp_path: Path) -> None:
    """Asked of git itself, where it is installed; the folder has a folder whose name sorts differently as one."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    config = first.files["config.json"]
    names = ("top/a/config.json", "top/a.json", "top/ab/config.json")
    model = model_of({name: replace(config, path=name) for name in names}, REPOSITORY, Access.PUBLIC)
    for name in names:
        (tmp_path / "git" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(config.source, tmp_path / "git" / name)
    run = [git, "-C", str(tmp_path / "git"), "-c", "core.autocrlf=false"]
    for command in (["init", "-q"], ["add", "."]):
        await asyncio.to_thread(subprocess.run, [*run, *command], check=True)
    tree = await asyncio.to_thread(subprocess.check_output, [*run, "write-tree", "--prefix=top/"], text=True)
    blob = await asyncio.to_thread(subprocess.check_output, [*run, "hash-object", "top/a.json"], text=True)
    assert (model.folders()["top"], config.git_oid) == (tree.strip(), blob.strip())
