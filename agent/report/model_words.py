"""What is said of each model, and of the catalog, in words."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.cache import CacheReport, ModelReport, ModelState

_MOST_REFUSED = 10
"""Whoever makes pods could have any number said."""


@dataclass(frozen=True, slots=True)
class Word:
    """``reason`` is a word with dashes; ``warning`` means that somebody may have to act."""

    reason: str
    message: str
    warning: bool = False


def words_of(report: CacheReport) -> dict[str, Word]:
    """By model name; the catalog's refusal stands under ``catalog``, and then nothing is said of models; what is to be said of
    the cache as a whole under ``cache``; why weights are not in memory under the model's name and ``page-cache``."""
    if report.refusal is not None:
        return {"catalog": Word("catalog-refused", report.refusal, warning=True)}
    words = {model.name: _word(model) for model in report.models}
    words |= {f"{space} {model}": _not_allowed(space, model) for space, model in report.asked.refused[:_MOST_REFUSED]}
    if report.asked.over:
        more = f"workloads want {report.asked.over} more models here than prewarm_most allows; the least urgent are left out"
        words["workloads"] = Word("too-many-models", more, warning=True)
    words |= _not_in_memory(report)
    return words if report.over is None else words | {"cache": Word("cache-over-budget", report.over, warning=True)}


def farewells(report: CacheReport) -> tuple[Word, ...]:
    """What was removed since the report before."""
    evicted = [
        Word("model-evicted", f"{going.key} is gone, {going.freed_bytes / 1e9:.2f} GB, since it {going.because}")
        for going in report.gone
    ]
    damaged = [
        Word(
            "model-file-damaged",
            f"model {bad.repository}: blob {bad.name[:12]} was {bad.why} on disk, and is gone",
            True,
        )
        for bad in report.scrub.news
    ]
    return (*evicted, *damaged)


def _not_allowed(namespace: str, model: str) -> Word:
    return Word(
        "model-not-allowed",
        f"a pod of namespace {namespace} names {model}, which prewarm_allow does not allow it: it is not fetched",
        warning=True,
    )


def _not_in_memory(report: CacheReport) -> dict[str, Word]:
    return {
        f"{model.model} page-cache": Word("model-not-in-memory", f"model {model.model}: {model.why_not}", warning=True)
        for model in report.page_cache.models
        if model.why_not is not None
    }


def _word(model: ModelReport) -> Word:
    what = f"model {model.repository} ({model.revision})"
    match model.state:
        case ModelState.READY if model.reason == "not-followed":
            return Word("model-not-followed", f"{what}: {model.message}", warning=True)
        case ModelState.READY:
            return Word("model-ready", f"{what} is on disk and verified")
        case ModelState.FAILED:
            return Word("model-failed", f"{what}: {model.message}", warning=True)
        case ModelState.FETCHING:
            return Word("model-fetching", f"{what} is being fetched")
        case ModelState.WAITING if model.reason == "fetch-token":
            return Word("model-waiting", f"{what} waits for its fetch token: {model.message}")
        case ModelState.WAITING:
            return Word("model-waiting", f"{what} waits for its turn")
