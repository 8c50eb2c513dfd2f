"""What can go wrong with a fetch, row by row: for the tests (tests/cache/test_fault_matrix.py) and the bench
(hack/bench/hub_faults.py) alike.

The model of every row is the same: one large file of several grains, more small ones than a client has connections, and
files that are not in LFS.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
REPOSITORY = "acme/faulty"
TOKEN = "reader"
SHARDS = 24
SIZES: Mapping[str, int] = {
    "config.json": 700,
    "tokenizer/vocab.json": 50_000,
    "model-00000.safetensors": 12 * MIB + 321,
    **{f"model-{number:05}.safetensors": MIB // 4 + number for number in range(1, SHARDS + 1)},
}
MODEL_BYTES = sum(SIZES.values())
SMALL_DISK_BYTES = MODEL_BYTES + 16 * MIB

_MODEL = r"GET hub/api/models/[^/]+/[^/]+/revision/"
_LISTING = r"GET hub/api/models/[^/]+/[^/]+/tree/"
_FILES = r"(GET|HEAD) hub/.*/resolve/"
_STORE = r"GET cdn/"
_PLACES = {"API": (_MODEL, _LISTING), "files": (_FILES,), "store": (_STORE,)}
_PACED: Mapping[str, Any] = {"address_bytes_per_second": 20 * MIB}  # so that there is a midway


class Midway(Enum):
    """What is done once a share of the model was sent; all but the first two are set right before the next run."""

    KILL = auto()
    TERMINATE = auto()
    FILL_DISK = auto()
    REVOKE_TOKEN = auto()
    HUB_AWAY = auto()


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run that did not bring the model ends. ``kind`` and ``reason`` are short words, ``says`` a pattern of the
    sentence; several reasons where chance decides what is met first."""

    kind: str
    reasons: tuple[str, ...]
    says: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row. ``faults`` (as /_dev/faults takes them) are planned before the first run and gone before the second.

    ``first`` is how our first run ends, None where it outlasts the fault. ``most_times`` is what the hub may have to send us
    in all runs together, as a multiple of the model; ``wrong_bytes`` may have counted as safe until they were checked.
    ``attempts`` and ``away_seconds``: of our fetch in the test and of the hub's absence; the bench has its own.
    ``through_mirror``: makes sense there too.
    """

    name: str
    faults: tuple[Mapping[str, Any], ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    midway: Midway | None = None
    midway_share: float = 0.5
    first: Ending | None = None
    most_times: float = 1.0
    wrong_bytes: int = 0
    private: bool = False
    attempts: int = 6
    away_seconds: float = 0.0
    through_mirror: bool = False


def _fault(pattern: str, kind: str, **details: Any) -> Mapping[str, Any]:
    return {"pattern": pattern, "kind": kind, **details}


def _for_a_while(status: int, said: str, **details: Any) -> list[Scenario]:
    """A row for each place that can answer so."""
    return [
        Scenario(
            f"{status} {said}: {place}",
            faults=tuple(_fault(pattern, "status", status=status, times=1, **details) for pattern in patterns),
            through_mirror=place == "store",
        )
        for place, patterns in _PLACES.items()
    ]


_KILLED = {
    number: Ending("fault", ("killed",), rf"the fetching process ended with -{number} before it was done")
    for number in (9, 15)
}
_FULL = Ending("fault", ("no-space",), "the disk is full")
_WRONG = Ending("fault", ("wrong-bytes",), r"the hub sent wrong bytes for model-00007\.safetensors 3 times")
_NO_TOKEN = Ending("refused", ("token",), "the hub refused the file .401.: give a token that may read this model")
_NO_HUB = Ending("fault", ("unreachable", "reset", "truncated"), "takes no connection|broke|ended|reachable")

SCENARIOS: tuple[Scenario, ...] = (
    Scenario("kill -9", settings=_PACED, midway=Midway.KILL, first=_KILLED[9], most_times=1.5, through_mirror=True),
    Scenario("SIGTERM", settings=_PACED, midway=Midway.TERMINATE, first=_KILLED[15], most_times=1.5),
    Scenario("disk full", settings=_PACED, midway=Midway.FILL_DISK, first=_FULL, most_times=1.5),
    Scenario(
        "body cut short",
        faults=(_fault(_STORE, "truncate", after_bytes=200_000, times=4),),
        most_times=1.25,
        through_mirror=True,
    ),
    Scenario(
        "connection reset in a body",
        faults=(_fault(_STORE, "reset", after_bytes=200_000, times=4),),
        most_times=1.25,
        through_mirror=True,
    ),
    Scenario("reset instead of an answer", faults=(_fault("GET", "hang-up", times=4),)),
    Scenario(
        "body stalls",
        faults=(_fault(_STORE, "stall", after_bytes=200_000, times=2),),
        most_times=1.25,
        through_mirror=True,
    ),
    Scenario("store never answers", faults=(_fault(_STORE, "no-answer", times=1),)),
    Scenario("ranges ignored", faults=(_fault(_STORE, "ignore-ranges"),), most_times=2.5),
    Scenario("another range sent", faults=(_fault(_STORE, "wrong-range", times=2),), most_times=2.0),
    Scenario(
        "wrong bytes once",
        faults=(_fault(_STORE + ".*model-00000", "wrong-bytes", times=1),),
        most_times=1.75,
        through_mirror=True,
    ),
    Scenario(
        "wrong bytes each time",
        faults=(_fault(_STORE + ".*model-00007", "wrong-bytes"),),
        first=_WRONG,
        wrong_bytes=SIZES["model-00007.safetensors"],
        most_times=1.75,
        through_mirror=True,
    ),
    Scenario("etag changes midway", faults=(_fault(_STORE, "new-etag", skip=2, times=2),), most_times=2.0),
    *_for_a_while(429, "with Retry-After", retry_after_seconds=1),
    Scenario(
        "429 with RateLimit only: each",
        faults=tuple(
            _fault(pattern, "status", status=429, times=1, rate_limit_seconds=1)
            for patterns in _PLACES.values()
            for pattern in patterns
        ),
    ),
    *_for_a_while(503, "without a word", html=True),
    Scenario("signed URL expired when given", faults=(_fault(_FILES, "expired-url", times=3),)),
    Scenario("signed URL expires midway", settings={**_PACED, "signed_url_seconds": 0.3}, most_times=1.25),
    Scenario(
        "token removed midway",
        settings={**_PACED, "signed_url_seconds": 0.3},
        midway=Midway.REVOKE_TOKEN,
        midway_share=0.2,  # later a client with many connections has asked for every file
        first=_NO_TOKEN,
        most_times=1.5,
        private=True,
    ),
    Scenario(
        "hub away for a moment",
        settings=_PACED,
        midway=Midway.HUB_AWAY,
        most_times=1.5,
        attempts=40,
        away_seconds=0.5,
        through_mirror=True,
    ),
    Scenario(
        "hub down for a minute",
        settings=_PACED,
        midway=Midway.HUB_AWAY,
        first=_NO_HUB,
        most_times=1.5,
        attempts=2,
        away_seconds=1.5,
    ),
)


def write_model(folder: Path) -> None:
    """The model of all rows, with contents that follow from the names."""
    for name, size in SIZES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(name).randbytes(size))
