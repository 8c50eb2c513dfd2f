"""Reads of an API server that a look at a whole cluster makes: what is refused, or is not there, is noted and never an error."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from agent.adapters.kube import Kube
from agent.model.doctor import Gap
from agent.model.errors import AgentError, GoneError, RefusedError, RetryError
from agent.model.rights import Right

Object = dict[str, Any]

_AT_ONCE = 4
_REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"


class _UnknownError(AgentError):
    """It was noted already."""


class Inspection:
    """``gaps`` grows with what could not be read. ``requests`` that change something are none of its."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self.gaps: list[Gap] = []

    async def stream(self, what: str, path: str, **query: str) -> AsyncIterator[Object]:
        """The items of a list, page by page; it ends early, with a gap, where they cannot be read (to the end)."""
        with suppress(_UnknownError), self._noted(what):
            async for item in self._kube.pages(path, **query):
                yield item

    async def needed(self, what: str, path: str, **query: str) -> AsyncIterator[Object]:
        """As ``stream``; but RetryError where the API server does not answer: then nothing else will be seen either."""
        try:
            async for item in self._kube.pages(path, **query):
                yield item
        except (RefusedError, GoneError) as error:
            self.gaps.append(Gap(what, str(error)))

    async def listed(self, what: str, path: str, **query: str) -> list[Object] | None:
        """All items; None where they cannot be read."""
        with suppress(_UnknownError), self._noted(what):
            return [item async for item in self._kube.pages(path, **query)]
        return None

    async def found(self, what: str, path: str) -> tuple[bool, Object | None]:
        """(whether that could be looked at, the object where there is one)."""
        with suppress(_UnknownError), self._noted(what):
            try:
                return True, await self._kube.get(path)
            except GoneError:
                return True, None
        return False, None

    async def exists(self, what: str, path: str) -> bool | None:
        """Whether there is such an object; its content is not read. None where that could not be looked at."""
        with suppress(_UnknownError), self._noted(what):
            try:
                await self._kube.metadata(path)
            except GoneError:
                return False
            return True
        return None

    async def lacking(self, account: tuple[str, str], rights: Iterable[Right]) -> tuple[Right, ...]:
        """Those that a service account (its namespace and name) does not have. None is made or written by asking."""
        asked = tuple(rights)
        with suppress(_UnknownError), self._noted("rights of the agent's service account"):
            # Who may not ask is told so once.
            answers = [await self._has(account, right) for right in asked[:1]]
            turns = asyncio.Semaphore(_AT_ONCE)
            answers += await asyncio.gather(*(self._in_turn(turns, account, right) for right in asked[1:]))
            return tuple(right for right, allowed in zip(asked, answers, strict=True) if not allowed)
        return ()

    async def _in_turn(self, turns: asyncio.Semaphore, account: tuple[str, str], right: Right) -> bool:
        async with turns:
            return await self._has(account, right)

    async def _has(self, account: tuple[str, str], right: Right) -> bool:
        namespace, name = account
        resource, _, subresource = right.resource.partition("/")
        asked = {
            "group": right.group,
            "resource": resource,
            "subresource": subresource,
            "verb": right.verb,
            "namespace": right.namespace,
            "name": right.name,
        }
        spec = {
            "user": f"system:serviceaccount:{namespace}:{name}",
            "groups": [
                "system:serviceaccounts",
                f"system:serviceaccounts:{namespace}",
                "system:authenticated",
            ],
            "resourceAttributes": {key: value for key, value in asked.items() if value},
        }
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = await self._kube.create(_REVIEWS, body)
        return bool((answer.get("status") or {}).get("allowed"))

    @contextmanager
    def _noted(self, what: str) -> Iterator[None]:
        try:
            yield
        except GoneError as error:
            self.gaps.append(Gap(what, "this API server has no such kind", refused=False))
            raise _UnknownError(what) from error
        except (RefusedError, RetryError) as error:
            self.gaps.append(Gap(what, str(error)))
            raise _UnknownError(what) from error
