"""Where a pod's priority comes from: its PriorityClass, and nothing else."""

from __future__ import annotations

import pytest

from hack.devcluster import kinds
from hack.devcluster.admission.priorities import first_priority_classes
from hack.devcluster.api import Api
from hack.devcluster.errors import ApiError
from hack.devcluster.objects import Object
from tests.fakes.devcluster import simple_pod


@pytest.fixture
def api() -> Api:
    api = Api()
    api.create(kinds.NAMESPACES, "", {"metadata": {"name": "default"}})
    for each in first_priority_classes():
        api.create(kinds.PRIORITY_CLASSES, "", each)
    return api


def create_class(api: Api, name: str, value: int, **fields: object) -> Object:
    return api.create(kinds.PRIORITY_CLASSES, "", {"metadata": {"name": name}, "value": value, **fields})


def created(api: Api, **spec: object) -> Object:
    """The spec of a new pod as it was stored."""
    pod = simple_pod("p")
    pod["spec"] |= spec
    stored: Object = api.create(kinds.PODS, "default", pod)["spec"]
    return stored


def test_a_pod_has_the_priority_of_its_class(api: Api) -> None:
    create_class(api, "batch", -5, preemptionPolicy="Never")
    spec = created(api, priorityClassName="batch")
    assert (spec["priority"], spec["preemptionPolicy"]) == (-5, "Never")


def test_critical_pods_of_the_system_have_classes_from_the_start(api: Api) -> None:
    assert created(api, priorityClassName="system-node-critical")["priority"] == 2_000_001_000


def test_without_a_class_the_default_one_counts(api: Api) -> None:
    create_class(api, "usual", 7, globalDefault=True)
    spec = created(api)
    assert (spec["priorityClassName"], spec["priority"]) == ("usual", 7)


def test_without_any_class_a_pod_has_priority_0_and_may_preempt(api: Api) -> None:
    spec = created(api)
    assert (spec["priority"], spec["preemptionPolicy"]) == (0, "PreemptLowerPriority")
    assert "priorityClassName" not in spec


def test_a_class_that_is_not_there_is_refused(api: Api) -> None:
    with pytest.raises(ApiError) as refused:
        created(api, priorityClassName="absent")
    assert (refused.value.code, refused.value.reason) == (403, "Forbidden")
    assert "no PriorityClass with name absent was found" in refused.value.message


@pytest.mark.parametrize("said", [{"priority": 8}, {"preemptionPolicy": "Never"}])
def test_a_pod_cannot_give_itself_what_its_class_does_not(api: Api, said: Object) -> None:
    create_class(api, "usual", 7)
    with pytest.raises(ApiError, match="must not be provided in pod spec") as refused:
        created(api, priorityClassName="usual", **said)
    assert refused.value.code == 403


def test_there_is_one_default(api: Api) -> None:
    create_class(api, "usual", 7, globalDefault=True)
    with pytest.raises(ApiError, match="PriorityClass usual is already marked as default") as refused:
        create_class(api, "other", 8, globalDefault=True)
    assert refused.value.code == 403


@pytest.mark.parametrize(("name", "value"), [("system-mine", 1), ("high", 1_000_000_001)])
def test_names_and_heights_of_the_system_are_reserved(api: Api, name: str, value: int) -> None:
    with pytest.raises(ApiError) as refused:
        create_class(api, name, value)
    assert refused.value.code == 422


def test_the_value_of_a_class_never_changes(api: Api) -> None:
    create_class(api, "usual", 7)
    with pytest.raises(ApiError, match="may not be changed in an update"):
        api.patch(kinds.PRIORITY_CLASSES, "", "usual", "application/merge-patch+json", {"value": 8})
