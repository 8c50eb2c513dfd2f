"""``python -m hack.dev_device_plugin``: until it is told to stop."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
from pathlib import Path

import pynvml

from hack.dev_device_plugin.plugin import advertise
from hack.devcluster.kubelet.enumerate_gpus import devices_of


async def _run(folder: Path) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    pynvml.nvmlInit()
    try:
        await advertise(folder, devices_of("mixed"), stopping)
    finally:
        pynvml.nvmlShutdown()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m hack.dev_device_plugin", description="Advertise simulated GPUs to the kubelet."
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("/var/lib/kubelet/device-plugins"), help="the kubelet's, of device plugins"
    )
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    asyncio.run(_run(parser.parse_args().folder))


if __name__ == "__main__":
    main()
