"""How pods that serve came to be ready, and where their weights were when they started: nouns, and the node's ledger of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import msgspec

_MOST_MODELS = 20
_MOST_BYTES = 6000
_UID_CHARACTERS = 8


class Weights(StrEnum):
    """Where a pod's weights were when its server started: the worst of all that it reads. ``UNKNOWN``: nobody looked then."""

    MEMORY = "page-cache"
    READY = "ready"
    DISK = "disk"
    ABSENT = "absent"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Moments:
    """Seconds since the epoch, as far as the pod and its Events tell; the API server keeps whole seconds."""

    scheduled: float | None = None
    pulled: float | None = None
    started: float | None = None
    ready: float | None = None
    restarts: int = 0


@dataclass(frozen=True, slots=True)
class PodStart:
    """One pod that became ready. ``model`` is the name in the label. ``image_seconds``: from its binding until its image was
    there; ``load_seconds``: from the start of the server until it was ready. Either may be unknown."""

    uid: str
    pod: str
    namespace: str
    model: str
    repository: str
    revision: str
    weights: Weights
    at_seconds: float
    total_seconds: float
    image_seconds: float | None
    load_seconds: float | None


class Row(msgspec.Struct, frozen=True, array_like=True):
    """Sums over the pods of one model whose weights were at one place; ``loads`` of them have a known time of loading."""

    pods: int = 0
    total_seconds: float = 0.0
    loads: int = 0
    load_seconds: float = 0.0
    images: int = 0
    image_seconds: float = 0.0

    def plus(self, start: PodStart) -> Row:
        """With one more."""
        image, load = start.image_seconds, start.load_seconds
        return Row(
            self.pods + 1,
            round(self.total_seconds + start.total_seconds, 1),
            self.loads + (load is not None),
            round(self.load_seconds + (load or 0.0), 1),
            self.images + (image is not None),
            round(self.image_seconds + (image or 0.0), 1),
        )

    @property
    def mean_total(self) -> float | None:
        return self.total_seconds / self.pods if self.pods else None

    @property
    def mean_load(self) -> float | None:
        return self.load_seconds / self.loads if self.loads else None

    @property
    def mean_image(self) -> float | None:
        return self.image_seconds / self.images if self.images else None


class ModelStarts(msgspec.Struct, frozen=True):
    """Of one model. ``namespace`` is that of the last pod, ``at`` when it became ready (seconds since the epoch)."""

    repository: str
    revision: str
    namespace: str
    at: float
    rows: dict[Weights, Row] = {}


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the node's annotation keeps. ``counted``: which pods of now are in it, by the beginning of their UID. ``in_memory``:
    of models whose weights are to be in the page cache, how many per cent are, in tens. ``vouched``: of gated models that are
    ready, by name, what exactly is (``vouch``): their label does not say of which revision it speaks, nor in which boot."""

    models: dict[str, ModelStarts] = field(default_factory=dict)
    counted: list[str] = field(default_factory=list)
    in_memory: dict[str, int] = field(default_factory=dict)
    vouched: dict[str, str] = field(default_factory=dict)

    def has(self, uid: str) -> bool:
        """Whether this pod is counted."""
        return uid[:_UID_CHARACTERS] in self.counted

    def plus(self, start: PodStart) -> Ledger:
        """With one more; of many models those that started last are kept."""
        before = self.models.get(start.model)
        rows = dict(before.rows) if before is not None else {}
        rows[start.weights] = rows.get(start.weights, Row()).plus(start)
        starts = ModelStarts(start.repository, start.revision, start.namespace, round(start.at_seconds), rows)
        latest = sorted({**self.models, start.model: starts}.items(), key=lambda one: -one[1].at)[:_MOST_MODELS]
        while len(latest) > 1 and len(msgspec.json.encode(dict(latest))) > _MOST_BYTES:
            latest.pop()
        return replace(self, models=dict(sorted(latest)), counted=sorted({*self.counted, start.uid[:_UID_CHARACTERS]}))

    def among(self, uids: Collection[str]) -> Ledger:
        """Pods that are gone need not be told apart any more."""
        there = {uid[:_UID_CHARACTERS] for uid in uids}
        return replace(self, counted=[uid for uid in self.counted if uid in there])

    def to_json(self) -> str:
        """As it stands in the annotation."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Ledger:
        """Read it back; an empty one where it is none of ours."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.ValidationError, msgspec.DecodeError, UnicodeError, RecursionError):
            return cls()


def vouch(repository: str, revision: str, boot_id: str) -> str:
    """What the cache role vouches for: that this was on the disk of this boot."""
    return f"{repository}@{revision} {boot_id}"


def saved(starts: ModelStarts) -> tuple[float, float] | None:
    """(seconds that a start took less where the weights were ready, of all such starts together): by the mean time of loading,
    against starts whose weights were on the way or absent. None while there is no start of either kind, and where nothing was
    saved."""
    hits = [starts.rows[w] for w in (Weights.MEMORY, Weights.READY) if w in starts.rows]
    misses = [starts.rows[w] for w in (Weights.DISK, Weights.ABSENT) if w in starts.rows]
    hit, miss = _mean_load(hits), _mean_load(misses)
    if hit is None or miss is None:
        return None
    each = miss - hit
    return (each, each * sum(row.loads for row in hits)) if each > 0 else None


def _mean_load(rows: Collection[Row]) -> float | None:
    loads = sum(row.loads for row in rows)
    return sum(row.load_seconds for row in rows) / loads if loads else None


def worst(weights: Collection[Weights]) -> Weights:
    """Of all that a pod reads."""
    order = (Weights.UNKNOWN, Weights.ABSENT, Weights.DISK, Weights.READY, Weights.MEMORY)
    return min(weights, key=order.index, default=Weights.UNKNOWN)


Standing = Mapping[tuple[str, str], tuple[str, Weights]]
"""By repository and revision: the model's name, and where its weights are now."""
