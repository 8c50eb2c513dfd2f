"""Builds a stage of the ``Dockerfile`` as a layer: ``python -m hack.containers.image --out build/image [--target STAGE]``.

A base image of a registry stands for this machine's own file system. That of uv gives its program alone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from hack.containers.dockerfile import Instruction, Stage, stages
from hack.containers.mounts import BASE_ENVIRONMENT, Process, remove_work
from hack.uv import uv_program

ROOT = Path(__file__).resolve().parents[2]
_UV_IMAGE = "ghcr.io/astral-sh/uv"
_OF_THE_NETWORK = (
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "UV_INDEX_URL",
    "UV_DEFAULT_INDEX",
)
"""How this machine reaches registries, which a step needs too; as a container engine hands its proxies on."""


class BuildError(Exception):
    """A step of the Dockerfile failed; with what it said."""


@dataclass(frozen=True, slots=True)
class Image:
    """``layer``: what lies over this machine's file system; None for nothing."""

    layer: Path | None = None
    environment: dict[str, str] = field(default_factory=dict)
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    directory: str = "/"
    user: str = "0"

    def inside(self, path: str) -> Path:
        """Where its layer has, or would have, that path."""
        assert self.layer is not None
        return self.layer / path.lstrip("/")


class Builder:
    """``out`` gets a folder for each stage. ``say`` is told of each step."""

    def __init__(self, context: Path, out: Path, uv: Path, say: Callable[[str], None]) -> None:
        self._context = context
        self._out = out
        self._uv = uv
        self._say = say
        self._stages = stages(context / "Dockerfile")
        self._built: dict[int, Image] = {}

    def build(self, target: str = "") -> Image:
        """The stage of that name, or the last. BuildError."""
        names = [stage.name for stage in self._stages]
        return self._stage(names.index(target) if target else len(names) - 1)

    def _stage(self, number: int) -> Image:
        if number in self._built:
            return self._built[number]
        stage = self._stages[number]
        base = self._base(stage)
        folder = self._out / f"{number}-{stage.name or 'image'}"
        image = replace(base, layer=folder / "layer")
        copy(base, image.inside("/"))
        for step, instruction in enumerate(stage.instructions, 1):
            self._say(
                f"{stage.name or 'image'} {step}/{len(stage.instructions)}: {instruction.word} {instruction.value[:100]}"
            )
            image = self._done(image, instruction, folder)
        self._built[number] = image
        return image

    def _base(self, stage: Stage) -> Image:
        named = [number for number, one in enumerate(self._stages) if one.name and one.name == stage.base]
        return self._stage(named[0]) if named else Image(environment=BASE_ENVIRONMENT)

    def _done(self, image: Image, instruction: Instruction, folder: Path) -> Image:
        value = instruction.value
        match instruction.word:
            case "COPY":
                self._copy(image, value.split())
            case "RUN":
                self._run(image, instruction, folder)
            case "ENV":
                pairs = {name: self._expanded(text, image) for name, text in instruction.pairs().items()}
                return replace(image, environment={**image.environment, **pairs})
            case "WORKDIR":
                image.inside(value).mkdir(parents=True, exist_ok=True)
                return replace(image, directory=value)
            case "USER":
                return replace(image, user=value.split(":")[0])
            case "ENTRYPOINT":
                return replace(image, entrypoint=tuple(instruction.words()), command=())
            case "CMD":
                return replace(image, command=tuple(instruction.words()))
        return image

    @staticmethod
    def _expanded(text: str, image: Image) -> str:
        for name, value in image.environment.items():
            text = text.replace(f"${name}", value)
        return text

    def _copy(self, image: Image, words: list[str]) -> None:
        *sources, target = words
        find: Callable[[str], Path] = self._from_context
        if sources[0].startswith("--from="):
            find = self._from_stage(sources.pop(0).removeprefix("--from="))
        into = image.inside(str(Path(image.directory) / target))
        for source in map(find, sources):
            if not source.exists():
                raise BuildError(f"COPY {' '.join(words)}: {source} is not there")
            if source.is_dir():
                shutil.copytree(source, into, symlinks=True, dirs_exist_ok=True, ignore=_ignored)
            else:
                to = into / source.name if target.endswith("/") else into
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, to)

    def _from_context(self, path: str) -> Path:
        return self._context / path

    def _from_stage(self, name: str) -> Callable[[str], Path]:
        number = next(number for number, stage in enumerate(self._stages) if stage.name == name)
        if self._stages[number].base.startswith(_UV_IMAGE):
            return lambda path: self._uv.with_name(Path(path).name)
        return self._stage(number).inside

    def _run(self, image: Image, instruction: Instruction, folder: Path) -> None:
        for name in ("work", "root"):
            (folder / name).mkdir(exist_ok=True)
        process = Process(
            arguments=tuple(instruction.words()),
            environment={**_network(), "HOME": str(Path.home()), **image.environment},
            layer=str(image.layer),
            work=str(folder / "work"),
            root=str(folder / "root"),
            directory=image.directory,
        )
        try:
            done = subprocess.run(
                process.command(folder / "run.json"), cwd=ROOT, capture_output=True, text=True, check=False
            )
        finally:
            remove_work(process)
        if done.returncode:
            raise BuildError(f"RUN {instruction.value}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def copy(image: Image, to: Path, *, is_read_only: bool = False) -> None:
    """A layer of its own for what is built on the image, or runs from it: without its bytes where nothing is written there."""
    to.mkdir(parents=True)
    if image.layer is not None:
        how = os.link if is_read_only else shutil.copy2
        shutil.copytree(image.layer, to, symlinks=True, dirs_exist_ok=True, copy_function=how)


def _network() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.upper() in _OF_THE_NETWORK}


def _ignored(_: str, names: list[str]) -> set[str]:
    """As .dockerignore has it."""
    return {name for name in names if name == "__pycache__"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m hack.containers.image", description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "build" / "image", help="where the layers go (default: build/image)"
    )
    parser.add_argument("--target", default="", help="stage (default: the last)")
    parser.add_argument("--uv", type=Path, help="program (default: that of .tools, or of PATH)")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    try:
        image = Builder(ROOT, options.out, options.uv or uv_program(), print).build(options.target)
    except BuildError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"built {image.layer}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
