"""A repository: its commits, and the branches, tags and pull requests that name some of them.

The revision of a request may be a branch, a tag, a full commit id, or a full ref name (``refs/heads/main``,
``refs/pr/1``). Short commit ids are not accepted: whether the public hub does is not known, so nothing relies on it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from hack.hub.content import ServedModel

# Commits are an hour apart from here on, so that two runs of one story show the same history.
_FIRST_COMMIT_AT = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit with its history: ``parent`` is the id of the one before, None of the first."""

    model: ServedModel
    title: str
    at: datetime
    parent: str | None

    @property
    def id(self) -> str:
        return self.model.commit

    @property
    def at_text(self) -> str:
        return self.at.strftime("%Y-%m-%dT%H:%M:%S.000Z")


@dataclass(slots=True)
class Repository:
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)

    def commit(self, model: ServedModel, branch: str, title: str) -> None:
        """Move ``branch`` to ``model``; a branch that is new starts from where ``main`` is."""
        parent = self.branches.get(branch, self.branches.get("main"))
        if model.commit not in self.commits:
            at = _FIRST_COMMIT_AT + timedelta(hours=len(self.commits))
            self.commits[model.commit] = Commit(model, title, at, parent)
        self.branches[branch] = model.commit

    def name(self, names: dict[str, str], name: str, revision: str) -> str:
        """Point one of this repository's names at a revision; returns the commit. Raises KeyError for no revision."""
        commit = self.resolve(revision)
        if commit is None:
            raise KeyError(revision)
        names[name] = commit.id
        return commit.id

    def resolve(self, revision: str) -> Commit | None:
        for named in (self.refs(), self.branches, self.tags):
            if revision in named:
                return self.commits[named[revision]]
        return self.commits.get(revision)

    def refs(self) -> dict[str, str]:
        """Every full ref name with its commit."""
        return {
            **{f"refs/heads/{name}": commit for name, commit in self.branches.items()},
            **{f"refs/tags/{name}": commit for name, commit in self.tags.items()},
            **{f"refs/pr/{number}": commit for number, commit in self.pull_requests.items()},
        }

    def history(self, commit: Commit) -> list[Commit]:
        """The commit and those before it, newest first."""
        found = [commit]
        while found[-1].parent is not None:
            found.append(self.commits[found[-1].parent])
        return found

    def last_change(self, commit: Commit, path: str) -> Commit:
        """The newest commit up to ``commit`` that gave the file or folder its present content."""
        history = self.history(commit)
        oids = [_oid_at(each.model, path) for each in history]
        unchanged = next((i for i, oid in enumerate(oids) if oid != oids[0]), len(oids))
        return history[unchanged - 1]

    def file_holder(self, etag: str) -> ServedModel | None:
        """Any commit that has content of this ETag: the store keeps what no branch shows any more."""
        models = (commit.model for commit in self.commits.values())
        return next((model for model in models if model.file_with_etag(etag) is not None), None)


def _oid_at(model: ServedModel, path: str) -> str | None:
    file = model.files.get(path)
    return file.git_oid if file is not None else model.folders().get(path)
