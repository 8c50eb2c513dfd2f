"""What of CEL this server can evaluate. The rest is refused when a policy is made: an expression that fails only for some
requests, or is read otherwise than a real server reads it, would let a test pass that proves nothing.

Kubernetes' own libraries (``authorizer``, quantities, URLs, ``sets``...), the extended string functions, ``cel.bind`` and
macros with two variables are not served.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lark import Token, Tree

_FUNCTIONS = frozenset(
    ("bool", "bytes", "double", "duration", "dyn", "int", "matches", "size", "string", "timestamp", "type", "uint")
)
_METHODS = frozenset(("contains", "endsWith", "matches", "size", "startsWith"))
_MACROS = frozenset(("all", "exists", "exists_one", "filter", "map"))


def unserved(tree: Tree[Token], known: frozenset[str]) -> Iterator[str]:
    """Everything in an expression that is not served, in words. ``known`` are the variables in reach; those of the policy
    itself stand in it as ``variables.<name>``."""
    match tree.data, tree.children:
        case "ident", [Token() as name]:
            if str(name) not in known:
                yield f"undeclared reference to '{name}'"
            return
        case "ident_arg", [Token() as name, *arguments]:
            yield from _call(str(name), arguments, known)
            return
        case "member_dot_arg", [Tree() as receiver, Token() as name, *arguments]:
            yield from unserved(receiver, known)
            yield from _method_call(str(name), arguments, known)
            return
        case "member_dot", [Tree() as receiver, Token() as field] if _is(receiver, "variables"):
            if f"variables.{field}" not in known:
                yield f"undefined field '{field}' of variables"
            return
        case (("dot_ident" | "dot_ident_arg" | "member_object"), _):
            yield "qualified names and messages are not served here"
            return
    for child in tree.children:
        if isinstance(child, Tree):
            yield from unserved(child, known)


def _call(name: str, arguments: list[Any], known: frozenset[str]) -> Iterator[str]:
    given = _given(arguments)
    if name == "has":
        if len(given) != 1:
            yield "has() takes one selection"
    elif name not in _FUNCTIONS:
        yield f"function '{name}' is not served here"
    for argument in given:
        yield from unserved(argument, known)


def _method_call(name: str, arguments: list[Any], known: frozenset[str]) -> Iterator[str]:
    given = _given(arguments)
    if name in _MACROS:
        variable = _name(given[0]) if len(given) == 2 else ""
        if not variable:
            yield f"macro '{name}' is served with one variable and one expression"
            return
        yield from unserved(given[1], known | {variable})
        return
    if name not in _METHODS:
        yield f"method '{name}' is not served here"
    for argument in given:
        yield from unserved(argument, known)


def _given(arguments: list[Any]) -> list[Tree[Token]]:
    return [tree for listed in arguments for tree in listed.children]


def _is(tree: Tree[Token], name: str) -> bool:
    return _name(tree) == name


def _name(tree: Tree[Token]) -> str:
    """The identifier that an expression is; '' where it is more than that."""
    while len(tree.children) == 1:
        [child] = tree.children
        if isinstance(child, Token):
            return str(child) if tree.data == "ident" else ""
        tree = child
    return ""
