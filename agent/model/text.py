"""Text that a person wrote, read as YAML. Pure."""

from __future__ import annotations

from typing import Any

import yaml

from agent.model.errors import BadInputError


def read_yaml(text: str) -> Any:
    """What the text says; None for an empty one. BadInputError for all that is no YAML, with the place where known.

    The parser has errors of other kinds too: ValueError for a date that no calendar has, RecursionError for brackets in
    brackets without end.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        raise BadInputError(f"not YAML{where}: {getattr(error, 'problem', None) or _one_line(error)}") from error
    except ValueError as error:
        raise BadInputError(f"not YAML: a value cannot be read: {_one_line(error)}; put it in quotes") from error
    except RecursionError as error:
        raise BadInputError("not YAML: brackets are nested too deep") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
