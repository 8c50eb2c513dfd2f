"""CEL expressions over a device: ``device.driver``, ``device.attributes[DOMAIN].NAME``, ``device.capacity[DOMAIN].NAME``.

A name without a domain lies in the driver's. A domain that the device has nothing of is an empty map, so that asking
it for a name is an error, as in the real scheduler. Of Kubernetes' libraries there are ``quantity`` and ``semver``
with their comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import InvalidOperation
from functools import lru_cache
from typing import Any

from celpy import celtypes

from hack.devcluster.admission.expressions import Expression, ExpressionError
from hack.devcluster.objects import Object
from hack.devcluster.quantities import parse_quantity

_PARTS_OF_A_QUANTITY = 1000


class _Domains(celtypes.MapType):  # type: ignore[misc]  # celpy carries no types
    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if key in self else celtypes.MapType({})


class _Version(celtypes.StringType):  # type: ignore[misc]
    """``1.2.3``; what follows a ``-`` or ``+`` is not compared."""

    @property
    def order(self) -> tuple[int, ...]:
        return tuple(int(part) for part in self.partition("+")[0].partition("-")[0].split("."))


def _quantity(text: Any) -> Any:
    """In thousandths, which is as fine as Kubernetes' quantities commonly get."""
    try:
        return celtypes.IntType(int(parse_quantity(str(text)) * _PARTS_OF_A_QUANTITY))
    except InvalidOperation as error:
        raise ValueError(f"not a quantity: {text}") from error


def _compared(one: Any, other: Any) -> int:
    left, right = _order(one), _order(other)
    return (left > right) - (left < right)


def _order(value: Any) -> tuple[int, ...]:
    return value.order if isinstance(value, _Version) else (int(value),)


_FUNCTIONS: Mapping[str, Callable[..., Any]] = {
    "quantity": _quantity,
    "semver": _Version,
    "compareTo": lambda one, other: celtypes.IntType(_compared(one, other)),
    "isGreaterThan": lambda one, other: celtypes.BoolType(_compared(one, other) > 0),
    "isLessThan": lambda one, other: celtypes.BoolType(_compared(one, other) < 0),
}


@lru_cache(maxsize=512)
def _selector(text: str) -> Expression:
    return Expression(text, _FUNCTIONS)


def check_selector(text: str) -> str:
    """Why the expression cannot be read; empty for a good one."""
    try:
        _selector(text)
    except ExpressionError as error:
        return str(error)
    return ""


def selects(text: str, device: Any) -> bool:
    """``device`` is what ``cel_device`` made. Raises ExpressionError."""
    return _selector(text).holds({"device": device})


def cel_device(driver: str, device: Object) -> Any:
    attributes = {name: _attribute(value) for name, value in (device.get("attributes") or {}).items()}
    capacity = {name: _quantity(value["value"]) for name, value in (device.get("capacity") or {}).items()}
    return celtypes.MapType(
        {
            celtypes.StringType("driver"): celtypes.StringType(driver),
            celtypes.StringType("attributes"): _by_domain(driver, attributes),
            celtypes.StringType("capacity"): _by_domain(driver, capacity),
        }
    )


def _by_domain(driver: str, values: Mapping[str, Any]) -> Any:
    domains: dict[str, dict[Any, Any]] = {}
    for qualified, value in values.items():
        domain, _, name = qualified.rpartition("/")
        domains.setdefault(domain or driver, {})[celtypes.StringType(name)] = value
    return _Domains({celtypes.StringType(domain): celtypes.MapType(names) for domain, names in domains.items()})


def _attribute(value: Object) -> Any:
    [(kind, plain)] = value.items()
    kinds: dict[str, Callable[[Any], Any]] = {
        "string": celtypes.StringType,
        "int": celtypes.IntType,
        "bool": celtypes.BoolType,
        "version": _Version,
    }
    return kinds[kind](plain)
