"""The server of MPS on a node's GPUs: a process that holds them, which nobody's pod is known to be.

By NVIDIA's documentation of MPS the control daemon starts it when the first client comes, and it owns the context on the GPU. It
stays when the clients have gone, until the daemon ends. The daemon is a pod of GPU Operator's that runs where the device plugin
does (``nvidia.com/gpu.deploy.device-plugin``) and MPS is configured; so it ends here with the plugin's pod, and with another way
of sharing. Clients are seen on the GPU beside their server, which NVML would not show, and outlive it.
"""

from __future__ import annotations

from collections.abc import Sequence

from hack.devcluster.kubelet.processes import PodProcesses, StartError

SERVER = "nvidia-cuda-mps-server"
_MEMORY_MIB = 30


class MpsServer:
    """``processes`` are of this server alone."""

    def __init__(self, processes: PodProcesses) -> None:
        self._processes = processes
        self._gpus: Sequence[str] = ()

    def restore(self) -> None:
        self._processes.restore()

    async def configure(self, gpus: Sequence[str]) -> None:
        """The GPUs that are shared by MPS from now on; without any the daemon ends, and its server with it."""
        self._gpus = tuple(gpus)
        if not gpus:
            await self._processes.stop(SERVER)

    async def client_came(self) -> None:
        if self._gpus:
            try:
                await self._processes.start(SERVER, self._gpus, _MEMORY_MIB)
            except StartError:
                return  # A GPU that has gone; the next client tries again.
