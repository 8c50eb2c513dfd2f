"""The journal of a change, kept on the node object.

It holds what cannot be observed: what was there before, and what we took over. What NVML, PodResources and the disk can
tell is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from agent.model import labels
from agent.model.desired import Desired, Wish
from agent.model.errors import BadInputError
from agent.model.mig import Gpu, GpuWish, Layout, Part
from agent.model.node import Node
from agent.model.reboot import RebootRecord


@dataclass(frozen=True, slots=True)
class Before:
    """One GPU as it was found. ``mig_pending`` None: not written down."""

    mig_enabled: bool
    slots: Layout
    mig_pending: bool | None = None

    def is_in(self, gpu: Gpu) -> bool:
        """Whether the GPU is so now."""
        return (
            gpu.mig_enabled == self.mig_enabled
            and self.mig_pending in (None, gpu.mig_pending)
            and gpu.layout == self.slots
            and len(gpu.instances) == len(self.slots)
        )


@dataclass(frozen=True, slots=True)
class Operation:
    """One change of the node, from begin to end.

    ``before`` has every GPU that was asked for since the begin, as it was then found; no other is touched, forward or back.
    ``cordoned``: we cordoned, so we uncordon. ``labels`` and ``annotations`` are the originals of what we changed, None for
    "was absent"; labels are in it only while paused. ``clients`` are the UIDs of the GPU clients' pods that ran at begin: one
    of them still running has not seen the new layout. ``touched``: from here on the hardware may have been changed.
    ``resumed``: after that the host followed the slices and the clients were let go on; what changes again unsets it.
    ``failure`` is set when the way forward failed: from then on the operation goes back to ``before``, and ends with
    ``failure_reason``. ``reboot``: modes that wait for the machine's. ``recordoned``:
    somebody uncordoned midway and we cordoned again, once. ``started`` is seconds since the epoch. ``plugin_config`` is the
    device plugin's configuration by its label, as found. ``strangers`` are the slices, by GPU, that somebody outside every
    pod held at begin: what holds one of them midway was not left by a pod that we evicted. ``given_up`` are GPUs that the
    operation ends without, by UUID with the reason: no other GPU has to wait for them. ``shares`` counts how often the device
    plugin's configuration was chosen. ``prepared`` is the boot in which the host's services let go of the GPUs for it, "" when
    they have not, or may have them again. ``plugin``: NVIDIA's device plugin ran, or was to run, when it began: that its pod is
    being replaced just now does not mean that there is none; ``driver`` says the same of NVIDIA's DRA driver.
    """

    id: str
    revision: str
    layout: str
    boot_id: str
    started: float
    cordoned: bool
    before: dict[str, Before]
    labels: dict[str, str | None] = field(default_factory=dict)
    annotations: dict[str, str | None] = field(default_factory=dict)
    clients: tuple[str, ...] = ()
    touched: bool = False
    resumed: bool = False
    failure: str = ""
    failure_reason: str = "rolled-back"
    reboot: RebootRecord | None = None
    recordoned: bool = False
    plugin_config: str | None = None
    strangers: dict[str, tuple[Part, ...]] = field(default_factory=dict)
    given_up: dict[str, str] = field(default_factory=dict)
    shares: int = 0
    prepared: str = ""
    plugin: bool = False
    driver: bool = False

    @property
    def begun_for(self) -> str:
        """The revision that it was begun for; it may go on to a newer one."""
        return self.id.rpartition("-")[0]

    def failed(self, message: str, reason: str) -> Operation:
        """The same operation on its way back."""
        return replace(self, failure=message, failure_reason=reason)

    def anew(self) -> Operation:
        """The same operation on its way forward again."""
        return replace(self, failure="", failure_reason="rolled-back", given_up={})

    def towards(self, wish: Wish) -> Operation:
        """The same operation on its way to that wish; going back it stays with the wish that failed."""
        if self.failure or not isinstance(wish, Desired):
            return self
        shares = self.shares if wish.revision == self.revision else 0
        return replace(self, revision=wish.revision, layout=wish.layout, shares=shares)

    def covering(self, wish: Wish, gpus: tuple[Gpu, ...]) -> Operation:
        """The same operation with the GPUs that the wish names and that it did not know yet, as they are found now."""
        asked = wish.wishes if isinstance(wish, Desired) and not self.failure else {}
        return replace(self, before={**found(asked, gpus), **self.before})

    def outlived_by(self, wish: Wish) -> bool:
        """Going back from a wish that nobody has any more: another one leads out of it."""
        return bool(self.failure) and isinstance(wish, Desired) and wish.revision != self.revision

    def way_back(self, left_pending: Mapping[str, bool]) -> Mapping[str, GpuWish]:
        """What has to be asked of each GPU to have again what was before, but for modes that stay pending: these, and those that
        were pending when the GPU was found."""
        return {
            uuid: GpuWish(
                before.mig_enabled,
                tuple(slot.shape for slot in before.slots),
                before.slots,
                left_pending.get(uuid, before.mig_pending),
            )
            for uuid, before in self.before.items()
        }

    def undone_in(self, gpus: tuple[Gpu, ...]) -> bool:
        """Whether every GPU of the operation is as it was found: nothing done yet, or all of it undone."""
        return not self.differing_in(gpus)

    def differing_in(self, gpus: tuple[Gpu, ...]) -> frozenset[str]:
        """UUIDs of the GPUs that are not as they were found; without those given up."""
        now = {gpu.uuid: gpu for gpu in gpus}
        return frozenset(
            uuid
            for uuid, before in self.before.items()
            if uuid not in self.given_up and not (uuid in now and before.is_in(now[uuid]))
        )

    def silent_in(self, gpus: tuple[Gpu, ...]) -> dict[str, str]:
        """Why GPUs of the operation cannot be read, by UUID; without those given up."""
        now = {gpu.uuid: gpu.unknown for gpu in gpus}
        why = {uuid: now.get(uuid, "it is not there any more") for uuid in self.before if uuid not in self.given_up}
        return {uuid: words for uuid, words in why.items() if words}

    def to_json(self) -> str:
        """As it stands in the annotation."""
        return msgspec.json.encode(self).decode()

    @classmethod
    def from_json(cls, text: str) -> Operation:
        """Read an annotation back. BadInputError when it is not ours any more: a person has to look."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise BadInputError(
                f"annotation warmslice.dev/operation cannot be read ({error}): "
                "put its last value back, or remove it after checking cordon and gpu.deploy labels by hand"
            ) from error


def found(asked: Iterable[str], gpus: tuple[Gpu, ...]) -> dict[str, Before]:
    """Those GPUs as they are found; one that does not answer is not in it."""
    named = frozenset(asked)
    return {
        gpu.uuid: Before(gpu.mig_enabled, gpu.layout, gpu.mig_pending)
        for gpu in gpus
        if gpu.uuid in named and gpu.mig_enabled is not None and not gpu.unknown
    }


def operation_on(node: Node) -> Operation | None:
    """The record that stands on a node; None where there is none. BadInputError where nobody can read it."""
    text = node.annotations.get(labels.OPERATION)
    return Operation.from_json(text) if text else None
