"""Models that a node can be asked to hold, the files of a commit, and which of them are wanted. Pure."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from agent.model.labels import MODEL_PREFIX
from agent.model.text import Mistake

_LABEL_NAME_CHARACTERS = 63
_SHORTENED_CHARACTERS = 54
_HASH_CHARACTERS = 8
_PATH_PART_BYTES = 255
_PATH_BYTES = 1024
_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}", re.ASCII)
_REVISION = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)
_ALPHANUMERIC = string.ascii_letters + string.digits

# Left out unless the catalog says otherwise: what reference code and older frameworks read. Formats that carry the
# same weights a second time are left out only where the model has safetensors.
_NEVER_BY_DEFAULT = ("original/**", "*.pth")
_NOT_BESIDE_SAFETENSORS = ("*.bin", "*.pt", "*.msgpack", "*.h5", "*.ot", "*.onnx", "*.gguf")
# Mistral's repositories hold the same weights consolidated and in shards. TGI fails on both together, these others read the
# shards; vLLM can read either.
_CONSOLIDATED = "consolidated*.safetensors"
_MAPPED_FROM_BYTES = 16 * 1024 * 1024
_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
ENGINES: Mapping[str, tuple[str, ...]] = {
    "vllm": (),
    "sglang": (_CONSOLIDATED,),
    "tgi": (_CONSOLIDATED,),
    "transformers": (_CONSOLIDATED,),
    "trtllm": (),
}
"""What each server leaves out of a repository that has its safetensors twice."""


@dataclass(frozen=True, slots=True)
class CatalogModel:
    """A model as the catalog names it. ``name`` is the label's name; patterns are fnmatch patterns on paths, in which
    ``*`` also matches ``/``. With neither kind of pattern the defaults of ``selected`` hold. ``pin``: where it is on disk it
    stays, wanted there or not. ``follow_seconds``: how often the hub is asked for a newer commit of the revision; None: never
    once one is here. ``nodes``: labels that a node must have. ``token``: name of a token for the endpoint. ``engine``: the
    server that reads the model, where one is known (``ENGINES``). ``gate``: where the model is wanted, a node that starts is
    kept from pods until it is ready (model/gate.py). ``page_cache``: its weights are kept in memory while there is room."""

    name: str
    repository: str
    revision: str = "main"
    allow_patterns: tuple[str, ...] | None = None
    ignore_patterns: tuple[str, ...] | None = None
    priority: int = 0
    endpoint: str | None = None
    bytes_per_second: int | None = None
    pin: bool = False
    follow_seconds: int | None = None
    nodes: tuple[tuple[str, str], ...] = ()
    token: str | None = None
    engine: str | None = None
    gate: bool = False
    page_cache: bool = False

    @property
    def label(self) -> str:
        return MODEL_PREFIX + self.name

    def fetched_as(self, other: CatalogModel) -> bool:
        """Whether a fetch of either brings the same, in the same way; how urgent it is, and what becomes of it, aside."""
        mine, theirs = (
            (
                m.repository,
                m.revision,
                m.allow_patterns,
                m.ignore_patterns,
                m.endpoint,
                m.bytes_per_second,
                m.token,
                m.engine,
            )
            for m in (self, other)
        )
        return mine == theirs


@dataclass(frozen=True, slots=True)
class Catalog:
    """Models by name, and sets of their names."""

    models: Mapping[str, CatalogModel]
    sets: Mapping[str, frozenset[str]]


@dataclass(frozen=True, slots=True)
class CatalogRefusal:
    """The catalog, or the set that the node names, cannot be followed; ``message`` is one sentence for people. ``mistakes``:
    all of them, where it is the text that is wrong."""

    message: str
    mistakes: tuple[Mistake, ...] = ()

    @staticmethod
    def of(mistakes: tuple[Mistake, ...]) -> CatalogRefusal:
        return CatalogRefusal(mistakes[0].at("model catalog"), mistakes)

    def at(self, source: str) -> str:
        """A line each, as compilers and editors write them."""
        return "\n".join(mistake.at(source) for mistake in self.mistakes) or f"{source}: {self.message}"


@dataclass(frozen=True, slots=True)
class RepositoryFile:
    """One file of a commit. ``blob`` is the hash of its content by which the cache names it: sha256 (64 hex digits)
    of what the repository keeps in LFS, git's sha1 of ``blob <n>\\0<content>`` (40) of everything else.
    ``xet``: by what name the hub's Xet store has it, where it does."""

    path: str
    size_bytes: int
    blob: str
    xet: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """All files of one commit, as the hub lists them."""

    repository: str
    commit: str
    files: tuple[RepositoryFile, ...]


