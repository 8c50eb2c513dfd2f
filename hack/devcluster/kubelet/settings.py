"""What a simulated kubelet is told at its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hack.devcluster.objects import Object


@dataclass(frozen=True, slots=True)
class KubeletSettings:
    """Times in seconds. The real kubelet reports changes of its node within 10 s and unchanged state every 5 minutes.

    ``devices_file``: JSON of resource name to device ids, read at each start of the device plugin, in place of NVML. For
    the DRA driver a list of devices as a ResourceSlice has them.
    ``plugin_needs_pod``: devices are advertised only while a pod of the device plugin's DaemonSet runs here.
    ``mig_strategy``: the flag of NVIDIA's plugin, ``none``, ``single`` or ``mixed``; empty where its configuration has it.
    ``plugin_start_s``: how long the plugin takes from its start to its registration; ``mps_start_s``: how much longer
    with MPS. ``config_sync_s``: how long a change of the plugin's ConfigMap may take to its volume.
    ``lists_finished_pods``, ``has_get``: PodResources as kubelets before 1.34, and with the feature ``Get`` off, serve it.
    ``uses_dra``: the node's devices are published by NVIDIA's DRA driver, in place of the device plugin; then the plugin's
    file, pod and start mean the driver's. ``dra_resync_s``: how long the driver takes to notice that its slices were
    changed; ``dra_wipe_s``: how long it may be away before the kubelet deletes them.
    ``crash_first_s``, ``crash_longest_s``: how long containers that ended by themselves wait for their second new start,
    and at most; doubled with each.
    ``lifeline``: FIFO that the owner of the pods' processes holds open; absent, they end with this kubelet.
    """

    kubeconfig: Path
    node: str
    run_dir: Path
    simgpu_dir: Path | None = None
    simgpu_state: Path | None = None
    devices_file: Path | None = None
    plugin_needs_pod: bool = True
    plugin_start_s: float = 0.0
    mig_strategy: str = "mixed"
    mps_start_s: float = 0.0
    config_sync_s: float = 60.0
    lists_finished_pods: bool = False
    has_get: bool = True
    pod_resources_per_s: float = 100.0
    pod_resources_burst: int = 10
    uses_dra: bool = False
    dra_devices_per_slice: int = 128
    dra_resync_s: float = 30.0
    dra_wipe_s: float = 30.0
    lifeline: Path | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Object, ...] = ()
    cpus: int = 64
    memory: str = "512Gi"
    status_interval_s: float = 10.0
    unchanged_status_interval_s: float = 300.0
    lease_interval_s: float = 10.0
    image_pull_s: float = 0.0
    pod_start_s: float = 0.3
    pod_stop_s: float = 0.1
    crash_first_s: float = 10.0
    crash_longest_s: float = 300.0

    @property
    def socket(self) -> Path:
        return self.run_dir / "pod-resources" / "kubelet.sock"

    def crash_wait_s(self, restarts: int) -> float:
        """After so many restarts; the first one follows at once."""
        return min(self.crash_first_s * 2 ** (restarts - 1), self.crash_longest_s) if restarts else 0.0
