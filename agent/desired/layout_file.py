"""The layouts file: mig-parted's format, version v1, taken as it is."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from agent.desired.inline import Ask, parse_profile
from agent.model.errors import BadInputError
from agent.model.mig import Gpu
from agent.model.text import read_yaml

_FILTER = re.compile(r"0x[0-9A-Fa-f]{8}(:0x[0-9A-Fa-f]{8})?")


class Entry(msgspec.Struct, frozen=True, rename="kebab", forbid_unknown_fields=True):
    """What some of the node's GPUs should be. ``mig_devices`` maps a profile to how many of it."""

    devices: Literal["all"] | list[int]
    mig_enabled: bool
    mig_devices: dict[str, int] = {}
    device_filter: str | list[str] = []

    def names(self, gpu: Gpu) -> bool:
        """Whether the entry speaks of this GPU."""
        listed = self.devices == "all" or gpu.index in self.devices
        return listed and (not self.filters or any(_matches(one, gpu) for one in self.filters))

    @property
    def filters(self) -> list[str]:
        """The device filter as a list."""
        return [self.device_filter] if isinstance(self.device_filter, str) else self.device_filter

    def asks(self, where: str) -> tuple[Ask, ...]:
        """The profiles asked for; a count of zero asks for nothing."""
        return tuple(parse_profile(name, count, where) for name, count in self.mig_devices.items() if count)


Layouts = Mapping[str, tuple[Entry, ...]]


def parse_layouts(text: str, source: str) -> Layouts:
    """Named layouts of a mig-parted v1 file. BadInputError says where the mistake is and what would be right."""
    document = _document(text, source)
    unknown = [name for name in document if name not in {"version", "mig-configs"}]
    if unknown:
        raise BadInputError(f"{source}: unknown field {unknown[0]!r}; a layouts file has 'version' and 'mig-configs'")
    if document.get("version") != "v1":
        raise BadInputError(f"{source}: version is {document.get('version')!r}; it must be v1")
    configs = document.get("mig-configs")
    if not isinstance(configs, dict):
        raise BadInputError(f"{source}: mig-configs must map names to lists of entries")
    return {str(name): _entries(entries, f"{source}: mig-configs.{name}") for name, entries in configs.items()}


def _document(text: str, source: str) -> dict[str, Any]:
    try:
        document = read_yaml(text)
    except BadInputError as error:
        raise BadInputError(f"{source}: {error}") from error
    if not isinstance(document, dict):
        raise BadInputError(f"{source}: expected a mapping with 'version' and 'mig-configs'")
    return document


def _entries(raw: object, where: str) -> tuple[Entry, ...]:
    if not isinstance(raw, list) or not raw:
        raise BadInputError(f"{where}: must be a list with at least one entry")
    return tuple(_entry(item, f"{where}[{number}]") for number, item in enumerate(raw))


def _entry(raw: object, where: str) -> Entry:
    try:
        entry = msgspec.convert(raw, Entry)
    except msgspec.ValidationError as error:
        raise BadInputError(f"{where}: {error}") from error
    for name, count in entry.mig_devices.items():
        if count < 0:
            raise BadInputError(f"{where}: mig-devices.{name} is {count}; a count is 0 or more")
    for one in entry.filters:
        if not _FILTER.fullmatch(one):
            raise BadInputError(f"{where}: device-filter {one!r} is not 0x<device><vendor> such as 0x233010DE")
    if not entry.mig_enabled and any(entry.mig_devices.values()):
        raise BadInputError(f"{where}: mig-devices are asked for with mig-enabled: false; it must be true")
    entry.asks(where)
    return entry


def _matches(one: str, gpu: Gpu) -> bool:
    device, _, subsystem = one.partition(":")
    if device.lower() != gpu.pci_device_id.lower():
        return False
    return not subsystem or subsystem.lower() == gpu.pci_subsystem_id.lower()
