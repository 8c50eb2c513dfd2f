"""Whether containers can run here."""

from __future__ import annotations

import pytest

from hack.containers.mounts import why_not
from tests.fakes.programs import missing


@pytest.fixture(scope="session", autouse=True)
def mount_namespaces() -> None:
    if why := why_not():
        missing(why)