def is_repository(text: str) -> bool:
    """Whether the hub could have a repository of that name."""
    parts = text.split("/")
    odd = any(part != part.strip("-.") or "--" in part or ".." in part for part in parts)
    return not odd and _REPOSITORY.fullmatch(text) is not None


def is_revision(text: str) -> bool:
    """Whether it can be a branch, a tag or a commit id."""
    return len(text) <= _PATH_PART_BYTES and _REVISION.fullmatch(text) is not None and ".." not in text


def derived_name(repository: str) -> str:
    """``org/name`` as the name part of a label: ``org--name``, at most 63 characters, alphanumeric at both ends.

    A name too long keeps its first 54 characters and gets 8 hex digits of its sha256. Characters that labels do not
    have are dropped; the result is empty where nothing is left.
    """
    kept = _ALPHANUMERIC + "-_."
    name = "".join(c for c in repository.replace("/", "--") if c in kept).strip("-_.")
    if len(name) <= _LABEL_NAME_CHARACTERS:
        return name
    digest = hashlib.sha256(name.encode("ascii")).hexdigest()
    return f"{name[:_SHORTENED_CHARACTERS]}-{digest[:_HASH_CHARACTERS]}"


def folder_name(repository: str) -> str:
    """What the hub's client calls the repository's folder in a cache."""
    return f"models--{repository.replace('/', '--')}"


def unusable_path(path: str) -> str | None:
    """Why a hub's file name cannot become a file below a snapshot folder, or None where it can."""
    try:
        parts = [part.encode() for part in path.split("/")]
    except UnicodeEncodeError:
        return "is no text"
    if any(ord(character) < 32 or character == "\x7f" for character in path):
        return "has a control character"
    if any(part in {b"", b".", b".."} for part in parts):
        return "leaves its folder or has an empty part"
    if any(len(part) > _PATH_PART_BYTES for part in parts):
        return f"has a part of more than {_PATH_PART_BYTES} bytes"
    return f"has more than {_PATH_BYTES} bytes" if len(path.encode()) > _PATH_BYTES else None


def file_and_folder(paths: Iterable[str]) -> str | None:
    """One of ``paths`` that others lie below, so that no folder can hold them all; None where there is none."""
    files = frozenset(paths)
    folders = (path[:end] for path in files for end, character in enumerate(path) if character == "/")
    return min((folder for folder in folders if folder in files), default=None)


def selected(
    files: Iterable[RepositoryFile],
    allow: tuple[str, ...] | None,
    ignore: tuple[str, ...] | None,
    engine: str | None = None,
) -> tuple[RepositoryFile, ...]:
    """The files that the patterns leave, in the order given. Patterns given replace the defaults altogether, and those of
    the engine."""
    listed = tuple(files)
    if allow is None and ignore is None:
        ignore = _default_ignored(listed, engine)
    return tuple(f for f in listed if _wanted(f.path, allow, ignore or ()))


def pickled_only(files: Iterable[RepositoryFile]) -> str | None:
    """A file of weights that runs code when it is read, where there are no safetensors instead of it."""
    paths = [file.path for file in files]
    if any(path.endswith(".safetensors") for path in paths):
        return None
    return next((path for path in paths if path.endswith(_PICKLED)), None)


def mapped_weights(files: Iterable[RepositoryFile]) -> tuple[RepositoryFile, ...]:
    """Those that a server maps into memory: its safetensors, and where there are none, whatever is large. Each content once; of
    weights that are there consolidated and in shards the shards."""
    once = {file.blob: file for file in files}.values()
    safetensors = tuple(file for file in once if file.path.endswith(".safetensors"))
    shards = tuple(file for file in safetensors if not fnmatchcase(file.path, _CONSOLIDATED))
    return shards or safetensors or tuple(file for file in once if file.size_bytes >= _MAPPED_FROM_BYTES)


def _default_ignored(files: tuple[RepositoryFile, ...], engine: str | None) -> tuple[str, ...]:
    weights = [f.path for f in files if f.path.endswith(".safetensors")]
    ignored = _NEVER_BY_DEFAULT + (_NOT_BESIDE_SAFETENSORS if weights else ())
    twice = ENGINES.get(engine or "", ())
    once = [path for path in weights if not any(fnmatchcase(path, pattern) for pattern in twice)]
    return ignored + twice if once else ignored


def _wanted(path: str, allow: tuple[str, ...] | None, ignore: tuple[str, ...]) -> bool:
    allowed = allow is None or any(fnmatchcase(path, pattern) for pattern in allow)
    return allowed and not any(fnmatchcase(path, pattern) for pattern in ignore)
