"""For each rule of a stand-in, proof that a contract test holds it: take the rule away, and the named test must fail.

A list is ``hack/mutations/<part>.toml``; paths are relative to the repository's root::

    [[mutation]]
    rule = "an occupied placement is refused"
    file = "hack/simgpu/rules.c"
    before = "text that stands exactly once in the file"
    after = "what stands there without the rule"
    test = "tests/contract/test_nvml.py::TestCreate::test_an_occupied_placement_is_refused"
"""

import tomllib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


@dataclass(frozen=True, slots=True)
class Mutation:
    """One rule, how it is taken away, and the pytest id of the test that must notice."""

    rule: str
    file: str
    before: str
    after: str
    test: str

    def occurrences(self, root: Path = ROOT) -> int:
        """How often ``before`` stands in the file; 1 when the list is up to date."""
        return (root / self.file).read_text().count(self.before)

    def apply(self, root: Path) -> None:
        """ValueError unless ``before`` stands exactly once in the file under ``root``."""
        if (found := self.occurrences(root)) != 1:
            raise ValueError(f"{self.rule}: the text stands {found} times in {self.file}")
        target = root / self.file
        target.write_text(target.read_text().replace(self.before, self.after))


def parts() -> list[str]:
    """Names of the lists."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def mutations(part: str) -> list[Mutation]:
    """The list of one part; TypeError for a key too many or too few."""
    document = tomllib.loads((HERE / f"{part}.toml").read_text())
    return [Mutation(**entry) for entry in document["mutation"]]
