"""The file that NVIDIA's device plugin reads: what it takes, what it ends of, and that ours is one."""

from __future__ import annotations

import pytest
import yaml

from agent.model.sharing import Sharing
from agent.report.plugin_config import config_map
from hack.devcluster.kubelet.config_manager import ConfigSource, EntryError
from hack.devcluster.kubelet.plugin_config import ConfigError, PluginConfig, read_config

GPU = "nvidia.com/gpu"
SMALL = "nvidia.com/mig-1g.10gb"


def shared_by(means: str, *resources: str, more: str = "") -> str:
    return f"sharing: {{{means}: {{{more}resources: [{', '.join(resources)}]}}}}"


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ("", PluginConfig()),
        ("version: v1", PluginConfig()),
        ("{version: '', flags: null, sharing: {}}", PluginConfig()),
        ("flags: {migStrategy: single, plugin: {passDeviceSpecs: 1}}", PluginConfig("single")),
        ("{resources: {gpus: 7}, tomorrow: yes, sharing: {other: 1, mps: null}}", PluginConfig()),
        (shared_by("timeSlicing", "{name: gpu, replicas: 2}"), PluginConfig("", "time-slicing", {GPU: 2})),
        (
            shared_by("timeSlicing", f"{{name: {SMALL}, replicas: 3, devices: [0, '1:2'], rename: mine, why: not}}"),
            PluginConfig("", "time-slicing", {SMALL: 3}),
        ),
        (
            shared_by("timeSlicing", "{name: gpu, replicas: 2}", more="renameByDefault: true, "),
            PluginConfig("", "time-slicing", {GPU: 2}, renamed=True),
        ),
        (
            shared_by("mps", "{name: gpu, replicas: 8}", more="failRequestsGreaterThanOne: false, "),
            PluginConfig("", "mps", {GPU: 8}, single_requests=True),
        ),
    ],
)
def test_what_the_plugin_takes(text: str, config: PluginConfig) -> None:
    assert read_config(text) == config


def test_where_both_ways_are_configured_mps_counts() -> None:
    both = "{mps: {resources: [{name: gpu, replicas: 8}]}, timeSlicing: {resources: [{name: gpu, replicas: 2}]}}"
    assert read_config(f"sharing: {both}") == PluginConfig("", "mps", {GPU: 8}, single_requests=True)


@pytest.mark.parametrize(
    "text",
    [
        "version: v2",
        "version: 1",
        "- version: v1",
        "{version",
        "flags: {migStrategy: both}",
        "flags: {migStrategy: 1}",
        "sharing: {timeSlicing: null}",
        "sharing: {timeSlicing: {}}",
        "sharing: {timeSlicing: {resources: []}}",
        "sharing: {mps: {resources: [{name: gpu, replicas: 8}]}, timeSlicing: {}}",
        shared_by("timeSlicing", "{replicas: 2}"),
        shared_by("timeSlicing", "{name: gpu}"),
        shared_by("timeSlicing", "{name: gpu, replicas: 1}"),
        shared_by("timeSlicing", "{name: gpu, replicas: two}"),
        shared_by("timeSlicing", "{name: GPU, replicas: 2}"),
        shared_by("timeSlicing", f"{{name: {'g' * 60}, replicas: 2}}"),
        shared_by("timeSlicing", "{name: gpu, replicas: 2, devices: some}"),
        shared_by("timeSlicing", "{name: gpu, replicas: 2, devices: 0}"),
        shared_by("timeSlicing", "{name: gpu, replicas: 2, devices: [first]}"),
        shared_by("timeSlicing", "{name: gpu, replicas: 2, rename: '?'}"),
        shared_by("timeSlicing", "{name: gpu, replicas: 2}", more="renameByDefault: 1, "),
        shared_by("mps", "{name: gpu, replicas: 2}", more="failRequestsGreaterThanOne: 'no', "),
    ],
)
def test_what_ends_the_plugin(text: str) -> None:
    with pytest.raises(ConfigError):
        read_config(text)


def test_an_mps_server_has_48_clients_at_most() -> None:
    devices = {GPU: ["GPU-a"]}
    assert len(read_config(shared_by("mps", "{name: gpu, replicas: 48}")).shared(devices)[GPU]) == 48
    many = read_config(shared_by("mps", "{name: gpu, replicas: 49}"))
    with pytest.raises(ConfigError, match="49 > 48"):
        many.shared(devices)


def test_of_what_a_node_has_not_the_configuration_may_say_anything() -> None:
    config = read_config(shared_by("timeSlicing", "{name: mig-9g.90gb, replicas: 2}", "{name: gpu, replicas: 2}"))
    assert config.shared({SMALL: ["MIG-a"], GPU: ["GPU-a"]}) == {SMALL: ["MIG-a"], GPU: ["GPU-a::0", "GPU-a::1"]}


@pytest.mark.parametrize(
    "sharing",
    [
        Sharing("time-slicing", (("1c.2g.20gb", 2), ("1g.10gb", 4), ("1g.10gb.me", 3))),
        Sharing("mps", (("gpu", 8),), "none"),
        Sharing("time-slicing", (("gpu", 5),), "single"),
    ],
)
def test_what_the_agent_prints_says_to_the_plugin_what_its_name_says(sharing: Sharing) -> None:
    entries = yaml.safe_load(config_map([sharing]))["data"]
    config = read_config(entries[sharing.entry])
    assert (config.means, config.replicas) == (sharing.means, sharing.resources)
    assert (config.strategy, config.renamed, config.single_requests) == (sharing.strategy, False, True)
    assert read_config(entries["default"]) == PluginConfig()


@pytest.mark.parametrize(
    ("source", "label", "names", "chosen"),
    [
        (ConfigSource("ns", "c"), "a", "a b", "a"),
        (ConfigSource("ns", "c", "b", ("empty",)), "", "a b", "b"),
        (ConfigSource("ns", "c", "", ("named", "single", "empty")), "", "a default", "default"),
        (ConfigSource("ns", "c", "", ("named", "single", "empty")), "", "a", "a"),
        (ConfigSource("ns", "c", "", ("named", "single", "empty")), "", "a b", ""),
        (ConfigSource("ns", "c", "", ("empty",)), "c", "a b", None),
        (ConfigSource("ns", "c", "c", ("empty",)), "", "a b", None),
        (ConfigSource("ns", "c", "", ("named", "single")), "", "a b", None),
        (ConfigSource("ns", "c", "", ("empty",)), "", "", None),
    ],
)
def test_which_entry_config_manager_takes(source: ConfigSource, label: str, names: str, chosen: str | None) -> None:
    entries = dict.fromkeys(names.split(), "")
    if chosen is not None:
        assert source.choose(label, entries) == chosen
        return
    with pytest.raises(EntryError):
        source.choose(label, entries)
