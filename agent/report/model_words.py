"""What is said of each model, and of the catalog, in words."""

from __future__ import annotations

from dataclasses import dataclass

from agent.model.cache import CacheReport, ModelReport, ModelState


@dataclass(frozen=True, slots=True)
class Word:
    """``reason`` is a word with dashes; ``warning`` means that somebody may have to act."""

    reason: str
    message: str
    warning: bool = False


def words_of(report: CacheReport) -> dict[str, Word]:
    """By model name; the catalog's refusal stands under ``catalog``, and then nothing is said of models."""
    if report.refusal is not None:
        return {"catalog": Word("catalog-refused", report.refusal, warning=True)}
    return {model.name: _word(model) for model in report.models}


def _word(model: ModelReport) -> Word:
    what = f"model {model.repository} ({model.revision})"
    match model.state:
        case ModelState.READY:
            return Word("model-ready", f"{what} is on disk and verified")
        case ModelState.FAILED:
            return Word("model-failed", f"{what}: {model.message}", warning=True)
        case ModelState.FETCHING:
            return Word("model-fetching", f"{what} is being fetched")
        case ModelState.WAITING:
            return Word("model-waiting", f"{what} waits for its turn")
