"""``python -m hack.devcluster.kubelet --kubeconfig FILE --node NAME --run-dir DIR``: one simulated kubelet."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path

from hack.devcluster.kubelet.kubelet import Kubelet
from hack.devcluster.kubelet.plugin_config import STRATEGIES
from hack.devcluster.kubelet.settings import KubeletSettings
from hack.devcluster.lifeline import die_with_parent
from hack.devcluster.objects import Object


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.parent_pid:
        die_with_parent(options.parent_pid)
    _log_to_standard_error(options.node)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(settings_from(options)))
    return 0


def _log_to_standard_error(node: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"kubelet {node} %(message)s %(error)s", defaults={"error": ""}))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


async def _run(settings: KubeletSettings) -> None:
    task = asyncio.create_task(Kubelet(settings).run())
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def settings_from(options: argparse.Namespace) -> KubeletSettings:
    return KubeletSettings(
        kubeconfig=options.kubeconfig,
        node=options.node,
        run_dir=options.run_dir.absolute(),
        simgpu_dir=options.simgpu_dir and options.simgpu_dir.absolute(),
        simgpu_state=options.simgpu_state and options.simgpu_state.absolute(),
        devices_file=options.devices_file,
        plugin_needs_pod=not options.plugin_without_pod,
        uses_dra=options.dra,
        lifeline=options.lifeline,
        labels=dict(label.split("=", 1) for label in options.label),
        taints=tuple(_taint(text) for text in options.register_with_taints.split(",") if text),
        status_interval_s=options.status_interval,
        mig_strategy=options.mig_strategy,
        plugin_start_s=options.plugin_start,
        mps_start_s=options.mps_start,
        config_sync_s=options.config_sync,
        image_pull_s=options.image_pull,
        pod_start_s=options.pod_start,
        pod_stop_s=options.pod_stop,
    )


def _taint(text: str) -> Object:
    """``key=value:Effect`` or ``key:Effect``."""
    name, effect = text.rsplit(":", 1)
    key, _, value = name.partition("=")
    return {"key": key, "effect": effect} | ({"value": value} if value else {})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.devcluster.kubelet", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True, help="how to reach the API server")
    parser.add_argument("--node", required=True)
    parser.add_argument("--parent-pid", type=int, default=0, help="end when this parent process ends")
    parser.add_argument("--lifeline", type=Path, help="FIFO held open by the owner of the pods' processes")
    parser.add_argument("--run-dir", type=Path, required=True, help="checkpoint and pod-resources/kubelet.sock")
    add_node_options(parser)
    return parser


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """Options that a whole cluster passes on to each of its kubelets."""
    state = os.environ.get("SIMGPU_STATE")
    parser.add_argument("--simgpu-dir", type=Path, help="folder with libnvidia-ml.so.1 and simgpu")
    parser.add_argument("--simgpu-state", type=Path, default=Path(state) if state else None)
    parser.add_argument("--devices-file", type=Path, help="JSON of what the plugin or driver offers, not NVML")
    parser.add_argument("--plugin-without-pod", action="store_true", help="advertise devices without its DaemonSet")
    parser.add_argument(
        "--dra", action="store_true", help="offer devices by NVIDIA's DRA driver, not its device plugin"
    )
    parser.add_argument("--label", action="append", default=[], metavar="KEY=VALUE", help="of a new node")
    parser.add_argument("--register-with-taints", default="", metavar="KEY=VALUE:EFFECT,...")
    parser.add_argument("--status-interval", type=float, default=10.0, metavar="SECONDS")
    parser.add_argument(
        "--mig-strategy",
        choices=(*STRATEGIES, ""),
        default="mixed",
        help="the plugin's flag; empty: what its configuration says",
    )
    parser.add_argument("--plugin-start", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--mps-start", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument(
        "--config-sync", type=float, default=60.0, metavar="SECONDS", help="until a changed ConfigMap is in its volume"
    )
    parser.add_argument("--image-pull", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--pod-start", type=float, default=0.3, metavar="SECONDS")
    parser.add_argument("--pod-stop", type=float, default=0.1, metavar="SECONDS")


if __name__ == "__main__":
    raise SystemExit(main())
