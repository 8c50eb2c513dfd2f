"""Kubernetes quantities (``500m``, ``16Gi``, ``4``) as exact numbers."""

from __future__ import annotations

from decimal import Decimal

_SUFFIXES = {
    "m": Decimal("0.001"), "k": Decimal(10) ** 3, "M": Decimal(10) ** 6, "G": Decimal(10) ** 9, "T": Decimal(10) ** 12,
    "Ki": Decimal(2) ** 10, "Mi": Decimal(2) ** 20, "Gi": Decimal(2) ** 30, "Ti": Decimal(2) ** 40,
}  # fmt: skip


def parse_quantity(text: str | int | float) -> Decimal:
    """Raises decimal.InvalidOperation for what is no quantity."""
    word = str(text).strip()
    for suffix in sorted(_SUFFIXES, key=len, reverse=True):
        if word.endswith(suffix):
            return Decimal(word.removesuffix(suffix)) * _SUFFIXES[suffix]
    return Decimal(word)
