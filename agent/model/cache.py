"""Nouns of the cache loop: what is on disk, what a fetch is told and tells, what one pass found. Frozen data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from agent.model.catalog import CatalogModel, RepositoryFile
from agent.model.demand import Asked, Rank
from agent.model.errors import AgentError
from agent.model.page_cache import PageCacheReport
from agent.model.revision import Going
from agent.model.scrub import ScrubReport

MANIFEST_FORMAT = 1


class ModelState(StrEnum):
    """How a wanted model stands. ``WAITING``: its first turn has not come; one that waits for its next try is
    ``FAILED``."""

    READY = "ready"
    FETCHING = "fetching"
    WAITING = "waiting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class CachedModel:
    """What the disk holds of a wanted model's revision.

    ``commit`` is None while the revision is not known on this disk; ``size_bytes`` counts the selected files,
    ``present_bytes`` those of them that are there. ``lacking`` says in words what keeps it from being complete.
    ``checked_at_seconds``: when the hub last said that this is the revision's commit (Unix time).
    """

    commit: str | None
    size_bytes: int
    present_bytes: int
    lacking: str | None
    checked_at_seconds: float | None = None

    @property
    def complete(self) -> bool:
        return self.lacking is None


@dataclass(frozen=True, slots=True)
class DiskUse:
    """Bytes that the cache takes on its file system, bytes that are free there for us, and the file system's size."""

    used_bytes: int
    free_bytes: int
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """``allowance_bytes``: what the cache may still grow by (None: no budget); ``reserve_bytes`` stay free on the
    file system whatever the allowance; a connection silent for ``stall_seconds`` is dropped; ``attempts`` in a row
    without a finished grain end the fetch; all connections together bring at most ``bytes_per_second`` (None: no limit).
    ``xet``: files that the hub has in its Xet store are taken from there."""

    allowance_bytes: int | None = None
    reserve_bytes: int = 0
    connections: int = 8
    attempts: int = 8
    stall_seconds: float = 30.0
    longest_wait_seconds: float = 30.0
    bytes_per_second: float | None = None
    xet: bool = False


@dataclass(frozen=True, slots=True)
class FetchOrder:
    """Everything the fetching process is told, except the token."""

    repository: str
    revision: str
    allow_patterns: tuple[str, ...] | None
    ignore_patterns: tuple[str, ...] | None
    endpoint: str | None
    cache_directory: str
    parent_pid: int
    engine: str | None = None
    require_safetensors: bool = False
    limits: FetchLimits = field(default_factory=FetchLimits)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Our record of a commit, beside its snapshot: all that the hub lists, and the paths whose content was checked
    against that listing before it was published."""

    format: int
    repository: str
    commit: str
    files: tuple[RepositoryFile, ...]
    verified: tuple[str, ...]

    @property
    def blobs(self) -> frozenset[str]:
        """Names of those that were checked."""
        verified = frozenset(self.verified)
        return frozenset(file.blob for file in self.files if file.path in verified)


class FailureKind(StrEnum):
    """A refusal needs somebody to act (token, name, space); a fault may pass by itself."""

    REFUSED = "refused"
    FAULT = "fault"


class FetchError(AgentError):
    """A fetch, or a part of it, did not succeed. ``reason`` is a short stable word, the message a sentence.
    ``after_seconds`` is what the other side asked us to wait, ``needed_bytes`` what the disk would have to take."""

    def __init__(
        self,
        reason: str,
        message: str,
        kind: FailureKind = FailureKind.FAULT,
        after_seconds: float | None = None,
        needed_bytes: int = 0,
    ) -> None:
        super().__init__(message)
        self.needed_bytes = needed_bytes
        self.reason = reason
        self.kind = kind
        self.after_seconds = after_seconds


class FetchFaultError(FetchError):
    """May pass within this fetch: try the same again, later each time."""


class FetchEndedError(FetchError):
    """Trying again within this fetch is of no use; parts already fetched stay for a later one."""


@dataclass(frozen=True, slots=True)
class FetchFailure:
    """Why a fetch ended without a model. ``reason`` is a short stable word (a metric's label), ``message`` a sentence.

    ``model`` is the entry that failed: another revision or endpoint under the same name starts afresh. ``needed_bytes`` have
    to fit before it can succeed, 0 where space is not what it lacked.
    """

    model: CatalogModel
    kind: FailureKind
    reason: str
    message: str
    failures: int
    failed_at_seconds: float
    next_try_seconds: float
    needed_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """A fetch as it runs. ``fetched_bytes`` of ``size_bytes`` are on disk, those of earlier runs included; ``retries``: what was
    tried again, by reason."""

    model: CatalogModel
    started_at_seconds: float
    commit: str | None = None
    size_bytes: int = 0
    fetched_bytes: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FinishedFetch:
    """A fetch that ended since the pass before. ``reason`` is ``ok``, ``stopped`` or a failure's reason."""

    model: str
    reason: str
    duration_seconds: float


@dataclass(frozen=True, slots=True)
class FetchTotals:
    """Counted since this process started: bytes received, fetches failed by reason, contents that had wrong bytes,
    requests tried again by reason."""

    received_bytes: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    verify_failures: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelReport:
    """One wanted model. ``since_seconds`` is when its state began (Unix time). ``gate``: a node that starts waits for it.
    ``rank`` and ``because``: why it is wanted."""

    name: str
    repository: str
    revision: str
    commit: str | None
    state: ModelState
    reason: str
    message: str
    size_bytes: int
    fetched_bytes: int
    since_seconds: float
    next_try_seconds: float | None
    gate: bool = False
    rank: Rank = Rank.DECLARED
    because: str = "the catalog"


@dataclass(frozen=True, slots=True)
class CacheReport:
    """One pass of the cache loop. ``refusal`` says why the catalog could not be followed; then nothing was started,
    stopped or deleted, and ``models`` is empty. ``look_again_seconds`` is the time by which a pass is due anyway. ``gone``: what
    was removed in this pass; ``over``: why the cache takes more than it may, in a sentence. ``scrub``: how reading
    again what is on disk stands; ``asked``: what workloads want in vain; ``page_cache``: what of the weights that are to be in
    memory is there."""

    at_seconds: float
    models: tuple[ModelReport, ...]
    refusal: str | None
    disk: DiskUse
    budget_bytes: int | None
    totals: FetchTotals
    finished: tuple[FinishedFetch, ...]
    labels_to_write: Mapping[str, str | None]
    look_again_seconds: float | None
    gone: tuple[Going, ...] = ()
    over: str | None = None
    scrub: ScrubReport = field(default_factory=ScrubReport)
    asked: Asked = field(default_factory=Asked)
    page_cache: PageCacheReport = field(default_factory=PageCacheReport)
