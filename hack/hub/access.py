"""Who may read what: tokens, private, gated and disabled repositories, in the words and codes of the public hub."""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web

from hack.hub.content import Access
from hack.hub.repository import Commit, Repository

Tokens = Mapping[str, frozenset[str]]


def refusal(status: int, code: str | None, message: str) -> web.Response:
    """An error as the hub words it: code and sentence in headers, the sentence again in the body."""
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return web.json_response({"error": message}, status=status, headers=headers)


def token_of(request: web.Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme == "Bearer" and token else None


def find_commit(
    request: web.Request, repositories: Mapping[str, Repository], tokens: Tokens, *, content: bool
) -> Commit | web.Response:
    """The commit that the request's address names, or the hub's refusal; ``content`` asks for the files themselves."""
    name = repository_of(request)
    token = token_of(request)
    if token is not None and token not in tokens:
        return refusal(401, None, "Invalid credentials in Authorization header")
    repository = repositories.get(name)
    granted = token is not None and name in tokens[token]
    access = _access(repository)
    if repository is None or (access is Access.PRIVATE and not granted):
        # Without a token a missing and a private model look the same: 401.
        status, message = (401, "Invalid username or password.") if token is None else (404, "Repository not found")
        return refusal(status, "RepoNotFound", message)
    if access is Access.DISABLED:
        return refusal(403, None, "Access to this resource is disabled.")
    if content and access is Access.GATED and not granted:
        how = "Please log in." if token is None else "Visit its page to ask for access."
        message = f"Access to model {name} is restricted. {how}"
        return refusal(401 if token is None else 403, "GatedRepo", message)
    revision = request.match_info.get("revision", "main")
    return repository.resolve(revision) or refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")


def repository_of(request: web.Request) -> str:
    return f"{request.match_info['org']}/{request.match_info['name']}"


def _access(repository: Repository | None) -> Access:
    """Access is the repository's, not a commit's: the one that was given last holds."""
    if repository is None:
        return Access.PUBLIC
    return next(reversed(repository.commits.values())).model.access
