"""The configurations that NVIDIA's device plugin takes, as a ConfigMap. Pure text.

The format is the device plugin's own, version v1 (its README, "As a configuration file"). Flags and environment of the plugin
win over it, so a MIG strategy that GPU Operator sets stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.model.sharing import Sharing

_HEAD = """\
# Configurations of NVIDIA's device plugin, one for each sharing in the layouts file, by `warmslice layouts
# --device-plugin-config`. Name this ConfigMap to the plugin (GPU Operator: devicePlugin.config.name, Helm chart: config.name),
# or put its entries into the one that is named there. It belongs to the plugin's namespace.
apiVersion: v1
kind: ConfigMap
metadata:
  name: warmslice-device-plugin
data:
  # For a node whose label names none: nothing is shared.
  default: |
    version: v1
"""

_ENTRY = """\
  {entry}: |
    version: v1
    flags:
      migStrategy: {strategy}
    sharing:
      {means}:
        renameByDefault: false
        # Two replicas of one device are no more than one of them.
        failRequestsGreaterThanOne: true
        resources:
"""

_RESOURCE = """\
        - name: {name}
          replicas: {count}
"""

_FIELDS = {"time-slicing": "timeSlicing", "mps": "mps"}


def config_map(sharings: Iterable[Sharing]) -> str:
    """The ConfigMap that has an entry for each of these."""
    return _HEAD + "".join(map(_entry, sharings))


def _entry(sharing: Sharing) -> str:
    head = _ENTRY.format(entry=sharing.entry, strategy=sharing.strategy, means=_FIELDS[sharing.means])
    return head + "".join(_RESOURCE.format(name=name, count=count) for name, count in sharing.resources.items())
