"""Whether the start-up gate opens. See Note [The start-up gate] in model/gate.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agent.model import labels
from agent.model.cache import ModelState
from agent.model.errors import BadInputError
from agent.model.gate import ForgetGate, Gate, GateOutcome, Lack, NoteGate, OpenGate
from agent.model.labels import MODEL_PREFIX, asked_layout
from agent.model.mig import Slot
from agent.model.node import Node
from agent.model.report import NodeStatus
from agent.plan.advertise import shows_at_least


@dataclass(frozen=True, slots=True)
class GateSeen:
    """What is decided on. ``node`` has the boot id by the kernel's word; ``driver``: NVIDIA's DRA driver runs here. ``gated`` are
    the gated models that this node wants; ``refusal`` says why they are not known, where they are not."""

    now: float
    node: Node
    driver: bool
    gated: Mapping[str, ModelState]
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class GateRules:
    """What the settings say. The gate is open ``seconds`` after it was first seen, whatever is missing."""

    label_key: str
    seconds: float


def decide_gate(seen: GateSeen, rules: GateRules) -> GateOutcome:
    """The outcome of this look."""
    written = seen.node.annotations.get(labels.GATE)
    if not seen.node.gated:
        return GateOutcome(ForgetGate() if written is not None else None)
    record = Gate.from_json(written or "null")
    # A record from the future says nothing: a clock that was wrong would keep the node shut.
    since = record.since if record is not None and record.since <= seen.now else seen.now
    lacks = tuple(lacking(seen, rules))
    waited = seen.now - since
    if not lacks:
        return GateOutcome(OpenGate("ready", f"{_in_place(seen, rules)}; pods may come, after {waited:.0f} s", since))
    if waited >= rules.seconds:
        missing = "; ".join(lack.detail for lack in lacks)
        return GateOutcome(OpenGate("deadline", f"pods may come after {waited:.0f} s, although {missing}", since))
    now = Gate(since, lacks[0].reason, lacks[0].message)
    return GateOutcome(None if now == record else NoteGate(now), lacks, rules.seconds - waited)


def lacking(seen: GateSeen, rules: GateRules) -> Iterator[Lack]:
    """What is missing, in the order in which it comes."""
    asked = asked_layout(seen.node.labels, rules.label_key)
    status = NodeStatus.from_json(seen.node.annotations.get(labels.STATUS, "null"))
    if asked and (status is None or not _is_applied(asked, status, seen.node)):
        stands = f": {status.state}, {status.reason}" if status is not None else ""
        words = f"layout {asked!r} is not applied in this boot"
        yield Lack("layout", f"{words}; {labels.STATUS} says how it stands", f"{words}{stands}")
    elif asked and status is not None and not seen.driver and not _is_shown(status, seen.node):
        words = f"allocatable does not show the slices of layout {asked!r}"
        shown = ", ".join(f"{count} {name}" for name, count in sorted(seen.node.allocatable.items()) if count)
        yield Lack("allocatable", words, f"{words}, but {shown or 'no GPU'}")
    if seen.refusal:
        yield Lack("catalog", seen.refusal, seen.refusal)
    late = {name: state for name, state in seen.gated.items() if state is not ModelState.READY}
    if late:
        all_of_them = ", ".join(sorted(seen.gated))
        says = f"gated models are not all ready ({all_of_them}); {MODEL_PREFIX}<name> says how each stands"
        yield Lack("models", says, ", ".join(f"gated model {name} is {late[name].value}" for name in sorted(late)))


def _is_applied(asked: str, status: NodeStatus, node: Node) -> bool:
    of = status.schedule.name if status.schedule is not None else status.layout
    return (status.state, of) == ("success", asked) and status.boot_id == node.boot_id != ""


def _is_shown(status: NodeStatus, node: Node) -> bool:
    try:
        layouts = [tuple(map(Slot.parse, slots)) for slots in status.placements.values()]
    except BadInputError:
        return False
    return shows_at_least(node, layouts)


def _in_place(seen: GateSeen, rules: GateRules) -> str:
    asked = asked_layout(seen.node.labels, rules.label_key)
    words = [f"layout {asked!r} is applied and shown"] if asked else []
    words += [f"gated models are ready: {', '.join(sorted(seen.gated))}"] if seen.gated else []
    return ", ".join(words) or "nothing is asked of this node"
