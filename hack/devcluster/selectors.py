"""Label and field selectors, parsed once and applied to objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hack.devcluster.errors import ApiError, bad_request
from hack.devcluster.kinds import Kind
from hack.devcluster.objects import Object, dig, labels_of

LabelTest = Callable[[Mapping[str, str]], bool]

_SET_TERM = re.compile(r"^(?P<key>\S+)\s+(?P<op>in|notin)\s+\((?P<values>[^)]*)\)$")
_EQUAL_TERM = re.compile(r"^(?P<key>[^\s!=]+)\s*(?P<op>==|!=|=)\s*(?P<value>\S*)$")
_OUTSIDE_PARENTHESES = re.compile(r",(?![^(]*\))")


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects a list or watch is about."""

    labels: tuple[LabelTest, ...] = ()
    fields: tuple[tuple[str, bool, str], ...] = ()  # (path, wanted equal, value)

    @property
    def only_name(self) -> str:
        """The one name that can be selected; '' where there are more."""
        return next((value for path, equal, value in self.fields if path == "metadata.name" and equal), "")

    def matches(self, obj: Object) -> bool:
        if not all((_field_text(obj, path) == value) == equal for path, equal, value in self.fields):
            return False
        labels = labels_of(obj) if self.labels else {}
        return all(test(labels) for test in self.labels)


def parse_selection(kind: Kind, label_selector: str, field_selector: str) -> Selection:
    """Raises ApiError 400 for a selector that cannot be read or a field that this kind cannot be selected by."""
    labels = tuple(_label_term(term.strip()) for term in _terms(label_selector))
    fields = tuple(_field_term(kind, term.strip()) for term in _terms(field_selector))
    return Selection(labels, fields)


def matches_label_selector(selector: Object | None, labels: Mapping[str, str]) -> bool:
    """A ``metav1.LabelSelector``. None matches nothing, an empty one everything (policy/v1 and apps/v1 semantics)."""
    if selector is None:
        return False
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(matches_expression(e, labels) for e in selector.get("matchExpressions") or [])


def matches_expression(expression: Object, labels: Mapping[str, str]) -> bool:
    """One requirement of a label or node selector."""
    key, values = expression["key"], expression.get("values") or []
    match expression["operator"]:
        case "In":
            return labels.get(key) in values
        case "NotIn":
            return labels.get(key) not in values
        case "Exists":
            return key in labels
        case "DoesNotExist":
            return key not in labels
        case other:
            raise bad_request(f'"{other}" is not a valid label selector operator')


def _terms(selector: str) -> list[str]:
    return [term for term in _OUTSIDE_PARENTHESES.split(selector) if term.strip()]


def _label_term(term: str) -> LabelTest:
    if matched := _SET_TERM.match(term):
        key = matched["key"]
        values = {value.strip() for value in matched["values"].split(",")}
        if matched["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if matched := _EQUAL_TERM.match(term):
        key, value = matched["key"], matched["value"]
        if matched["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if re.fullmatch(r"!\s*[^\s!=(),]+", term):
        absent = term[1:].strip()
        return lambda labels: absent not in labels
    if re.fullmatch(r"[^\s!=(),]+", term):
        return lambda labels: term in labels
    raise bad_request(f"unable to parse requirement: {term!r}")


def _field_term(kind: Kind, term: str) -> tuple[str, bool, str]:
    matched = _EQUAL_TERM.match(term)
    if matched is None:
        raise bad_request(f"invalid selector: '{term}'; can't understand '{term}'")
    path = matched["key"]
    if path not in kind.fields:
        raise _unknown_field(path)
    return path, matched["op"] != "!=", matched["value"].replace("\\,", ",").replace("\\=", "=")


def _unknown_field(path: str) -> ApiError:
    return bad_request(f'Unable to find "{path}" that match label selector, field selector: field label not supported')


def _field_text(obj: Object, path: str) -> str:
    value: Any = dig(obj, path)
    if path == "source":
        value = dig(obj, "source.component") or obj.get("reportingComponent")
    if isinstance(value, bool):
        return "true" if value else "false"
    if path in ("spec.unschedulable", "spec.hostNetwork"):
        return "false"
    return "" if value is None else str(value)
