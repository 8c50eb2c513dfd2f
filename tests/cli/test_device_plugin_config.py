"""`warmslice layouts --device-plugin-config`: what the device plugin needs for the shared layouts of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.cli import main

SHARED = Path(__file__).parents[1] / "data" / "shared_layouts.yaml"


def _printed(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert main(["layouts", "--device-plugin-config", str(file)]) == 0
    found: dict[str, Any] = yaml.safe_load(capsys.readouterr().out)
    return found


def test_an_entry_is_a_configuration_in_the_plugins_own_format(capsys: pytest.CaptureFixture[str]) -> None:
    config_map = _printed(SHARED, capsys)
    assert (config_map["apiVersion"], config_map["kind"]) == ("v1", "ConfigMap")
    entries = {name: yaml.safe_load(text) for name, text in config_map["data"].items()}
    assert entries["warmslice-time-slicing_1g.10gb-4"] == {
        "version": "v1",
        "flags": {"migStrategy": "mixed"},
        "sharing": {
            "timeSlicing": {
                "renameByDefault": False,
                "failRequestsGreaterThanOne": True,
                "resources": [{"name": "nvidia.com/mig-1g.10gb", "replicas": 4}],
            }
        },
    }
    mps = entries["warmslice-single-mps_gpu-8"]
    assert mps["flags"] == {"migStrategy": "single"}
    assert list(mps["sharing"]) == ["mps"]
    assert mps["sharing"]["mps"]["resources"] == [{"name": "nvidia.com/gpu", "replicas": 8}]


def test_a_node_without_a_label_has_an_entry_too(capsys: pytest.CaptureFixture[str]) -> None:
    """The plugin's config-manager fails where it finds neither a default nor an only entry."""
    assert yaml.safe_load(_printed(SHARED, capsys)["data"]["default"]) == {"version": "v1"}


def test_names_are_keys_of_a_configmap_and_values_of_a_label(capsys: pytest.CaptureFixture[str]) -> None:
    for name in _printed(SHARED, capsys)["data"]:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-_.")
        assert len(name) <= 63
        assert name[-1].isalnum()


def test_a_file_with_a_layout_that_cannot_be_shared_gives_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "layouts.yaml"
    entry = (
        "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 7}, sharing: {strategy: mps, replicas: {1g.10gb: 4}}}"
    )
    file.write_text(f"version: v1\nmig-configs:\n  mine: [{entry}]\n", "utf-8")
    assert main(["layouts", "--device-plugin-config", str(file)]) == 2
    assert "layout 'mine': MPS cannot share slices" in capsys.readouterr().err
    assert main(["check", str(file)]) == 1
    said = capsys.readouterr().out
    assert "layout 'mine': MPS cannot share slices" in said
    assert "1 layouts, 1 refused" in said
