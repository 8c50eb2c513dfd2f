"""``python -m hack.hub --model org/name=DIR [--port N]``: serve folders as models until interrupted."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence
from pathlib import Path

from hack.hub.content import Access, ServedModel, read_model
from hack.hub.server import Hub


def _model(argument: str) -> tuple[str, Path]:
    repository, separator, folder = argument.partition("=")
    if not separator or repository.count("/") != 1 or not Path(folder).is_dir():
        raise argparse.ArgumentTypeError(f"{argument!r}: write org/name=FOLDER, where FOLDER exists")
    return repository, Path(folder)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hack.hub", description=__doc__)
    parser.add_argument("--model", type=_model, action="append", default=[], metavar="ORG/NAME=DIR")
    parser.add_argument("--private", type=_model, action="append", default=[], metavar="ORG/NAME=DIR")
    parser.add_argument("--gated", type=_model, action="append", default=[], metavar="ORG/NAME=DIR")
    parser.add_argument("--token", action="append", default=[], help="a token that opens every model")
    parser.add_argument("--port", type=int, default=0, help="port of the API (default: any free one)")
    return parser


def _models(options: argparse.Namespace) -> list[ServedModel]:
    asked = [(Access.PUBLIC, options.model), (Access.PRIVATE, options.private), (Access.GATED, options.gated)]
    return [read_model(repository, folder, access) for access, models in asked for repository, folder in models]


async def serve(options: argparse.Namespace) -> None:
    """Print the endpoint on one line, flushed, once it accepts connections; end on SIGINT or SIGTERM."""
    models = {model.repository: model for model in _models(options)}
    tokens = {token: frozenset(models) for token in options.token}
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    async with Hub(models, tokens=tokens, port=options.port) as hub:
        print(f"hub: {hub.url} store: {hub.cdn_url} models: {' '.join(sorted(models)) or 'none'}", flush=True)
        await ended.wait()


def main(arguments: Sequence[str] | None = None) -> None:
    asyncio.run(serve(_parser().parse_args(arguments)))


if __name__ == "__main__":
    main()
