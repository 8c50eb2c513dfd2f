"""When modes wait for a reboot of the machine. See Note [What only a reboot brings] in model/reboot.py.

# Note [One reboot for one wish]
# The boot from which a reboot is asked for is written on the node before the command runs. A kill in between has the command
# run by the next start, one after it too, unless it was written down that it ran: it may run twice in one boot, and a boot
# ends once. In the boot that follows the modes are in force, or the reboot was useless and is not asked for again. A command
# that worked in a machine that has not gone in time is not asked again in the same boot either: it may go at any moment, or in
# tonight's window, and each try would cost the pods of the node once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.model.desired import Desired, Refusal, Wish
from agent.model.mig import GpuWish
from agent.model.operation import Operation
from agent.model.reboot import RebootRecord
from agent.model.report import NodeStatus
from agent.model.snapshot import Snapshot
from agent.model.steps import AnnounceReboot, Change, GpuChange, Outcome, Plan, Reboot, Step, Turn, Waiting
from agent.plan.way import DONE, Policy

_LEAVES_PENDING = frozenset({"reboot-required", "reboot-failed"})
"""Ends that leave a mode to whoever reboots the machine."""


def met(operation: Operation, wish: Wish, seen: Snapshot, gpu: str, enabled: bool) -> Operation:
    """The operation once it is known that only a reboot brings that mode of that GPU."""
    operation, record, boot = operation.towards(wish), operation.reboot, seen.node.boot_id
    if (
        record is not None
        and isinstance(wish, Desired)
        and not operation.failure
        and _was_rebooted_for(operation, boot)
    ):
        useless = RebootRecord(operation.revision, boot, {gpu: enabled}, record.asked_in, useless=True)
        return replace(operation.failed(_useless(seen, useless), "reboot-did-not-help"), reboot=useless)
    if record is None or record.boot_id != boot:
        record = RebootRecord(operation.revision, boot)
    record = replace(record, revision=operation.revision, modes={**record.modes, gpu: enabled})
    return replace(operation, reboot=record)


def at_reboot(seen: Snapshot, policy: Policy, operation: Operation, change: Change) -> Outcome | None:
    """What to do where modes of the way forward wait for a reboot; None where none does, or others have to be asked first."""
    record, modes = operation.reboot, _held_up(operation, seen, change)
    if record is None or not modes or _unasked(change, modes):
        return None
    if not policy.reboots:
        return Plan(change, (Turn(operation.failed(_required(seen, modes), "reboot-required")),))
    # The wish may be another one than that which met the mode, or asked for the reboot, first.
    if is_under_way(operation, seen):
        return Plan(change, (Turn(replace(operation, reboot=replace(record, revision=operation.revision))),))
    asked = replace(record, revision=operation.revision, asked_in=seen.node.boot_id, asked=seen.now, called=False)
    announced = replace(operation, reboot=asked)
    return Plan(change, (AnnounceReboot(announced, _asks(seen, modes)), *_run(announced, asked)))


def is_under_way(operation: Operation, seen: Snapshot) -> bool:
    """Whether this operation has asked for the end of this boot."""
    record = operation.reboot
    return record is not None and record.asked is not None and record.boot_id == seen.node.boot_id


def under_way(wish: Wish, seen: Snapshot, policy: Policy, operation: Operation) -> Outcome | None:
    """What to do while the end of this boot has been asked for; None where it has not, or nothing waits for it any more.

    Nobody turns back from here for what is seen of a machine that goes down: GPUs that do not answer, pods that come late, a
    file that cannot be read.
    """
    record = operation.reboot
    stands = wish.revision == operation.revision if isinstance(wish, Desired) else _is_unreadable(wish)
    modes = _waiting(record, seen)
    if record is None or record.asked is None or operation.failure or not (stands and modes):
        return None
    if seen.now - record.asked >= policy.reboot_seconds:
        failure = f"{_not_gone(policy)}; {_pending(seen, modes)}"
        return Plan(DONE, (Turn(operation.failed(failure, "reboot-failed")),))
    if not record.called:
        return Plan(DONE, _run(operation, record))
    return Waiting("rebooting", _asks(seen, modes), DONE)


def _is_unreadable(wish: Wish) -> bool:
    return isinstance(wish, Refusal) and wish.reason == "layouts-unreadable"


def yet_to_ask(operation: Operation, seen: Snapshot, change: Change) -> Change:
    """The change without what has to wait: while a reboot is ahead nothing is made, and no mode is asked twice."""
    modes = _held_up(operation, seen, change)
    return replace(change, gpus=_unasked(change, modes)) if modes else change


def _left_pending(wish: Wish, operation: Operation, seen: Snapshot) -> Mapping[str, bool]:
    """Modes that stay pending on the way back, since the wish for them stands."""
    stands = isinstance(wish, Desired) and wish.revision == operation.revision
    if not (stands and operation.failure and operation.failure_reason in _LEAVES_PENDING):
        return {}
    return _waiting(operation.reboot, seen)


def ways_back(wish: Wish, operation: Operation, seen: Snapshot) -> Mapping[str, GpuWish]:
    """What is asked of each GPU on the way back. One whose old mode comes with the next reboot alone is left to that."""
    back = operation.way_back(_left_pending(wish, operation, seen))
    late = _late(operation, seen)
    return {uuid: one for uuid, one in back.items() if uuid not in late}


def but_for(operation: Operation, seen: Snapshot) -> str:
    """What of the old layout is not back yet, since only the next reboot brings it."""
    late = _late(operation, seen)
    return f" but for {_pending(seen, late)}" if late else ""


def has_come(wish: Wish, operation: Operation, seen: Snapshot) -> bool:
    """The machine was rebooted while the operation went back for want of that: it goes forward again."""
    record = operation.reboot
    stands = isinstance(wish, Desired) and wish.revision == operation.revision
    given_up = bool(operation.failure) and operation.failure_reason in _LEAVES_PENDING
    return stands and given_up and record is not None and record.boot_id != seen.node.boot_id


def still_required(
    wish: Desired, seen: Snapshot, policy: Policy, last: NodeStatus | None, ideal: Change
) -> Refusal | None:
    """Why the wish is not tried again: nothing has changed since only a reboot was left, or since one did not help."""
    record = last.reboot if last is not None else None
    if record is None or record.revision != wish.revision:
        return None
    wanted = {gpu.gpu: gpu.mode for gpu in ideal.gpus if gpu.switches}
    if not any(wanted.get(uuid) == mode for uuid, mode in record.modes.items()):
        return None
    if record.useless:
        reason, why = "reboot-did-not-help", _useless(seen, record)
    elif _waiting(record, seen) != record.modes:
        return None
    elif not policy.reboots:
        reason, why = "reboot-required", _required(seen, record.modes)
    elif record.called and record.asked_in == seen.node.boot_id:
        reason, why = "reboot-failed", f"{_not_gone(policy)}; {_pending(seen, record.modes)}"
    else:
        return None
    # What the change said when it ended says more.
    said = last is not None and (last.state, last.reason) == ("failed", reason)
    return Refusal(reason, last.message if last is not None and said else why, wish.layout)


def remembered(wish: Desired, last: NodeStatus | None) -> RebootRecord | None:
    """What a change begins with: from which boot this wish has asked for a reboot before, and whether that was useless."""
    record = last.reboot if last is not None else None
    if record is None or record.revision != wish.revision:
        return None
    return replace(record, asked=None, called=False)


def kept(wish: Wish, operation: Operation, seen: Snapshot, last: NodeStatus | None) -> RebootRecord | None:
    """What the status keeps of a change that ended without success: the modes of ours that wait for a reboot, and in which boot
    this wish asked for one."""
    before = last.reboot if last is not None else None
    record = operation.reboot or before
    if record is None:
        return None
    stands = isinstance(wish, Desired) and wish.revision == record.revision
    if record.useless and stands:
        return record
    late = _late(operation, seen)
    waiting = {uuid: mode for uuid, mode in _waiting(operation.reboot, seen).items() if uuid not in late}
    modes = {**left_by_us(seen, last), **waiting}
    if not modes and not stands:
        return None
    called = record.called and operation.failure_reason in _LEAVES_PENDING
    # A reboot that was asked for in this boot, and for which nothing waits any more, has been called off.
    asked_in = record.asked_in if modes or record.asked_in != seen.node.boot_id else ""
    return replace(record, boot_id=seen.node.boot_id, modes=modes, asked_in=asked_in, asked=None, called=called)


def left_by_us(seen: Snapshot, last: NodeStatus | None) -> Mapping[str, bool]:
    """Modes that a change of ours left pending, and that still are: also past a reboot that did not bring them."""
    return last.reboot.pending_in(seen.gpus) if last is not None and last.reboot is not None else {}


def is_another_boot(seen: Snapshot, last: NodeStatus) -> bool:
    """Whether the boot in which a mode was given up on is over."""
    return last.reboot is not None and last.reboot.boot_id != seen.node.boot_id


def _was_rebooted_for(operation: Operation, boot: str) -> bool:
    record = operation.reboot
    return record is not None and record.revision == operation.revision and record.asked_in not in ("", boot)


def _run(operation: Operation, record: RebootRecord) -> tuple[Step, ...]:
    return Reboot(), Turn(replace(operation, reboot=replace(record, called=True)))


def _waiting(record: RebootRecord | None, seen: Snapshot) -> dict[str, bool]:
    """The modes of the record that wait for the end of this boot."""
    if record is None or record.boot_id != seen.node.boot_id:
        return {}
    return record.pending_in(seen.gpus)


def _late(operation: Operation, seen: Snapshot) -> dict[str, bool]:
    """The modes of before that come back with the next reboot alone."""
    before = {uuid: one.mig_enabled for uuid, one in operation.before.items()}
    return {uuid: mode for uuid, mode in _waiting(operation.reboot, seen).items() if before.get(uuid) == mode}


def _held_up(operation: Operation, seen: Snapshot, change: Change) -> dict[str, bool]:
    """The modes of this change that wait."""
    modes = _waiting(operation.reboot, seen)
    return {gpu.gpu: gpu.mode for gpu in change.gpus if gpu.mode is not None and modes.get(gpu.gpu) == gpu.mode}


def _unasked(change: Change, modes: Mapping[str, bool]) -> tuple[GpuChange, ...]:
    """The GPUs whose mode has to change and does not wait yet."""
    return tuple(gpu for gpu in change.gpus if gpu.mode is not None and modes.get(gpu.gpu) != gpu.mode)


def _asks(seen: Snapshot, modes: Mapping[str, bool]) -> str:
    return f"reboot_command is to reboot this machine: {_pending(seen, modes)}"


def _not_gone(policy: Policy) -> str:
    return f"the machine has not gone {policy.reboot_seconds:.0f} s after reboot_command"


def _required(seen: Snapshot, modes: Mapping[str, bool]) -> str:
    return f"{_pending(seen, modes)}: reboot it, or set reboot_command"


def _pending(seen: Snapshot, modes: Mapping[str, bool]) -> str:
    return f"{_words(seen, modes)} is pending and comes into force at the next reboot of this machine"


def _useless(seen: Snapshot, record: RebootRecord) -> str:
    return (
        f"{_words(seen, record.modes)} is not in force after a reboot that was to bring it, and would need another one: "
        "switch it by hand, or ask for another layout"
    )


def _words(seen: Snapshot, modes: Mapping[str, bool]) -> str:
    """GPU 0, 2: MIG on; GPU 1: MIG off."""
    index = {gpu.uuid: gpu.index for gpu in seen.gpus}
    parts = []
    for mode in (True, False):
        named = ", ".join(
            str(number) for number in sorted(index.get(uuid, -1) for uuid in modes if modes[uuid] is mode)
        )
        if named:
            parts.append(f"GPU {named}: MIG {'on' if mode else 'off'}")
    return "; ".join(parts)
