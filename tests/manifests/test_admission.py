"""The policies that hold an agent's token to its own node, as they are shipped."""

from __future__ import annotations

import pytest

from agent.model.labels import KEYS, Key
from hack.admission_policy import ACCOUNT, MANIFEST, manifest, own, start_of
from tests.manifests.sources import only, rendered


def test_the_committed_policies_are_those_that_the_table_of_keys_gives() -> None:
    """Otherwise: python -m hack.admission_policy"""
    assert MANIFEST.read_text("utf-8") == manifest()


def test_every_policy_is_bound_denies_and_fails_closed() -> None:
    policies = {
        one["metadata"]["name"]: one["spec"] for one in rendered() if one["kind"] == "ValidatingAdmissionPolicy"
    }
    bindings = [one["spec"] for one in rendered() if one["kind"] == "ValidatingAdmissionPolicyBinding"]
    assert sorted(bound["policyName"] for bound in bindings) == sorted(policies)
    assert all(bound == {"policyName": bound["policyName"], "validationActions": ["Deny"]} for bound in bindings)
    assert all(spec["failurePolicy"] == "Fail" for spec in policies.values())


def test_the_policies_are_about_the_account_that_the_agents_run_as() -> None:
    account, pod = only("ServiceAccount")["metadata"], only("DaemonSet")["spec"]["template"]["spec"]
    assert f"system:serviceaccount:{account['namespace']}:{account['name']}" == ACCOUNT
    assert pod["serviceAccountName"] == account["name"]
    for one in rendered():
        if one["kind"] == "ValidatingAdmissionPolicy":
            [condition] = one["spec"]["matchConditions"]
            assert condition["expression"] == f"request.userInfo.username == '{ACCOUNT}'"


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_key_is_the_agents_to_write_if_the_table_says_so(key: Key) -> None:
    """Of a key that is open at its end the policy has the beginning; pods are not written at all."""
    beginning = key.name.split("<")[0].rstrip("*")
    written_to = {where for where in ("label", "annotation", "taint") if f"'{beginning}'" in own(where)}
    assert written_to == ({key.where} if key.written else set())


def test_a_name_that_is_open_in_its_middle_cannot_be_said() -> None:
    with pytest.raises(ValueError, match="open at its end"):
        start_of("warmslice.dev/gpu-<8 hex>.layout")
