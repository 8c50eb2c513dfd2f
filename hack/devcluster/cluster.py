"""The whole cluster as one command: the control plane here, one kubelet process per node."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
from collections.abc import Sequence
from pathlib import Path

from hack.devcluster.control_plane import ControlPlane, write_kubeconfig


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    options.run_dir.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.devcluster", description=__doc__)
    parser.add_argument("--run-dir", type=Path, required=True, help="where the kubeconfig and the sockets go")
    parser.add_argument("--port", type=int, default=0, help="of the API server; 0 takes a free one")
    return parser


async def _run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ControlPlane(port=options.port) as control_plane:
        kubeconfig = options.run_dir / "kubeconfig"
        write_kubeconfig(kubeconfig, control_plane.url)
        print(f"{control_plane.url}\nexport KUBECONFIG={kubeconfig}", flush=True)
        await stop.wait()
