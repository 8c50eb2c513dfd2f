"""Models on local disk, how far each is, and the disk they take. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.overview import Overview, ShownCache, ShownModel
from agent.report.page.markup import Child, Html, joined, tag
from agent.report.page.parts import Tone, bar, gauge, icon, moment, nothing, of_disk, per_cent, pill, section

_TONES: dict[str, Tone] = {"ready": "good", "fetching": "busy", "waiting": "quiet", "failed": "bad"}


def models(overview: Overview) -> Html:
    """The cache role's part."""
    cache = overview.cache
    if cache is None:
        return section("models", "Models", nothing(_why_not(overview)))
    ready = sum(model.state == "ready" for model in cache.models)
    body = [_disk(cache)]
    if cache.refusal:
        body.append(tag("p", icon("bad"), tag("strong", "Nothing is fetched. "), cache.refusal, class_="note bad"))
    if cache.over:
        body.append(tag("p", icon("wait"), cache.over, class_="note wait"))
    if cache.models:
        body.append(tag("ul", *(_model(model, overview.at) for model in cache.models), class_="models"))
    elif not cache.refusal:
        body.append(nothing("No model is wanted on this node."))
    aside = tag("p", f"{ready} of {len(cache.models)} ready", class_="aside") if cache.models else None
    return section("models", "Models", *body, aside=aside)


def _why_not(overview: Overview) -> str:
    state = next(one.state for one in overview.containers if one.role == "cache")
    return {
        "away": "The cache container does not answer.",
        "elsewhere": "The cache container has them.",
        "here": "Nobody has looked at the disk yet.",
        "answers": "The cache container has not looked at the disk yet.",
    }[state]


def _disk(cache: ShownCache) -> Html:
    gauges = []
    if cache.budget_bytes is not None:
        ratio = cache.used_bytes / cache.budget_bytes if cache.budget_bytes else 1.0
        words = f"{of_disk(cache.used_bytes)} of {of_disk(cache.budget_bytes)}"
        gauges.append(gauge("cache budget", words, ratio, "bad" if ratio > 1 else "memory"))
    else:
        gauges.append(gauge("cache", f"{of_disk(cache.used_bytes)}, no budget", None, "memory"))
    if cache.total_bytes:
        taken = cache.total_bytes - cache.free_bytes
        words = f"{of_disk(cache.free_bytes)} free of {of_disk(cache.total_bytes)}"
        gauges.append(gauge("file system", words, taken / cache.total_bytes, "memory"))
    return tag("div", *gauges, class_="gauges")


def _model(model: ShownModel, now: float) -> Html:
    named = model.repository + (f" ({model.revision})" if model.revision != "main" else "")
    head = tag("p", tag("strong", named), pill(_TONES[model.state], model.state), class_="head")
    facts = [tag("span", fact) for fact in _facts(model, now)]
    return tag("li", head, _progress(model), *_troubles(model, now), tag("p", *facts, class_="facts"))


def _progress(model: ShownModel) -> Html:
    ratio = model.fetched_bytes / model.size_bytes if model.size_bytes else 0.0
    if model.state == "ready":
        words: Child = of_disk(model.size_bytes)
    elif model.size_bytes:
        words = f"{of_disk(model.fetched_bytes)} of {of_disk(model.size_bytes)} · {per_cent(ratio)}"
    else:
        words = "size not known yet"
    shown = 1.0 if model.state == "ready" else ratio
    return tag(
        "div",
        bar(shown, _TONES[model.state]),
        tag("span", words, class_="value"),
        class_="progress",
        role="progressbar",
        aria_valuemin=0,
        aria_valuemax=100,
        aria_valuenow=round(100 * min(1.0, shown)),
        aria_label=f"how much of {model.repository} is on disk",
    )


def _troubles(model: ShownModel, now: float) -> Iterator[Html]:
    if model.message and (model.state == "failed" or model.reason == "not-followed"):
        tail = joined(" Next try ", moment(model.next_try, now), ".") if model.next_try is not None else None
        yield tag(
            "p",
            icon("bad"),
            tag("code", model.reason) if model.reason else None,
            f" {model.message}." if not model.message.endswith(".") else f" {model.message}",
            tail,
            class_="note bad",
        )
    if model.why_not_in_memory:
        yield tag("p", icon("wait"), model.why_not_in_memory, class_="note wait")


def _facts(model: ShownModel, now: float) -> Iterator[Child]:
    yield joined(f"{model.state} since ", moment(model.since, now))
    yield f"wanted by {model.because}"
    if model.gate:
        yield "a starting node waits for it"
    if model.in_memory_bytes is not None:
        yield f"{of_disk(model.in_memory_bytes)} in memory"
    if model.commit:
        yield joined("commit ", tag("code", model.commit[:12]))
