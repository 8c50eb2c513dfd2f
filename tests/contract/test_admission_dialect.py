"""The part of CEL that the development server evaluates, and that it says so of the rest before anybody relies on it."""

from __future__ import annotations

import pytest

from hack.devcluster import kinds
from hack.devcluster.admission.expressions import as_value, expression
from hack.devcluster.admission.policies import check_readable
from hack.devcluster.api import Api
from hack.devcluster.errors import ApiError
from hack.devcluster.objects import Object

NOT_SERVED = {
    "authorizer.group('').resource('pods').check('get').allowed()": "undeclared reference to 'authorizer'",
    "quantity(object.spec.size).isLessThan(quantity('1Gi'))": "function 'quantity'",
    "url(object.spec.address).getScheme() == 'https'": "function 'url'",
    "object.metadata.name.lowerAscii() == 'a'": "method 'lowerAscii'",
    "object.metadata.name.split('-')[0] == 'a'": "method 'split'",
    "sets.contains(object.a, object.b)": "undeclared reference to 'sets'",
    "object.metadata.labels.all(key, value, value != '')": "macro 'all' is served with one variable",
    "object.metadata.labels.transformList(key, value, key).size() == 0": "method 'transformList'",
    "cel.bind(a, object.spec, a.b)": "method 'bind'",
    "optional.of(1).hasValue() || object.optMap(a, a)": "undeclared reference to 'optional'",
    "object.spec.items[?0].orValue('') == 'a'": "the optional index [?0]",
    "object.metadata.labels[?object.key].orValue('') == 'a'": "the optional index [?object.key]",
    "object.?spec == oldObject.?spec": "compilation failed",
    "objet.spec.x == 1": "undeclared reference to 'objet'",
    "params.x == 1": "undeclared reference to 'params'",
    "variables.later == 1": "undefined field 'later'",
    "[1].all(x, true) && x == 1": "undeclared reference to 'x'",
    ".object.x == 1": "qualified names",
}

SERVED = {
    "object.labels.all(key, key in ['a'] || key.startsWith('b.'))": True,
    "object.labels.exists(key, key == 'c')": False,
    "object.items.filter(i, i > 1).map(i, i * 2) == [4]": True,
    "has(object.labels) && !has(object.nothing)": True,
    "object.?labels[?'a'].orValue('') == '1'": True,
    "object.?nothing[?'a'].orValue('none') == 'none'": True,
    "object.?nothing.deeper.orValue('none') == 'none'": True,
    "object.?labels.absent.orValue('none') == 'none'": True,
    "object.labels.?a.hasValue()": True,
    "size(object.items) == 2 && object.name.matches('^x+$')": True,
}


def policy(expression: str, field: str = "validations") -> Object:
    spec: Object = {"validations": [{"expression": "true"}]} | {field: [{"name": "one", "expression": expression}]}
    return {"metadata": {"name": "p"}, "spec": spec}


@pytest.mark.parametrize(("text", "why"), NOT_SERVED.items())
def test_what_is_not_served_is_refused_when_the_policy_is_made(text: str, why: str) -> None:
    """With 422 and the field's name, as a real server refuses what it cannot compile."""
    with pytest.raises(ApiError) as refused:
        Api().create(kinds.ADMISSION_POLICIES, "", policy(text))
    assert refused.value.code == 422
    assert "spec.validations[0].expression" in refused.value.message
    assert why in refused.value.message


@pytest.mark.parametrize("field", ["validations", "matchConditions", "variables"])
def test_every_part_of_a_policy_is_read_before_it_is_taken(field: str) -> None:
    with pytest.raises(ApiError, match=rf"spec\.{field}\[0\]\.expression"):
        check_readable(policy("quantity('1') == 1", field))


def test_a_message_is_read_before_the_policy_is_taken() -> None:
    validation = {"expression": "true", "messageExpression": "object.name.upperAscii()"}
    with pytest.raises(ApiError, match=r"spec\.validations\[0\]\.messageExpression"):
        check_readable({"metadata": {"name": "p"}, "spec": {"validations": [validation]}})


def test_a_variable_knows_those_before_it_and_a_condition_knows_none() -> None:
    variables = [{"name": "a", "expression": "1"}, {"name": "b", "expression": "variables.a + 1"}]
    spec = {"variables": variables, "validations": [{"expression": "variables.b == 2"}]}
    check_readable({"metadata": {"name": "p"}, "spec": spec})
    with pytest.raises(ApiError, match=r"variables\[0\]"):
        check_readable({"metadata": {"name": "p"}, "spec": spec | {"variables": variables[::-1]}})
    with pytest.raises(ApiError, match=r"matchConditions\[0\]"):
        check_readable(
            {"metadata": {"name": "p"}, "spec": spec | {"matchConditions": [{"expression": "variables.a == 1"}]}}
        )


@pytest.mark.parametrize(("text", "result"), SERVED.items())
def test_what_is_served_is_evaluated(text: str, result: bool) -> None:
    known = expression(text)
    known.check(frozenset({"object"}))
    value = as_value({"labels": {"a": "1", "b.x": "2"}, "items": [1, 2], "name": "xx"})
    assert known.holds({"object": value}) is result
