"""What is asked of the node and how it stands; what it waits for; the change under way with its steps. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.overview import (
    Overview,
    PodInTheWay,
    ShownChange,
    ShownContainer,
    ShownLayout,
    ShownStep,
    Stage,
    Wait,
)
from agent.report.page.markup import Html, joined, tag
from agent.report.page.parts import Tone, icon, moment, nothing, pill, section

_TONES: dict[str, Tone] = {"success": "good", "pending": "busy", "failed": "bad", "rebooting": "busy"}
_WAITING_FOR_SOMEBODY = frozenset(
    {"blocked", "budget", "job-running", "second-owner", "operation-unreadable", "refused", "gpu-unknown", "fault"}
)
_STAGES: tuple[tuple[Stage, str], ...] = (
    ("planned", "planned"),
    ("draining", "pods move"),
    ("cutting", "slices are cut"),
    ("advertising", "node shows them"),
)
_STEP_TONES: dict[str, Tone] = {"done": "good", "doing": "busy", "to do": "quiet"}


def status(overview: Overview) -> Html:
    """The layout and what it waits for, the gate, and the agent's containers."""
    wait = overview.partition.wait if overview.partition is not None else None
    return section(
        "status",
        "Layout",
        *_layout(overview),
        _wait(wait, overview) if wait is not None else None,
        _gate(overview),
        _containers(overview),
        aside=_schedulable(overview.cordoned),
    )


def _schedulable(cordoned: bool | None) -> Html | None:
    if cordoned is None:
        return None
    return pill("wait", "node is cordoned") if cordoned else tag("p", "node takes pods", class_="aside")


def _layout(overview: Overview) -> Iterator[Html]:
    partition = overview.partition
    if partition is None:
        own = any(one.role == "partition" and one.state == "here" for one in overview.containers)
        yield nothing("No look at the node yet." if own else "The container partition has it, on its own page.")
        return
    if partition.error:
        yield tag(
            "p", icon("bad"), tag("strong", "The last look failed. "), partition.error, class_="note bad", role="status"
        )
    if partition.layout is None:
        yield nothing("No layout is asked of this node." if partition.looked else "No look at the GPUs yet.")
    else:
        cutting = partition.change is not None and bool(partition.change.steps)
        yield _asked(partition.layout, overview.at, cutting)


def _asked(layout: ShownLayout, now: float, cutting: bool) -> Html:
    """While slices are cut, what the node says is of the wait before; the steps say more."""
    tone: Tone = _TONES[layout.state]
    if layout.state == "pending" and layout.reason in _WAITING_FOR_SOMEBODY:
        tone = "wait"
    facts = []
    if not cutting:
        facts.append(tag("div", tag("dt", "since"), tag("dd", moment(layout.since, now))))
        facts.append(tag("div", tag("dt", "reason"), tag("dd", tag("code", layout.reason))))
    if layout.next_try is not None:
        words = f" (failed {layout.attempts} times)" if layout.attempts > 1 else ""
        facts.append(tag("div", tag("dt", "next try"), tag("dd", moment(layout.next_try, now), words)))
    if layout.schedule is not None:
        named = f"{layout.schedule.name}: {layout.schedule.period}, until "
        facts.append(
            tag("div", tag("dt", "schedule"), tag("dd", named, moment(layout.schedule.until, now), class_="wide"))
        )
    head = tag(
        "p", pill(tone, layout.state), tag("strong", layout.layout or "no layout", class_="wish"), class_="asked"
    )
    message = tag("p", layout.message if not cutting else "slices are being cut", class_="message", role="status")
    return joined(head, message, tag("dl", *facts, class_="facts") if facts else None)


def _gate(overview: Overview) -> Html | None:
    gate = overview.gate
    if gate is None:
        return None
    return tag(
        "p",
        icon("wait"),
        tag("strong", "The start-up gate is shut. "),
        f"{gate.message or gate.waits_for}. Since ",
        moment(gate.since, overview.at),
        "; it opens at the latest ",
        moment(gate.opens, overview.at),
        ".",
        class_="note wait",
    )


def _containers(overview: Overview) -> Html:
    return tag("ul", *(_container(one, overview) for one in overview.containers), class_="containers")


