"""A dcgm-exporter over simulated GPUs: the page, collected on an interval, and what can go wrong with it.

    python -m hack.dcgm_exporter --simgpu build/simgpu/simgpu --state FILE [--listen 127.0.0.1:9400] [--interval 30]

One series for each GPU instance, with the labels and in the order of NVIDIA's public source (4.x). SM activity and occupancy are
not among its default counters: who wants them has turned them on.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from enum import StrEnum
from typing import Any

from aiohttp import web

from hack.serving import Listener, bound

SERIES = {
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": ("graphics", "Ratio of time the graphics engine is active."),
    "DCGM_FI_PROF_SM_ACTIVE": ("sm", "The ratio of cycles an SM has at least 1 warp assigned."),
    "DCGM_FI_PROF_SM_OCCUPANCY": ("occupancy", "The ratio of number of warps resident on an SM."),
    "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE": ("tensor", "Ratio of cycles the tensor (HMMA) pipe is active."),
    "DCGM_FI_PROF_DRAM_ACTIVE": (
        "dram",
        "Ratio of cycles the device memory interface is active sending or receiving data.",
    ),
}
_SLOW_SECONDS = 3600.0
_HUGE_BYTES = 64 << 20
_NONSENSE = (
    '# HELP\nDCGM_FI_PROF_GR_ENGINE_ACTIVE{UUID="GPU-x",GPU_I_ID="1"\nDCGM_FI_PROF_SM_ACTIVE{} NaN\n\x00\xff'
    'DCGM_FI_PROF_DRAM_ACTIVE{UUID="GPU-x",GPU_I_ID="first",GPU_I_PROFILE="1g.10gb"} 0.5\n'
)

Show = Callable[[], Mapping[str, Any]]
"""What ``simgpu show --json`` prints."""


class Fault(StrEnum):
    """What goes wrong from now on."""

    NONE = "none"
    DOWN = "down"  # hangs up
    ERROR = "error"  # 500
    SLOW = "slow"  # accepts, and does not answer
    GARBAGE = "garbage"  # what is no metric, among what is
    HUGE = "huge"  # more than anybody has slices for
    PACKED = "packed"  # gzip that nobody asked for
    REDIRECT = "redirect"  # somewhere else
    FROZEN = "frozen"  # goes on saying what it collected last, whatever becomes of the GPUs


class SimulatedExporter:
    """``collect`` is also called every ``interval_s`` while it is served; ``asked`` counts requests."""

    def __init__(self, show: Show, interval_s: float = 30.0, hostname: str = "gpu-1") -> None:
        self._show = show
        self._interval_s = interval_s
        self._hostname = hostname
        self._page = ""
        self.fault = Fault.NONE
        self.asked = 0

    async def collect(self) -> None:
        """What the page says from now on."""
        if self.fault != Fault.FROZEN:
            shown = await asyncio.to_thread(self._show)
            self._page = page(shown, self._hostname)

    @asynccontextmanager
    async def serving(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """Collect and serve until the block ends; yields the page's URL."""
        await self.collect()
        app = web.Application()
        app.add_routes([web.get("/metrics", self._metrics), web.get("/health", self._health)])
        runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=0.1)
        await runner.setup()
        await Listener(runner, bound(port, host)).start()
        collecting = asyncio.create_task(self._collect_for_ever())
        try:
            yield f"http://{host}:{runner.addresses[0][1]}/metrics"
        finally:
            collecting.cancel()
            with suppress(asyncio.CancelledError):
                await collecting
            await runner.cleanup()

    async def _collect_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            await self.collect()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="OK")

    async def _metrics(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        match self.fault:
            case Fault.DOWN:
                assert request.transport is not None
                request.transport.abort()
            case Fault.ERROR:
                return web.Response(status=500, text="internal server error")
            case Fault.SLOW:
                await asyncio.sleep(_SLOW_SECONDS)
            case Fault.GARBAGE:
                return web.Response(body=_NONSENSE.encode("latin-1") + self._page.encode())
            case Fault.HUGE:
                return web.Response(body=b"# HELP\n" * (_HUGE_BYTES // 7))
            case Fault.PACKED:
                packed = web.Response(text=self._page)
                packed.enable_compression(web.ContentCoding.gzip)
                return packed
            case Fault.REDIRECT:
                raise web.HTTPFound("/health")
        return web.Response(text=self._page, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def page(shown: Mapping[str, Any], hostname: str) -> str:
    """The text of one collection."""
    lines: list[str] = []
    for name, (kind, words) in SERIES.items():
        rows = [_row(name, labels, instance["load"][kind]) for labels, instance in _instances(shown, hostname)]
        if rows:
            lines += [f"# HELP {name} {words}", f"# TYPE {name} gauge", *rows]
    return "".join(f"{line}\n" for line in lines)


def _instances(shown: Mapping[str, Any], hostname: str) -> Iterator[tuple[dict[str, str], Mapping[str, Any]]]:
    for gpu in shown["gpus"]:
        for instance in gpu["instances"] if not gpu["lost"] else ():
            labels = {
                "gpu": str(gpu["index"]),
                "UUID": gpu["uuid"],
                "pci_bus_id": f"00000000:{gpu['index'] + 1:02X}:00.0",
                "device": f"nvidia{gpu['index']}",
                "modelName": gpu["name"],
                "GPU_I_PROFILE": instance["profile"].partition("+")[0],
                "GPU_I_ID": str(instance["gi_id"]),
                "Hostname": hostname,
                "DCGM_FI_DRIVER_VERSION": "580.95.05",
                # An exporter that nobody told of Kubernetes' pods, scraped by a Prometheus that adds the target's own, says this.
                "container": "exporter",
                "namespace": "gpu-operator",
                "pod": "nvidia-dcgm-exporter-x7k2p",
            }
            yield labels, instance


def _row(name: str, labels: Mapping[str, str], value: float) -> str:
    written = ",".join(f'{key}="{text}"' for key, text in labels.items())
    return f"{name}{{{written}}} {value:.6f}"


def shown_by(simgpu: str, state: str) -> Show:
    """By the program that steers the simulated GPUs."""

    def show() -> Mapping[str, Any]:
        command = [simgpu, "--state", state, "show", "--json"]
        found: Mapping[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return found

    return show


async def _serve(options: argparse.Namespace) -> None:
    exporter = SimulatedExporter(shown_by(options.simgpu, options.state), options.interval, options.hostname)
    exporter.fault = Fault(options.fault)
    host, _, port = options.listen.rpartition(":")
    async with exporter.serving(host, int(port)) as url:
        print(url, flush=True)
        await asyncio.Event().wait()


def main() -> None:
    """Serve until interrupted; prints the URL."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simgpu", required=True, help="the program")
    parser.add_argument("--state", required=True, help="its state file")
    parser.add_argument("--listen", default="127.0.0.1:9400")
    parser.add_argument("--interval", type=float, default=30.0, help="seconds between two collections")
    parser.add_argument("--hostname", default="gpu-1")
    parser.add_argument("--fault", choices=[str(fault) for fault in Fault], default=str(Fault.NONE))
    with suppress(KeyboardInterrupt):
        asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
