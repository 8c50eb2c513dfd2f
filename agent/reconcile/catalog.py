"""Reads the catalog anew at each look, and what it says for one node."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from agent.desired.catalog import read_catalog, wanted_models
from agent.model.catalog import Catalog, CatalogModel, CatalogRefusal


class CatalogSource(Protocol):
    """Where the catalog's text is; read at each pass. Raises OSError or ValueError where it cannot be."""

    def read(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What the catalog says for one node: the models ``wanted`` there, in order."""

    wanted: tuple[CatalogModel, ...]
    catalog: Catalog

    @property
    def pinned(self) -> tuple[CatalogModel, ...]:
        """All that stay wherever they are, wanted there or not."""
        return tuple(model for model in self.catalog.models.values() if model.pin)


def read_wish(source: CatalogSource, labels: Mapping[str, str]) -> Wish | CatalogRefusal:
    """For a node with these labels; or one sentence why that cannot be said."""
    try:
        text = source.read()
    except (OSError, ValueError) as error:
        return CatalogRefusal(f"model catalog: cannot be read: {error}")
    known = read_catalog(text)
    if isinstance(known, CatalogRefusal):
        return known
    wanted = wanted_models(known, labels)
    return wanted if isinstance(wanted, CatalogRefusal) else Wish(wanted, known)
