"""The lists of ``hack/mutations`` are up to date. That every mutation is noticed takes minutes: ``python -m hack.mutations``."""

from pathlib import Path

import pytest

from hack.mutations import Mutation, mutations, parts

ROOT = Path(__file__).parents[2]
ALL = [pytest.param(mutation, id=f"{part}: {mutation.rule}") for part in parts() for mutation in mutations(part)]


@pytest.mark.parametrize("mutation", ALL)
def test_each_mutation_names_one_place_and_a_test_that_exists(mutation: Mutation) -> None:
    assert mutation.occurrences() == 1
    assert mutation.before != mutation.after
    file, *_, name = mutation.test.partition("[")[0].split("::")
    assert f"def {name}(" in (ROOT / file).read_text()


@pytest.mark.parametrize("part", parts())
def test_a_list_has_at_least_ten_rules(part: str) -> None:
    assert len({mutation.rule for mutation in mutations(part)}) >= 10