def _container(one: ShownContainer, overview: Overview) -> Html:
    name = tag("strong", one.role)
    match one.state:
        case "away":
            since = moment(one.since, overview.at) if one.since is not None else None
            words = joined(f"the {one.role} container does not answer, since ", since, f": {one.why}")
            return tag("li", icon("bad"), name, tag("span", words), class_="bad")
        case "elsewhere":
            return tag("li", icon("quiet"), name, tag("span", "runs in another container"))
        case "here" | "answers":
            looked = _looked(one, overview)
            last = joined("last look ", moment(looked, overview.at)) if looked else "not looked yet"
            if one.lacks:
                return tag("li", icon("wait"), name, tag("span", f"not ready: {'; '.join(one.lacks)} · ", last))
            return tag("li", icon("good"), name, tag("span", "ready · ", last))


def _looked(one: ShownContainer, overview: Overview) -> float | None:
    if one.role == "partition":
        return overview.partition.looked if overview.partition is not None else None
    return overview.cache.looked if overview.cache is not None else None


def change(overview: Overview) -> Html:
    """What is being done, or waits to be; empty where nothing is."""
    partition = overview.partition
    if partition is None or partition.change is None:
        return Html("")
    return _under_way(partition.change, overview.at)


def _wait(wait: Wait, overview: Overview) -> Html | None:
    """Said once: where the layout's own words are those of the wait, only the pods are left to name."""
    layout = overview.partition.layout if overview.partition is not None else None
    told = layout is not None and (layout.reason, layout.message) == (wait.reason, wait.message)
    if told and not wait.pods:
        return None
    tone: Tone = "wait" if wait.reason in _WAITING_FOR_SOMEBODY else "busy"
    since = tag("span", "since ", moment(wait.since, overview.at), class_="aside")
    words = [pill(tone, wait.reason), since]
    head = tag(
        "p", tag("strong", "Waits for" if not told else "In the way"), *(words if not told else [since]), class_="asked"
    )
    message = tag("p", wait.message, class_="message") if not told else None
    return tag("div", head, message, _in_the_way(wait.pods) if wait.pods else None, class_="waits")


def _in_the_way(pods: tuple[PodInTheWay, ...]) -> Html:
    heads = tag("tr", *(tag("th", words, scope="col") for words in ("pod", "belongs to", "disruption budget")))
    rows = [
        tag(
            "tr",
            tag("td", f"{pod.namespace}/{pod.pod}"),
            tag("td", pod.owner or "nobody"),
            tag("td", ", ".join(pod.budgets) or "none"),
        )
        for pod in pods
    ]
    return tag("div", tag("table", tag("thead", heads), tag("tbody", *rows)), class_="scroll")


def _under_way(change: ShownChange, now: float) -> Html:
    title = "Going back" if change.back else "Planned change" if change.stage == "planned" else "Change under way"
    since = tag("p", "begun ", moment(change.started, now), class_="aside") if change.started is not None else None
    body = [_stages(change)]
    if change.failure:
        body.append(tag("p", icon("bad"), tag("strong", "The way forward failed. "), change.failure, class_="note bad"))
    if change.summary:
        body.append(tag("p", change.summary, class_="message"))
    if change.moves:
        names = [tag("li", name) for name in change.moves]
        body.append(joined(tag("h3", "pods that move"), tag("ul", *names, class_="pods row")))
    if change.steps:
        body.append(joined(tag("h3", "steps"), tag("ol", *map(_step, change.steps), class_="steps")))
    return section("change", title, *body, aside=since)


def _stages(change: ShownChange) -> Html:
    reached = next(number for number, (stage, _) in enumerate(_STAGES) if stage == change.stage)
    drawn = []
    for number, (_, words) in enumerate(_STAGES):
        state = "done" if number < reached else "doing" if number == reached else "to do"
        current = "step" if state == "doing" else None
        drawn.append(
            tag(
                "li",
                icon(_STEP_TONES[state]),
                tag("span", words),
                tag("span", f" ({state})", class_="unseen"),
                class_=state.replace(" ", "-"),
                aria_current=current,
            )
        )
    return tag("ol", *drawn, class_="stages", aria_label="how far the change is")


def _step(step: ShownStep) -> Html:
    return tag(
        "li",
        icon(_STEP_TONES[step.state]),
        tag("span", step.words),
        tag("span", step.state, class_="state"),
        class_=step.state.replace(" ", "-"),
    )
