"""Serve folders as models of a hub on loopback, until interrupted.

``python -m hack.hub --model org/name=DIR [--port N]``; point clients at it with HF_ENDPOINT. Branches, tags, tokens, faults and
limits can be changed while it runs, by requests to /_dev (see hack/hub/dev_routes.py).
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hack.hub.content import Access, ServedModel, read_model
from hack.hub.limits import Throttle
from hack.hub.oddities import ODDITIES
from hack.hub.server import Hub
from hack.hub.xet import XetStore


def _model(argument: str) -> tuple[str, Path]:
    repository, separator, folder = argument.partition("=")
    if not separator or repository.count("/") != 1 or not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"{argument!r}: write org/name=FOLDER, where FOLDER exists")
    return repository, Path(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.hub", description=__doc__)
    for access in Access:
        parser.add_argument(
            "--model" if access is Access.PUBLIC else f"--{access}",
            type=_model,
            action="append",
            default=[],
            metavar="ORG/NAME=DIR",
            help=f"serve a folder as a {access} model",
        )
    parser.add_argument(
        "--odd",
        choices=sorted(ODDITIES),
        action="append",
        default=[],
        help="also serve odd/KIND: hostile names, 60 GB of zeros that take no disk, 10,000 small files",
    )
    parser.add_argument("--token", action="append", default=[], help="a token that opens every model")
    parser.add_argument("--xet", type=Path, metavar="DIR", help="offer LFS files by Xet too, from a store in DIR")
    parser.add_argument("--mirror", action="store_true", help="redirect nowhere, and give ETags of its own making")
    parser.add_argument("--connection-rate", type=float, metavar="BYTES", help="bytes per second of one connection")
    parser.add_argument("--address-rate", type=float, metavar="BYTES", help="bytes per second of one client address")
    parser.add_argument("--port", type=int, default=0, help="port of the API (default: any free one)")
    return parser


def _models(options: argparse.Namespace, xet: XetStore | None) -> list[ServedModel]:
    asked = [(access, vars(options)["model" if access is Access.PUBLIC else access.value]) for access in Access]
    put = xet.put if xet is not None else None
    return [read_model(name, folder, access, put) for access, models in asked for name, folder in models]


async def serve(options: argparse.Namespace, scratch: Path) -> None:
    """Print the endpoint on one line, flushed, once it accepts connections; end on SIGINT or SIGTERM."""
    xet = XetStore(options.xet) if options.xet is not None else None
    models = {model.repository: model for model in _models(options, xet)}
    models |= {f"odd/{kind}": ODDITIES[kind](f"odd/{kind}", scratch / kind) for kind in options.odd}
    tokens = {token: frozenset(models) for token in options.token}
    throttle = Throttle(options.connection_rate, options.address_rate)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    hub = Hub(models, tokens=tokens, port=options.port, mirror=options.mirror, xet=xet, throttle=throttle)
    async with hub:
        print(f"hub: {hub.url} store: {hub.cdn_url} models: {' '.join(sorted(models)) or 'none'}", flush=True)
        await ended.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="warmslice-hub-") as scratch:
        asyncio.run(serve(options, Path(scratch)))


if __name__ == "__main__":
    main()
