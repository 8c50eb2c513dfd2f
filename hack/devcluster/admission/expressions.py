"""CEL by cel-python, with the two things of Kubernetes' dialect that it lacks: optional fields and lazy variables.

cel-python has no optional syntax, so ``a[?k].b.orValue(d)`` is rewritten to ``(k in a ? a[k].b : d)`` first, and
``a.?b.hasValue()`` to ``("b" in a)``. A key is optional only where it is written as a string: ``list[?0]`` and ``map[?key]``
are refused, as is everything that ``dialect`` does not know.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import celpy
from celpy import celtypes
from celpy.evaluation import CELEvalError

from hack.devcluster.admission.dialect import unserved

_ENVIRONMENT = celpy.Environment()
_NO_FUNCTIONS: Mapping[str, Callable[..., Any]] = {}
_CHAIN = re.compile(r"""[A-Za-z_]\w*(?:\s*\.\??\s*[A-Za-z_]\w*(?!\s*\()|\[[^\[\]]*\])*\s*\.(orValue|hasValue)\(""")
_LINK = re.compile(r"\.\??\s*[A-Za-z_]\w*|\[[^\[\]]*\]")


class ExpressionError(Exception):
    """It cannot be read, or its evaluation failed."""


class Expression:
    """One expression, read once; ``functions`` are known besides CEL's own. Raises ExpressionError."""

    def __init__(self, text: str, functions: Mapping[str, Callable[..., Any]] = _NO_FUNCTIONS) -> None:
        self.text = text
        try:
            self._tree = _ENVIRONMENT.compile(without_optionals(text))
            self._program = _ENVIRONMENT.program(self._tree, functions=dict(functions))
        except celpy.CELParseError as error:
            raise ExpressionError(f"compilation failed: {error}") from error

    def check(self, known: frozenset[str]) -> None:
        """Raises ExpressionError for what cannot be evaluated with these variables."""
        if troubles := list(dict.fromkeys(unserved(self._tree, known))):
            raise ExpressionError(f"compilation failed: {'; '.join(troubles)}")

    def value(self, variables: Mapping[str, Any]) -> Any:
        """With what ``as_value`` made of each variable. Raises ExpressionError."""
        try:
            result = self._program.evaluate(dict(variables))
        except CELEvalError as error:
            raise ExpressionError(str(error.args[0] if error.args else error)) from error
        if isinstance(result, CELEvalError):
            raise ExpressionError(str(result.args[0] if result.args else result))
        return result

    def holds(self, variables: Mapping[str, Any]) -> bool:
        """Raises ExpressionError for a value that is no bool, too."""
        result = self.value(variables)
        if not isinstance(result, celtypes.BoolType | bool):
            raise ExpressionError("must evaluate to bool")
        return bool(result)


@lru_cache(maxsize=512)
def expression(text: str) -> Expression:
    return Expression(text)


def as_value(value: Any) -> Any:
    """JSON as CEL sees it."""
    return celpy.json_to_cel(value)


def without_optionals(text: str) -> str:
    """Innermost chains first, until none is left. Raises ExpressionError where a parenthesis is not closed."""
    position = 0
    while found := _CHAIN.search(text, position):
        end = _closing(text, found.end())
        chain = text[found.start() : found.start(1)].rstrip().removesuffix(".").rstrip()
        default = text[found.end() : end] if found[1] == "orValue" else None
        text = f"{text[: found.start()]}{_plain(chain, default)}{text[end + 1 :]}"
        position = found.start()
    return text


def _plain(chain: str, default: str | None) -> str:
    root = re.match(r"[A-Za-z_]\w*", chain)
    built = root[0] if root else ""
    conditions: list[str] = []
    for link in _LINK.findall(chain[len(built) :]):
        if link.startswith("[?"):
            key = link[2:-1].strip()
            if key[:1] not in ("'", '"'):
                raise ExpressionError(f"compilation failed: the optional index [?{key}] is not served here")
        elif link.startswith(".?") or (link.startswith(".") and conditions):  # what follows an option is optional, too
            key = f'"{link.lstrip(".?").strip()}"'
        else:
            built += link
            continue
        conditions.append(f"{key} in {built}")
        built += f"[{key}]"
    present = " && ".join(conditions) or "true"
    return f"({present})" if default is None else f"({present} ? {built} : {default})"


def _closing(text: str, start: int) -> int:
    depth = 1
    for position in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[position], 0)
        if depth == 0:
            return position
    raise ExpressionError("compilation failed: a parenthesis is not closed")
