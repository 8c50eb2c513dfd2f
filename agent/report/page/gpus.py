"""Each GPU drawn as its memory slices, now and, where a change concerns it, afterwards. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model.overview import (
    FreeRun,
    Load,
    Overview,
    PlannedSlot,
    ShownDevice,
    ShownGpu,
    ShownInstance,
    ShownPartition,
)
from agent.report.page.markup import Child, Html, joined, tag
from agent.report.page.parts import gauge, icon, nothing, of_memory, per_cent, pods, section

MOST_SLICES = 16
"""So many memory slices the style sheet can place; the boards known have 8 or fewer."""


def gpus(overview: Overview) -> Html:
    """All GPUs of the node."""
    partition = overview.partition
    if partition is None:
        here = any(one.role == "partition" and one.state == "here" for one in overview.containers)
        words = "Nobody has looked at them yet." if here else "The container partition has them, on its own page."
        return section("gpus", "GPUs", nothing(words))
    if not partition.gpus:
        return section("gpus", "GPUs", nothing(partition.error or "There are none that could be read."))
    unsampled = tag("p", icon("wait"), f"No load is measured: {partition.unsampled}", class_="note")
    heading = _in_all(partition)
    return section(
        "gpus", "GPUs", unsampled if partition.unsampled else None, *map(_gpu, partition.gpus), aside=heading
    )


def _in_all(partition: ShownPartition) -> Html:
    cut = sum(len(gpu.instances) for gpu in partition.gpus if not gpu.down)
    held = sum(any(device.pods for device in one.devices) for gpu in partition.gpus for one in gpu.instances)
    lost = sum(bool(gpu.down) for gpu in partition.gpus)
    words = [_count(len(partition.gpus), "GPU")]
    if cut:
        words.append(f"{_count(cut, 'slice')}, {held} held")
    if lost:
        words.append(f"{lost} cannot be read")
    return tag("p", " · ".join(words), class_="aside")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _gpu(gpu: ShownGpu) -> Html:
    head = tag("header", tag("h3", f"GPU {gpu.index}"), _name(gpu), _facts(gpu))
    return tag("article", head, *_errors(gpu), *_body(gpu), class_="gpu down" if gpu.down else "gpu")


def _name(gpu: ShownGpu) -> Html:
    mig = {"on": "MIG on", "off": "MIG off", "none": "no MIG", "unknown": ""}[gpu.mig]
    return tag(
        "p",
        tag("span", gpu.name or "unknown model"),
        tag("span", mig, class_="chip") if mig else None,
        tag("code", gpu.uuid, class_="uuid"),
        class_="what",
    )


def _facts(gpu: ShownGpu) -> Html | None:
    facts: list[Child] = []
    if gpu.temperature_celsius is not None:
        facts.append(tag("span", f"{gpu.temperature_celsius:.0f} °C", title="temperature"))
    if gpu.power_watts is not None:
        facts.append(tag("span", f"{gpu.power_watts:.0f} W", title="power"))
    return tag("p", *facts, class_="facts") if facts else None


def _errors(gpu: ShownGpu) -> Iterator[Html]:
    if gpu.down:
        yield tag("p", icon("bad"), tag("strong", "This GPU cannot be read. "), gpu.down, class_="note bad")
    for xid in gpu.xids:
        where = f" in GPU instance {xid.gpu_instance}" if xid.gpu_instance is not None else ""
        times = f", {xid.count} times" if xid.count > 1 else ""
        yield tag("p", icon("wait"), f"The driver reported Xid {xid.number}{where}{times}.", class_="note wait")
    if gpu.ecc_uncorrected:
        memory = f"Memory errors that ECC could not correct: {gpu.ecc_uncorrected}."
        yield tag("p", icon("bad"), memory, class_="note bad")


def _body(gpu: ShownGpu) -> Iterator[Html]:
    if gpu.down:
        yield tag("div", tag("p", icon("bad"), "no answer"), class_="lost")
    elif gpu.mig == "on" and 0 < gpu.memory_slices <= MOST_SLICES:
        yield _slices(gpu)
    else:
        yield tag("div", *_whole(gpu), class_="slices n1")
    if gpu.planned is not None and not gpu.down:
        yield _afterwards(gpu)


def _slices(gpu: ShownGpu) -> Html:
    places = [(one.start, _instance(one)) for one in gpu.instances] + [(one.start, _free(one)) for one in gpu.free]
    drawn = [html for _, html in sorted(places, key=lambda place: place[0])]
    label = f"{gpu.memory_slices} memory slices of GPU {gpu.index}"
    return tag("ol", *drawn, class_=f"slices n{gpu.memory_slices}", aria_label=label)


def _place(start: int, size: int) -> str:
    return f"at{start} of{size}"


def _where(start: int, size: int) -> str:
    return f"memory slice {start}" if size == 1 else f"memory slices {start} to {start + size - 1}"


def _instance(one: ShownInstance) -> Html:
    held = any(device.pods for device in one.devices)
    kind = "orphan" if not one.devices else "held" if held else "unheld"
    fate = {"stays": None, "goes": "goes", "changes": "is cut anew"}[one.fate]
    head = tag(
        "p",
        tag("strong", one.profile),
        tag("span", fate, class_="fate") if fate else None,
        tag("span", f"@{one.start}:{one.size}", class_="at", title=_where(one.start, one.size)),
        class_="head",
    )
    classes = f"slice {kind} {_place(one.start, one.size)}" + (" goes" if one.fate != "stays" else "")
    load = tag("div", *_load(one.load), class_="gaugebox")
    return tag("li", head, *_holders(one.devices, one.profile), load, class_=classes)


def _holders(devices: tuple[ShownDevice, ...], profile: str) -> Iterator[Html]:
    if not devices:
        yield tag("p", "has no compute instance: nobody can use it", class_="none")
    for device in devices:
        part = tag("p", device.name, class_="part") if device.name != profile else None
        yield joined(part, pods(device.pods) if device.pods else tag("p", "no pod", class_="none"))


def _load(load: Load) -> Iterator[Html]:
    if load.utilization is not None:
        yield gauge("load", per_cent(load.utilization), load.utilization, "load", "load of the graphics engines")
    used, total = load.memory_used_bytes, load.memory_total_bytes
    if used is not None:
        yield gauge("memory", of_memory(used, total), used / total if total else None, "memory", "memory in use")


def _free(run: FreeRun) -> Html:
    head = tag(
        "p",
        tag("strong", "free" if run.fits else "left over"),
        tag("span", f"@{run.start}:{run.size}", class_="at", title=_where(run.start, run.size)),
        class_="head",
    )
    words = f"room for {run.fits}" if run.fits else "no profile fits"
    classes = f"slice {'free' if run.fits else 'over'} {_place(run.start, run.size)}"
    return tag("li", head, tag("p", words, class_="none"), class_=classes)


def _whole(gpu: ShownGpu) -> Iterator[Html]:
    head = tag("p", tag("strong", "whole GPU"), class_="head")
    holders = pods(gpu.pods) if gpu.pods else tag("p", "no pod", class_="none")
    kind = "held" if gpu.pods else "unheld"
    yield tag("div", head, holders, tag("div", *_load(gpu.load), class_="gauges"), class_=f"slice {kind} whole at0 of1")


def _afterwards(gpu: ShownGpu) -> Html:
    words = {"": "then", "on": "then, MIG on", "off": "then, MIG off"}[gpu.mode_after]
    label = tag("p", words, class_="then")
    slots = gpu.planned or ()
    if not slots or not 0 < gpu.memory_slices <= MOST_SLICES:
        left = ", ".join(f"{slot.profile}@{slot.start}:{slot.size}" for slot in slots) or "no slices"
        return tag("div", label, tag("p", left, class_="none"), class_="after")
    drawn = [_slot(slot) for slot in slots]
    return tag("div", label, tag("ol", *drawn, class_=f"slices slim n{gpu.memory_slices}"), class_="after")


def _slot(slot: PlannedSlot) -> Html:
    new = tag("span", "new", class_="fate") if slot.new else None
    classes = f"slice {'new' if slot.new else 'kept'} {_place(slot.start, slot.size)}"
    return tag("li", tag("p", tag("strong", slot.profile), new, class_="head"), class_=classes)
