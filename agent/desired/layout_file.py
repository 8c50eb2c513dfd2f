"""The layouts file: mig-parted's format, version v1, taken as it is; an entry may have one field more, ``sharing``, and the file
one section more, ``schedules``.

It is read whole and every mistake in it is found, with its place: `warmslice check` says them all, the agent the first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, Literal, get_args

import msgspec

from agent.desired.inline import MOST, Ask, parse_profile
from agent.model.errors import BadInputError
from agent.model.mig import Gpu
from agent.model.schedule import Period, Schedule
from agent.model.sharing import WHOLE, Means
from agent.model.text import Marked, Mistake, NotYamlError, Path, field_of, read_marked
from agent.model.wall import days_of, minutes_of, zone_of

_FILTER = re.compile(r"0x[0-9A-Fa-f]{8}(:0x[0-9A-Fa-f]{8})?")
_FIELDS = ("version", "mig-configs")
_SCHEDULES = "schedules"
_SHARING = ("strategy", "replicas")
_MEANS: tuple[str, ...] = get_args(Means)


class Share(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the device plugin shall share what the entry makes. ``replicas`` maps a profile, or ``gpu``, to how many share one."""

    strategy: Means
    replicas: dict[str, int]

    @property
    def each(self) -> dict[str, int]:
        """Replicas by what the device plugin calls it."""
        return {plugin_name(name): count for name, count in self.replicas.items()}


