"""All settings, from ``agent/settings.py``: names and defaults from the class, words from the strings below its fields."""

from __future__ import annotations

import ast
import inspect
import json
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from agent.settings import DEFAULT_FILE, ENVIRONMENT_PREFIX, Settings
from hack.reference.words import code, made_by, table

ABOUT = (
    f"Each may stand in the settings file (`{DEFAULT_FILE}`, ConfigMap `warmslice-settings`), as `{ENVIRONMENT_PREFIX}<NAME>` in "
    "the environment (`WARMSLICE_CACHE_BUDGET_BYTES`), or as a flag (`--cache-budget-bytes`); later ones win. Lists and mappings "
    "are given as YAML. They are read at start. A mistake is one sentence and exit code 2."
)
_WORDS = {bool: "true, false", int: "whole number", float: "number", str: "text", list: "list", dict: "mapping"}


@dataclass(frozen=True, slots=True)
class Documented:
    """A setting as its readers see it."""

    name: str
    kind: str
    default: str
    text: str

    @property
    def flag(self) -> str:
        """The option of the command line."""
        return "--" + self.name.replace("_", "-")


@cache
def documented() -> tuple[Documented, ...]:
    """Every setting, in the order of the class. KeyError for one without a word."""
    texts, hints, defaults = _texts(), get_type_hints(Settings), Settings()
    return tuple(
        Documented(name, _kind(hints[name]), _default(getattr(defaults, name)), texts[name])
        for name in Settings.__struct_fields__
    )


def _texts() -> dict[str, str]:
    """What stands below each field: Python keeps it in the source only."""
    (body,) = (node.body for node in ast.parse(inspect.getsource(Settings)).body if isinstance(node, ast.ClassDef))
    return {
        field.target.id: " ".join(words.value.value.split())
        for field, words in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(words, ast.Expr) and isinstance(words.value, ast.Constant) and isinstance(words.value.value, str)
    }


def _kind(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(map(code, get_args(hint)))
    if get_origin(hint) is UnionType:
        return " or ".join(_kind(one) for one in get_args(hint) if one is not NoneType)
    return _WORDS[get_origin(hint) or hint]


def _default(value: Any) -> str:
    if value is None or value == "":
        return ""
    return value if isinstance(value, str) else json.dumps(value)


def page() -> str:
    """One row each."""
    rows = (
        (
            f'<a id="{one.name}"></a>{code(one.name)}',
            one.kind,
            code(one.default) if one.default else "none",
            _escaped(one.text),
        )
        for one in documented()
    )
    return "\n".join([*made_by("Settings", ABOUT), *table(("setting", "value", "default", "meaning"), rows)]) + "\n"


def _escaped(text: str) -> str:
    """A star outside of code would begin emphasis."""
    parts = enumerate(text.split("`"))
    return "`".join(part if number % 2 else part.replace("*", "\\*") for number, part in parts)
