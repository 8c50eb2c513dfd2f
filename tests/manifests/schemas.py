"""The API's own schemas, of several Kubernetes versions, without a server."""

from __future__ import annotations

from typing import Any

import kubernetes_validate

OLDEST = "1.34"
NEWEST = "1.37"
VERSIONS = (OLDEST, NEWEST)

Object = dict[str, Any]


def mistakes(one: Object, version: str) -> list[str]:
    """What that version's API server would not take, or would leave out without a word: a field that it does not know. Of one
    object; empty where there is nothing. ValueError for a kind that Kubernetes does not have itself."""
    try:
        kubernetes_validate.validate(one, version, strict=True)
    except kubernetes_validate.SchemaNotFoundError as error:
        raise ValueError(f"Kubernetes {version} has no {one['apiVersion']} {one['kind']}") from error
    except kubernetes_validate.ValidationError as error:
        return [f"{'.'.join(map(str, error.path))}: {error.message}"]
    return []
