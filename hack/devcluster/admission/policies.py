"""ValidatingAdmissionPolicies: every binding of every policy that matches a write judges it.

A denial is HTTP 422 ("Invalid") unless the validation names another reason, with "is forbidden" in its text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hack.devcluster import kinds
from hack.devcluster.admission.expressions import ExpressionError, as_value, expression
from hack.devcluster.admission.request import AdmissionRequest
from hack.devcluster.errors import ApiError, invalid
from hack.devcluster.kinds import ALL_KINDS, Kind
from hack.devcluster.objects import Object, dig, labels_of, name_of
from hack.devcluster.selectors import matches_label_selector
from hack.devcluster.store import Store

_CODE_OF_REASON = {"Unauthorized": 401, "Forbidden": 403, "Invalid": 422, "RequestEntityTooLarge": 413}
# Policies never judge themselves: a bad one could not be taken back.
_EXEMPT = frozenset({kinds.ADMISSION_POLICIES, kinds.ADMISSION_BINDINGS})


@dataclass(slots=True)
class Policies:
    store: Store

    def admit(self, request: AdmissionRequest) -> None:
        """Raises ApiError for the first denial."""
        if request.kind is kinds.ADMISSION_POLICIES and request.object is not None:
            check_readable(request.object)
        if request.kind in _EXEMPT:
            return
        for binding in self.store.all(kinds.ADMISSION_BINDINGS):
            policy = self.store.get(kinds.ADMISSION_POLICIES, "", str(dig(binding, "spec.policyName", "")))
            if policy is not None and self._concerns(policy, binding, request):
                self._judge(policy, binding, request)

    def _concerns(self, policy: Object, binding: Object, request: AdmissionRequest) -> bool:
        if "Deny" not in (dig(binding, "spec.validationActions") or []):
            return False
        named = dig(policy, "spec.matchConstraints") or {}
        further = dig(binding, "spec.matchResources")
        return self._matches(named, request) and (further is None or self._matches(further, request, narrowing=True))

    def _matches(self, constraints: Object, request: AdmissionRequest, *, narrowing: bool = False) -> bool:
        listed = constraints.get("resourceRules") or []
        included = (narrowing and not listed) or any(_rule_matches(rule, request) for rule in listed)
        excluded = any(_rule_matches(rule, request) for rule in constraints.get("excludeResourceRules") or [])
        return included and not excluded and self._selected(constraints, request)

    def _selected(self, constraints: Object, request: AdmissionRequest) -> bool:
        """Selectors that are left out or empty select everything; cluster-wide objects pass any namespaceSelector."""
        objects = constraints.get("objectSelector") or {}
        either = [obj for obj in (request.object, request.old) if obj is not None]
        if objects and not any(matches_label_selector(objects, labels_of(obj)) for obj in either):
            return False
        namespaces = constraints.get("namespaceSelector") or {}
        home = self._namespace(request)
        return not namespaces or home is None or matches_label_selector(namespaces, labels_of(home))

    def _namespace(self, request: AdmissionRequest) -> Object | None:
        return self.store.get(kinds.NAMESPACES, "", request.namespace) if request.namespace else None

    def _judge(self, policy: Object, binding: Object, request: AdmissionRequest) -> None:
        spec = policy["spec"]
        try:
            for params in self._params(spec, binding, request):
                variables = _variables(request, params, self._namespace(request))
                if _conditions_hold(spec, variables):
                    _validate(spec, _with_own_variables(spec, variables))
        except _DeniedError as denied:
            raise _refusal(policy, binding, request, denied) from denied
        except ExpressionError as error:
            if spec.get("failurePolicy", "Fail") != "Ignore":
                raise _refusal(policy, binding, request, _DeniedError(str(error))) from error

    def _params(self, spec: Object, binding: Object, request: AdmissionRequest) -> Iterator[Object | None]:
        """One for each parameter object; none at all where its absence lets the request pass."""
        wanted, reference = spec.get("paramKind"), dig(binding, "spec.paramRef")
        if not wanted or not reference:
            yield None
            return
        found = list(self._parameter_objects(wanted, reference, request))
        if not found and reference.get("parameterNotFoundAction") != "Allow":
            raise _DeniedError("no params found for policy binding with `Deny` parameterNotFoundAction")
        yield from found

    def _parameter_objects(self, wanted: Object, reference: Object, request: AdmissionRequest) -> Iterator[Object]:
        kind = _kind_named(str(wanted.get("apiVersion")), str(wanted.get("kind")))
        if kind is None:
            raise _DeniedError(f"params kind {wanted.get('kind')} is not served")
        namespace = (reference.get("namespace") or request.namespace) if kind.namespaced else ""
        for obj in self.store.all(kind, namespace):
            by_name = reference.get("name")
            if (by_name and by_name == name_of(obj)) or (
                not by_name and matches_label_selector(reference.get("selector") or {}, labels_of(obj))
            ):
                yield obj


class _DeniedError(Exception):
    def __init__(self, message: str, reason: str = "Invalid") -> None:
        super().__init__(message)
        self.reason = reason


def check_readable(policy: Object) -> None:
    """Raises ApiError 422 naming every expression that cannot be read."""
    causes = []
    for field, text, known in _expressions(policy.get("spec") or {}):
        try:
            expression(text).check(known)
        except ExpressionError as error:
            causes.append((field, f"Invalid value: {text!r}: {error}"))
    if causes:
        raise invalid(kinds.ADMISSION_POLICIES, name_of(policy), causes)


def _expressions(spec: Object) -> Iterator[tuple[str, str, frozenset[str]]]:
    """Each field that holds one, with the names in its reach: a variable knows those before it, a matchCondition none."""
    known = frozenset(
        ("object", "oldObject", "request", "namespaceObject", *(["params"] if spec.get("paramKind") else []))
    )
    for position, entry in enumerate(spec.get("matchConditions") or []):
        yield f"spec.matchConditions[{position}].expression", str(entry.get("expression", "")), known
    for position, entry in enumerate(spec.get("variables") or []):
        yield f"spec.variables[{position}].expression", str(entry.get("expression", "")), known
        known |= {f"variables.{entry.get('name')}"}
    for position, entry in enumerate(spec.get("validations") or []):
        for field in ("expression", "messageExpression"):
            if field == "expression" or field in entry:
                yield f"spec.validations[{position}].{field}", str(entry.get(field, "")), known
    for position, entry in enumerate(spec.get("auditAnnotations") or []):
        yield f"spec.auditAnnotations[{position}].valueExpression", str(entry.get("valueExpression", "")), known


def _rule_matches(rule: Object, request: AdmissionRequest) -> bool:
    names = rule.get("resourceNames") or []
    return (
        _any_of(rule.get("apiGroups"), request.kind.group)
        and _any_of(rule.get("apiVersions"), request.kind.version)
        and _any_of(rule.get("operations"), request.operation)
        and any(_resource_matches(pattern, request) for pattern in rule.get("resources") or [])
        and (not names or request.name in names)
    )


def _any_of(listed: list[str] | None, value: str) -> bool:
    return value in (listed or []) or "*" in (listed or [])


def _resource_matches(pattern: str, request: AdmissionRequest) -> bool:
    """``*`` means every resource without subresources, ``nodes/*`` the resource and all of its subresources."""
    resource, slash, subresource = pattern.partition("/")
    if resource not in ("*", request.kind.plural):
        return False
    if not slash:
        return not request.subresource
    return subresource in ("*", request.subresource)


def _variables(request: AdmissionRequest, params: Object | None, namespace: Object | None) -> dict[str, Any]:
    given = {
        "object": request.object,
        "oldObject": request.old,
        "request": request.to_json(),
        "params": params,
        "namespaceObject": namespace,
    }
    return {name: as_value(value) for name, value in given.items()}


def _conditions_hold(spec: Object, variables: Mapping[str, Any]) -> bool:
    return all(expression(entry["expression"]).holds(variables) for entry in spec.get("matchConditions") or [])


def _with_own_variables(spec: Object, variables: dict[str, Any]) -> dict[str, Any]:
    """In their order, each seeing those before it. Evaluated even where no validation asks for them: one that fails
    counts as a failed policy here, which the real server's lazy evaluation would not notice."""
    own: dict[str, Any] = {}
    for entry in spec.get("variables") or []:
        own[entry["name"]] = expression(entry["expression"]).value(variables | {"variables": _as_map(own)})
    return variables | {"variables": _as_map(own)}


def _as_map(values: Mapping[str, Any]) -> Any:
    result = as_value({})
    for name, value in values.items():
        result[as_value(name)] = value
    return result


def _validate(spec: Object, variables: dict[str, Any]) -> None:
    for validation in spec.get("validations") or []:
        text = validation["expression"]
        try:
            if expression(text).holds(variables):
                continue
        except ExpressionError as error:
            raise ExpressionError(f"expression '{text}' resulted in error: {error}") from error
        raise _DeniedError(_message(validation, variables), validation.get("reason") or "Invalid")


def _message(validation: Object, variables: dict[str, Any]) -> str:
    if worded := validation.get("messageExpression"):
        try:
            return str(expression(worded).value(variables))
        except ExpressionError:
            pass  # as in the real server, the plain message stands in
    return str(validation.get("message") or f"failed expression: {validation['expression'].strip()}")


def _refusal(policy: Object, binding: Object, request: AdmissionRequest, denied: _DeniedError) -> ApiError:
    qualified = f"{request.kind.plural}.{request.kind.group}" if request.kind.group else request.kind.plural
    text = (
        f"{qualified} \"{request.name}\" is forbidden: ValidatingAdmissionPolicy '{name_of(policy)}' "
        f"with binding '{name_of(binding)}' denied request: {denied}"
    )
    details: Object = {"name": request.name, "kind": request.kind.plural, "causes": [{"message": text}]}
    if request.kind.group:
        details["group"] = request.kind.group
    return ApiError(_CODE_OF_REASON.get(denied.reason, 422), text, reason=denied.reason, details=details)


def _kind_named(api_version: str, name: str) -> Kind | None:
    return next((kind for kind in ALL_KINDS if (kind.api_version, kind.name) == (api_version, name)), None)