class Entry(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """What some of the node's GPUs should be. ``mig_devices`` maps a profile to how many of it."""

    devices: Literal["all"] | list[int]
    mig_enabled: bool
    mig_devices: dict[str, int] = {}
    device_filter: str | list[str] = []
    sharing: Share | None = None

    def names(self, gpu: Gpu) -> bool:
        """Whether the entry speaks of this GPU, or may: a GPU that was never read passes every filter."""
        listed = self.devices == "all" or gpu.index in self.devices
        return listed and (not self.filters or gpu.never_read or any(_matches(one, gpu) for one in self.filters))

    @property
    def filters(self) -> list[str]:
        """The device filter as a list."""
        return [self.device_filter] if isinstance(self.device_filter, str) else self.device_filter

    def asks(self, where: str) -> tuple[Ask, ...]:
        """The profiles asked for; a count of zero asks for nothing."""
        return tuple(parse_profile(name, count, where) for name, count in self.mig_devices.items() if count)

    @property
    def makes(self) -> tuple[str, ...]:
        """What the device plugin calls the things that the entry makes."""
        if not self.mig_enabled:
            return (WHOLE,)
        return tuple(plugin_name(name) for name, count in self.mig_devices.items() if count)


Layouts = Mapping[str, tuple[Entry, ...]]
Schedules = Mapping[str, Schedule]


def parse_layouts(text: str, source: str) -> Layouts:
    """Named layouts of a mig-parted v1 file. BadInputError says where the first mistake is and what would be right."""
    read = read_layouts(text)
    if read.mistakes:
        raise BadInputError(read.mistakes[0].at(source))
    return read.layouts


@dataclass(frozen=True, slots=True)
class LayoutFile:
    """What the file says, and every mistake in it from its top to its end. With a mistake the rest is not to be used."""

    layouts: Layouts
    schedules: Schedules
    mistakes: tuple[Mistake, ...] = ()


@lru_cache(maxsize=2)
def read_layouts(text: str) -> LayoutFile:
    """Every pass of the agent reads the file; it is parsed when it has changed."""
    try:
        marked = read_marked(text)
    except NotYamlError as error:
        return LayoutFile({}, {}, (error.mistake,))
    reader = _Reader(marked)
    layouts, schedules = reader.layouts(), reader.schedules()
    return LayoutFile(MappingProxyType(layouts), MappingProxyType(schedules), tuple(sorted(reader.mistakes)))


class _Reader:
    """Goes through one document and collects its mistakes."""

    def __init__(self, marked: Marked) -> None:
        self.mistakes = list(marked.repeated)
        self._marked = marked

    def layouts(self) -> Layouts:
        """The layouts; what has mistakes is not in it."""
        document = self._marked.value
        if not isinstance(document, dict):
            self._wrong((), "expected a mapping with 'version' and 'mig-configs'")
            return {}
        known = (*_FIELDS, _SCHEDULES)
        self._fields((), document, known, "a layouts file has 'version' and 'mig-configs', and may have 'schedules'")
        if document.get("version", "v1") != "v1":
            self._value(("version",), document["version"], "it must be v1")
        configs = document.get("mig-configs", {})
        if not isinstance(configs, dict):
            self._wrong(("mig-configs",), "mig-configs must map names to lists of entries")
            return {}
        return {str(name): self._entries(("mig-configs", name), raw) for name, raw in configs.items()}

    def schedules(self) -> Schedules:
        """The schedules; what has mistakes is not in it."""
        document = self._marked.value if isinstance(self._marked.value, dict) else {}
        found = document.get(_SCHEDULES, {})
        if not isinstance(found, dict):
            self._value((_SCHEDULES,), found, "it must map names to schedules")
            return {}
        layouts = document.get("mig-configs", {})
        read = {str(name): self._schedule((_SCHEDULES, name), raw, layouts) for name, raw in found.items()}
        return {name: schedule for name, schedule in read.items() if schedule is not None}

    def _schedule(self, path: Path, raw: object, layouts: object) -> Schedule | None:
        if not isinstance(raw, dict) or not isinstance(raw.get("periods"), dict) or not raw["periods"]:
            self._value(path, raw, "it must be a mapping with periods (a mapping of names) and, if need be, time-zone")
            return None
        before = len(self.mistakes)
        if isinstance(layouts, dict) and path[-1] in layouts:
            self._wrong(path, f"{_field(path)}: mig-configs has a layout of that name; give it another", key=True)
        self._fields(path, raw, ("time-zone", "periods"), "a schedule has time-zone and periods", required=("periods",))
        zone = zone_of(str(raw.get("time-zone", "UTC")))
        if zone is None:
            right = "this system knows no such zone; write one such as Europe/Berlin"
            self._value((*path, "time-zone"), raw["time-zone"], right)
        if len(raw["periods"]) < 2:
            self._wrong(
                (*path, "periods"), f"{_field((*path, 'periods'))}: one period is no schedule; it needs two or more"
            )
        periods = [self._period((*path, "periods", name), one) for name, one in raw["periods"].items()]
        self._apart((*path, "periods"), [period for period in periods if period is not None])
        if zone is None or len(self.mistakes) > before:
            return None
        return Schedule(str(path[-1]), zone, tuple(period for period in periods if period is not None))

    def _period(self, path: Path, raw: object) -> Period | None:
        fields = ("from", "layout")
        if not isinstance(raw, dict):
            self._value(
                path, raw, "it must be a mapping with from and layout, such as {from: '07:00', layout: 7x1g.10gb}"
            )
            return None
        before = len(self.mistakes)
        self._fields(path, raw, fields, f"a period has {' and '.join(fields)}", required=fields)
        days, _, at = str(raw.get("from", "00:00")).rpartition(" ")
        start, on = minutes_of(at), days_of(days or None)
        if start is None or not on:
            right = "it must be a time, with days before it if need be, such as '07:00' or 'Mon-Fri 07:00', in quotes"
            self._value((*path, "from"), raw["from"], right)
        if not isinstance(raw.get("layout", ""), str) or raw.get("layout") == "":
            self._value((*path, "layout"), raw["layout"], "it must name a layout, as a node's label would")
        if start is None or len(self.mistakes) > before:
            return None
        return Period(str(path[-1]), on, start, raw["layout"])

    def _apart(self, path: Path, periods: list[Period]) -> None:
        """No two begin at the same time of one day."""
        for number, one in enumerate(periods):
            for other in periods[:number]:
                if one.start == other.start and one.days & other.days:
                    where = (*path, one.name)
                    self._wrong(where, f"{_field(where)} begins when {other.name} does; let one begin later", key=True)

    def _entries(self, path: Path, raw: object) -> tuple[Entry, ...]:
        if not isinstance(raw, list) or not raw:
            self._value(path, raw, "it must be a list with at least one entry")
            return ()
        found = [self._entry((*path, number), item) for number, item in enumerate(raw)]
        return tuple(entry for entry in found if entry is not None)

    def _entry(self, path: Path, raw: object) -> Entry | None:
        if not isinstance(raw, dict):
            self._value(path, raw, "it must be a mapping with devices and mig-enabled")
            return None
        before = len(self.mistakes)
        known = Entry.__struct_encode_fields__
        self._fields(path, raw, known, f"an entry has {', '.join(known)}", required=("devices", "mig-enabled"))
        self._devices((*path, "devices"), raw.get("devices", "all"))
        self._filter((*path, "device-filter"), raw.get("device-filter", []))
        self._mig_devices((*path, "mig-devices"), raw.get("mig-devices", {}))
        self._mig_enabled(path, raw)
        self._sharing((*path, "sharing"), raw)
        if len(self.mistakes) > before:
            return None
        try:
            return msgspec.convert(raw, Entry)
        except msgspec.ValidationError as error:
            self._wrong(path, f"{_field(path)}: {error}")
            return None

    def _fields(
        self,
        path: Path,
        raw: Mapping[Any, Any],
        known: tuple[str, ...],
        right: str,
        required: tuple[str, ...] = _FIELDS,
    ) -> None:
        where = f"{_field(path)}: " if path else ""
        for name in raw:
            if name not in known:
                self._wrong((*path, name), f"{where}unknown field {name!r}; {right}", key=True)
        for name in required:
            if name not in raw:
                self._wrong(path, f"{where}{name} is missing; {right}")

    def _devices(self, path: Path, value: object) -> None:
        if value == "all":
            return
        if not isinstance(value, list):
            self._value(path, value, "it must be all or a list of indices such as [0, 1]")
            return
        for number, index in enumerate(value):
            if not _is_count(index):
                self._value((*path, number), index, "an index is a whole number, 0 or more")
            elif index in value[:number]:
                self._value((*path, number), index, "that index stands in the list before: remove one")

    def _filter(self, path: Path, value: object) -> None:
        listed = isinstance(value, list)
        for number, one in enumerate(value if isinstance(value, list) else [value]):
            if not isinstance(one, str) or not _FILTER.fullmatch(one):
                where = (*path, number) if listed else path
                self._value(where, one, "it must be 0x<device><vendor> such as 0x233010DE, in quotes")

    def _mig_enabled(self, path: Path, raw: Mapping[Any, Any]) -> None:
        enabled, asked = raw.get("mig-enabled", True), raw.get("mig-devices")
        if not isinstance(enabled, bool):
            self._value((*path, "mig-enabled"), enabled, "it must be true or false")
        elif not enabled and isinstance(asked, dict) and any(asked.values()):
            where = (*path, "mig-devices")
            self._wrong(where, f"{_field(where)} are asked for with mig-enabled: false; it must be true", key=True)

    def _mig_devices(self, path: Path, value: object) -> None:
        if not isinstance(value, dict):
            self._value(path, value, "it must map profiles to counts, such as {1g.10gb: 7}")
            return
        for name, count in value.items():
            try:
                parse_profile(str(name), 1, _field(path))
            except BadInputError as error:
                self._wrong((*path, name), str(error), key=True)
            if not _is_count(count) or count > MOST:
                self._value((*path, name), count, f"a count is a whole number, 0 to {MOST}")

    def _sharing(self, path: Path, raw: Mapping[Any, Any]) -> None:
        """What is shared has to be there: a profile of the entry, or the whole GPU where MIG is off."""
        if "sharing" not in raw:
            return
        value = raw["sharing"]
        if not isinstance(value, dict):
            self._value(path, value, "it must be a mapping with strategy and replicas")
            return
        self._fields(path, value, _SHARING, f"sharing has {' and '.join(_SHARING)}", required=_SHARING)
        if value.get("strategy", _MEANS[0]) not in _MEANS:
            self._value((*path, "strategy"), value["strategy"], f"it must be {' or '.join(_MEANS)}")
        replicas = value.get("replicas", {WHOLE: 2})
        if not isinstance(replicas, dict) or not replicas:
            self._value((*path, "replicas"), replicas, "it must map profiles (or gpu) to counts, such as {1g.10gb: 4}")
        elif "replicas" in value:
            for name, count in replicas.items():
                self._replicas((*path, "replicas", name), str(name), count, raw)

    def _replicas(self, path: Path, name: str, count: object, raw: Mapping[Any, Any]) -> None:
        if not _is_count(count) or count in (0, 1):
            self._value(path, count, "replicas are a whole number, 2 or more")
        if name == WHOLE:
            if raw.get("mig-enabled") is True:
                self._wrong(
                    path, f"{_field(path)}: with mig-enabled: true no GPU is whole; name the profiles", key=True
                )
            return
        try:
            shared = plugin_name(name)
            there = {plugin_name(str(one)) for one, number in dict(raw.get("mig-devices") or {}).items() if number}
        except BadInputError as error:
            self._wrong(path, f"{_field(path)}: {error}; a whole GPU is gpu", key=True)
        except (TypeError, ValueError):
            return  # What is wrong with mig-devices is said there.
        else:
            if shared not in there:
                made = ", ".join(sorted(there)) or "whole GPUs alone"
                self._wrong(path, f"{_field(path)}: the entry makes no {name}; it makes {made}", key=True)

    def _value(self, path: Path, value: object, right: str) -> None:
        shown = (
            "a mapping" if isinstance(value, dict) else "a list" if value and isinstance(value, list) else repr(value)
        )
        self._wrong(path, f"{_field(path)} is {shown}; {right}")

    def _wrong(self, path: Path, sentence: str, key: bool = False) -> None:
        self.mistakes.append(self._marked.mistake(path, sentence, key))


def plugin_name(profile: str) -> str:
    """What the device plugin calls a profile (``1g.10gb.me``, ``1c.2g.20gb``), or a whole GPU. BadInputError for neither."""
    if profile == WHOLE:
        return WHOLE
    ask = parse_profile(profile, 1, "replicas")
    part = "" if ask.compute is None else f"{ask.compute}c."
    return part + ask.profile.replace("+", ".")


def _field(path: Path) -> str:
    """Names of layouts are keys."""
    return field_of(path, keys=2)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _matches(one: str, gpu: Gpu) -> bool:
    device, _, subsystem = one.partition(":")
    if device.lower() != gpu.pci_device_id.lower():
        return False
    return not subsystem or subsystem.lower() == gpu.pci_subsystem_id.lower()
