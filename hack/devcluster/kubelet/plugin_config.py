"""The configuration of NVIDIA's device plugin, version v1: what it says, what the plugin makes of it, what it refuses.

Known from the sources of k8s-device-plugin v0.15 to v0.18 (``api/config/v1``, ``internal/rm``, ``internal/plugin``):

* Fields that it does not know are ignored, and so are ``rename`` and ``devices`` of a resource, once they are well formed: all
  devices of a resource are shared, under its own name, or with ``renameByDefault`` under that name and ``.shared``.
* Where both ways of sharing are configured MPS counts and time-slicing is not looked at. With MPS nobody gets two replicas,
  whatever ``failRequestsGreaterThanOne`` says.
* Resources that the node does not have are passed over. Those that are not named are advertised as they are.
* Where anything is refused the plugin's process ends.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import yaml

Devices = Mapping[str, Sequence[str]]

STRATEGIES = ("none", "single", "mixed")
_PREFIX = "nvidia.com/"
_LONGEST_NAME = 63
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_DEVICE = re.compile(rf"\d+|\d+:\d+|(GPU|MIG)-{_UUID}|MIG-GPU-{_UUID}/\d+/\d+")
_MOST_MPS_CLIENTS = 48


class ConfigError(ValueError):
    """The plugin ends with this."""


@dataclass(frozen=True, slots=True)
class PluginConfig:
    """``strategy`` is empty where the file has none. ``replicas``: resource name to how many; ``single_requests``: a container
    gets no more than one replica."""

    strategy: str = ""
    means: Literal["", "time-slicing", "mps"] = ""
    replicas: Mapping[str, int] | None = None
    renamed: bool = False
    single_requests: bool = False

    def shared(self, devices: Devices) -> Devices:
        """As they are advertised: each device of a shared resource under as many ids, ``<id>::<n>``. Raises ConfigError."""
        if self.means == "mps":
            self._assert_mps_can_be(devices)
        advertised: dict[str, list[str]] = {}
        for resource, ids in devices.items():
            count = (self.replicas or {}).get(resource)
            if count is None:
                advertised[resource] = list(ids)
                continue
            name = resource + ".shared" * self.renamed
            advertised[name] = [f"{device}::{number}" for device in ids for number in range(count)]
        return advertised

    def by_mps(self, advertised: Devices) -> list[str]:
        """The GPUs among these that are shared by MPS."""
        ids = (device.partition("::") for devices in advertised.values() for device in devices)
        return sorted({uuid for uuid, replica, _ in ids if replica}) if self.means == "mps" else []

    def _assert_mps_can_be(self, devices: Devices) -> None:
        if any(device.startswith("MIG-") for ids in devices.values() for device in ids):
            raise ConfigError("sharing using MPS is not supported for MIG devices")
        for resource, count in (self.replicas or {}).items():
            if devices.get(resource) and count > _MOST_MPS_CLIENTS:
                # The daemon's words; the plugin waits for the daemon and registers nothing.
                why = f"invalid device maximum allowed replicas exceeded: {count} > {_MOST_MPS_CLIENTS}"
                raise ConfigError(f"invalid MPS configuration: {why}")


def read_config(text: str) -> PluginConfig:
    """Raises ConfigError. An empty text configures nothing."""
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"error parsing config file: unmarshal error: {error}") from error
    config = _mapping(config, "the file")
    if _text(config.get("version"), "version") not in ("", "v1"):
        raise ConfigError(f"unknown version: {config['version']}")
    strategy = _text(_mapping(config.get("flags"), "flags").get("migStrategy"), "migStrategy")
    if strategy not in ("", *STRATEGIES):
        raise ConfigError(f"unknown strategy: {strategy}")
    sharing = _mapping(config.get("sharing"), "sharing")
    # A field that is there with nothing in it is one without resources; that of MPS alone may be null.
    sliced = _replicated(sharing["timeSlicing"]) if "timeSlicing" in sharing else None
    by_mps = _replicated(sharing["mps"]) if sharing.get("mps") is not None else None
    if by_mps is not None:
        return PluginConfig(strategy, "mps", *by_mps, single_requests=True)
    if sliced is not None:
        single = _flag(sharing["timeSlicing"], "failRequestsGreaterThanOne")
        return PluginConfig(strategy, "time-slicing", *sliced, single_requests=single)
    return PluginConfig(strategy)


def _replicated(section: Any) -> tuple[dict[str, int], bool]:
    """Replicas by resource name, and whether they are renamed."""
    section = _mapping(section, "sharing")
    _flag(section, "failRequestsGreaterThanOne")
    resources = section.get("resources")
    if not resources:
        raise ConfigError("no resources specified")
    if not isinstance(resources, list):
        raise ConfigError("resources is not a list")
    replicas: dict[str, int] = {}
    for resource in resources:
        entry = _mapping(resource, "a resource")
        replicas[_resource_name(entry, "name")] = _replicas(entry)
    return replicas, _flag(section, "renameByDefault")


def _replicas(entry: Mapping[str, Any]) -> int:
    _assert_devices(entry.get("devices", "all"))
    if "rename" in entry:
        _resource_name(entry, "rename")
    if "replicas" not in entry:
        raise ConfigError("no replicas specified")
    count = entry["replicas"]
    if not isinstance(count, int) or isinstance(count, bool):
        raise ConfigError(f"replicas is not a number: {count!r}")
    if count < 2:
        raise ConfigError("number of replicas must be >= 2")
    return count


def _resource_name(entry: Mapping[str, Any], field: str) -> str:
    given = _text(entry.get(field), field)
    if field not in entry:
        raise ConfigError(f"no resource {field} specified")
    name = given if given.startswith(_PREFIX) else _PREFIX + given
    if len(name) > _LONGEST_NAME:
        raise ConfigError(f"fully-qualified resource name must be {_LONGEST_NAME} characters or less: {name}")
    if not _SUBDOMAIN.fullmatch(name.removeprefix(_PREFIX)):
        raise ConfigError(f"incorrect format for resource name '{name}'")
    return name


def _assert_devices(devices: Any) -> None:
    """``all``, how many, or which."""
    if devices == "all" or (isinstance(devices, int) and not isinstance(devices, bool) and devices > 0):
        return
    if isinstance(devices, list) and all(_DEVICE.fullmatch(str(device)) for device in devices):
        return
    raise ConfigError(f"unrecognized devices spec: {devices!r}")


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigError(f"error parsing config file: unmarshal error: {what} is not a mapping")
    return value


def _text(value: Any, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ConfigError(f"error parsing config file: unmarshal error: {what} is not a string")
    return value


def _flag(section: Mapping[str, Any], what: str) -> bool:
    value = section.get(what)
    if value is not None and not isinstance(value, bool):
        raise ConfigError(f"error parsing config file: unmarshal error: {what} is not a boolean")
    return bool(value)
