"""Recognises the models of the Hugging Face hub that a pod's containers serve. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from agent.desired.pod_spec import count_of, gpu_resources, mapping, mappings, text_of
from agent.desired.servers import GENERIC, SERVERS, Field, Server
from agent.desired.words import Budget, Command, Environment, as_kubelet_expands, commands_of, environment_of
from agent.model.catalog import is_repository, is_revision
from agent.model.demand import Named, Role, Serving

# Note [Strangers write pods]
# Whoever may create a pod decides what is in its spec: any type in any place, values that double one another, scripts without
# end. So nothing here raises or grows, and a name is taken only where a known server would read it: a model that is missed costs
# a slow start, while one that is imagined costs a node's disk.

_URI = re.compile(r"hf://([^:@]*)(?:[:@](.*))?", re.DOTALL)
_HUMAN = re.compile(r"([0-9]{1,9})(\.[0-9]{1,9})?([kmgKMG]?)")
_FRACTION = re.compile(r"[0-9]{0,9}\.?[0-9]{1,18}")
_DTYPE = re.compile(r"[\w.:-]{1,64}", re.ASCII)
_OPTION = re.compile(r"--?[A-Za-z]")
_PYTHON = re.compile(r"python[0-9.]*")
_PYTHON_VALUED = ("-W", "-X", "--check-hash-based-pycs")
_SWITCHES = ("enable-", "disable-", "no-")
_THOUSANDS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
_MOST_READ, _MOST_ADAPTERS = 1000, 60  # a server takes some dozens
_MOST_TEXT = 1 << 18  # of a container; the longest scripts that people write are a quarter of that
_MOST_WORK = 1 << 19  # for a pod, as its Budget counts
_SILENT = (Field.ONE, Field.MANY, Field.FLAG)

Told = Mapping[Field, tuple[str, ...]]


def recognise(spec: Mapping[str, Any]) -> tuple[Serving, ...]:
    """One for each container of a v1 PodSpec in which a model is recognised. See Note [Strangers write pods]."""
    budget = Budget(_MOST_WORK)
    return tuple(serving for container in _containers(spec) if (serving := _serving(container, budget)))


def _containers(spec: object) -> Iterator[Mapping[str, Any]]:
    for section in ("containers", "initContainers"):
        yield from mappings(mapping(spec).get(section))


@dataclass(frozen=True, slots=True)
class _Reading:
    """What a server in a container is told."""

    server: Server
    told: Told

    def first(self, field: Field) -> str:
        return next(iter(self.told.get(field, ())), "")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a server looks first for what it is told to read: its working directory, and the volumes in its file system."""

    directory: str
    mounts: frozenset[str]

    def is_on_hub(self, text: str) -> bool:
        """Whether it is a repository, and no volume lies at it as a path, or at its first part."""
        paths = (f"{self.directory}/{text.partition('/')[0]}", f"{self.directory}/{text}")
        return is_repository(text) and self.mounts.isdisjoint(paths)


def _serving(container: Mapping[str, Any], budget: Budget) -> Serving | None:
    command, arguments = _texts(container.get("command")), _texts(container.get("args"))
    if command is None or arguments is None or sum(map(len, (*command, *arguments))) > _MOST_TEXT:
        return None
    environment = environment_of(container, budget)
    command = tuple(as_kubelet_expands(word, environment.known, budget) for word in command)
    arguments = tuple(as_kubelet_expands(word, environment.known, budget) for word in arguments)
    place = _place(container)
    everywhere = _told_everywhere(container, environment, budget)
    started = commands_of(command + arguments, environment, budget)
    by_image = () if command else _of_image(container, arguments, environment)
    for reading in chain(_of_commands(started), by_image):
        models = _models(reading, everywhere, place)
        if models:
            return _as_told(container, reading, models)
    models = _models(everywhere, everywhere, place)
    return _as_told(container, everywhere, models) if models else None


def _as_told(container: Mapping[str, Any], reading: _Reading, models: tuple[Named, ...]) -> Serving:
    return Serving(
        container=text_of(container.get("name")),
        server=reading.server.name,
        models=models,
        max_model_len=_length(reading.first(Field.LENGTH)),
        memory_utilization=_share(reading.first(Field.SHARE)),
        kv_cache_dtype=_dtype(reading.first(Field.KV_CACHE_DTYPE)),
        dtype=_dtype(reading.first(Field.DTYPE)),
        tensor_parallel=count_of(reading.first(Field.PARALLEL)) or 1,
        reshaped=_is_reshaped(reading),
        resources=gpu_resources(container),
    )


def _is_reshaped(reading: _Reading) -> bool:
    """By an option, or by one of those that count whose value is none that we know: a length that the server finds out itself
    (vLLM: auto, -1), a variable from elsewhere."""
    readers: dict[Field, Callable[[str], object]] = {
        Field.LENGTH: _length,
        Field.SHARE: _share,
        Field.KV_CACHE_DTYPE: _dtype,
        Field.DTYPE: _dtype,
        Field.PARALLEL: count_of,
    }
    unread = (told and read(told) is None for field, read in readers.items() if (told := reading.first(field)))
    return bool(reading.first(Field.RESHAPES)) or any(unread)


def _told_everywhere(container: Mapping[str, Any], environment: Environment, budget: Budget) -> _Reading:
    """By KServe's storageUri and the variables that mean the same to all."""
    told = _told_by_variables(GENERIC, environment)
    uri = as_kubelet_expands(text_of(container.get("storageUri")), environment.known, budget)
    return _Reading(GENERIC, {**told, Field.URI: (uri,)} if uri else told)


def _of_commands(commands: Iterable[Command]) -> Iterator[_Reading]:
    for command in commands:
        for server in SERVERS:
            rest = _arguments_of(server, command.words)
            if rest is not None:
                yield _read(server, rest, command.environment)
                break


def _of_image(container: Mapping[str, Any], arguments: tuple[str, ...], environment: Environment) -> Iterator[_Reading]:
    """An image may be a server that takes its container's arguments."""
    for server in SERVERS:
        if _is_entrypoint(server, container):
            yield _read(server, _behind_entrypoint(server, arguments), environment)


def _arguments_of(server: Server, words: tuple[str, ...]) -> tuple[str, ...] | None:
    """What follows the words that name the server, None where they do not."""
    program = words[0].rpartition("/")[2]
    if _PYTHON.fullmatch(program):
        return _arguments_of_module(server, words[1:])
    named = (program, *words[1:])
    return next((named[len(p) :] for p in server.programs if named[: len(p)] == p), None)


def _arguments_of_module(server: Server, words: tuple[str, ...]) -> tuple[str, ...] | None:
    at = 0
    while at < len(words) and words[at].startswith("-") and words[at] not in ("-m", "-c"):
        at += 2 if words[at] in _PYTHON_VALUED else 1
    if words[at : at + 1] != ("-m",):
        return None
    named = words[at + 1 :]
    modules = (tuple(module.split()) for module in server.modules)
    return next((named[len(m) :] for m in modules if named[: len(m)] == m), None)


def _is_entrypoint(server: Server, container: Mapping[str, Any]) -> bool:
    image = text_of(container.get("image"))
    if server.images is not None and server.images.search(_without_tag(image)):
        return True
    model_format = "" if image else text_of(mapping(container.get("modelFormat")).get("name"))
    return text_of(container.get("name")) in server.containers or model_format in server.formats


def _without_tag(image: str) -> str:
    path, slash, last = image.partition("@")[0].rpartition("/")
    return path + slash + last.partition(":")[0]


def _behind_entrypoint(server: Server, arguments: tuple[str, ...]) -> tuple[str, ...]:
    """An entrypoint may leave the last of the words that name the server to the arguments."""
    endings = [program[at:] for program in server.programs for at in range(1, len(program))]
    return next((arguments[len(e) :] for e in endings if arguments[: len(e)] == e), arguments)


def _read(server: Server, arguments: tuple[str, ...], environment: Environment) -> _Reading:
    return _Reading(server, {**_told_by_variables(server, environment), **_told_by_options(server, arguments)})


def _told_by_variables(server: Server, environment: Environment) -> Told:
    found = ((field, environment.known.get(name)) for name, field in server.variables.items())
    return {field: (value,) for field, value in found if value}


def _told_by_options(server: Server, arguments: tuple[str, ...]) -> Told:
    """The last of several wins. Whatever follows an option that is not known may belong to it and counts for nothing."""
    told: dict[Field, tuple[str, ...]] = {}
    first: str | None = None
    at = 0
    while at < len(arguments):
        word = arguments[at]
        at += 1
        if not _is_option(server, word):
            first = word if first is None else first
            continue
        field, given = _option(server, word)
        if field is Field.RESHAPING:
            told[Field.RESHAPES] = given or (word,)
            continue
        taken = 0 if given else _values_behind(server, field, arguments, at)
        values = given or arguments[at : at + taken]
        at += taken
        if field is not None and field not in _SILENT and any(values):
            told[field] = values
    return {**told, server.positional: (first,)} if server.positional and first else told


def _is_option(server: Server, word: str) -> bool:
    return _OPTION.match(word) is not None or (server.pairs and "=" in word)


def _option(server: Server, word: str) -> tuple[Field | None, tuple[str, ...]]:
    """What it tells, and the value where that is joined to it."""
    name, joined, value = word.partition("=")
    name = name.removeprefix("-").removeprefix("-").replace("_", "-")
    switch = Field.FLAG if name.startswith(_SWITCHES) else None
    return server.options.get(name, switch), (value,) if joined else ()


def _values_behind(server: Server, field: Field | None, arguments: tuple[str, ...], start: int) -> int:
    if field is Field.FLAG:
        return 0
    most = len(arguments) if field in (None, Field.MANY, Field.ADAPTERS) else start + 1
    end = start
    while end < min(most, len(arguments)) and not _is_option(server, arguments[end]):
        end += 1
    return end - start


def _models(reading: _Reading, everywhere: _Reading, place: _Place) -> tuple[Named, ...]:
    """The model first. Where that is no repository, a tokenizer of the hub may still stand beside it; adapters may not."""
    model = _model(reading, place) or _model(everywhere, place)
    if model is not None and not is_revision(model.revision):
        return ()
    tokenizer = _tokenizer(reading, place, model)
    if model is None:
        return tuple(tokenizer)
    adapters = islice(dict.fromkeys(islice(_adapters(reading, place), _MOST_READ)), _MOST_ADAPTERS)
    return (model, *dict.fromkeys(chain(tokenizer, adapters, _drafts(reading, place))))


def _model(reading: _Reading, place: _Place) -> Named | None:
    """Its revision may be none that the hub could have."""
    text = reading.first(Field.MODEL)
    revision = reading.first(Field.REVISION) or "main"
    if place.is_on_hub(text):
        return Named(text, revision)
    uris = (text, reading.first(Field.URI)) if reading.server is GENERIC else (reading.first(Field.URI),)
    for uri in uris:
        match = _URI.fullmatch(uri)
        if match and is_repository(match[1]):
            return Named(match[1], match[2] or revision)
    return None


def _tokenizer(reading: _Reading, place: _Place, model: Named | None) -> list[Named]:
    """None where it is the model's own."""
    text = reading.first(Field.TOKENIZER)
    same = model is not None and model.repository == text
    revision = reading.first(Field.TOKENIZER_REVISION) or (model.revision if same and model else "main")
    if (same and model and model.revision == revision) or not is_revision(revision):
        return []
    return [Named(text, revision, Role.TOKENIZER)] if place.is_on_hub(text) else []


def _adapters(reading: _Reading, place: _Place) -> Iterator[Named]:
    for value in reading.told.get(Field.ADAPTERS, ()):
        for path in _adapter_paths(value):
            repository, _, revision = path.partition("@")
            if place.is_on_hub(repository) and is_revision(revision or "main"):
                yield Named(repository, revision or "main", Role.ADAPTER)


def _adapter_paths(value: str) -> Iterator[str]:
    """Of ``name=path``, a path alone, several with commas between them, or JSON with a path in it."""
    if value.lstrip()[:1] in ("{", "["):
        found = _from_json(value)
        for item in found if isinstance(found, list) else [found]:
            yield text_of(item.get("path") or item.get("lora_path")) if isinstance(item, dict) else text_of(item)
        return
    for item in value.split(","):
        name, joined, path = item.strip().partition("=")
        yield path if joined else name


def _drafts(reading: _Reading, place: _Place) -> Iterator[Named]:
    inside = mapping(_from_json(reading.first(Field.SPECULATION)))
    text = reading.first(Field.DRAFT) or text_of(inside.get("model"))
    revision = reading.first(Field.DRAFT_REVISION) or text_of(inside.get("revision")) or "main"
    if place.is_on_hub(text) and is_revision(revision):
        yield Named(text, revision, Role.DRAFT)


def _place(container: Mapping[str, Any]) -> _Place:
    """Where no directory is given, that of the image is not known, and the root is taken for it."""
    mounts = (mount.get("mountPath") for mount in mappings(container.get("volumeMounts")))
    directory = text_of(container.get("workingDir")).rstrip("/")
    return _Place(directory, frozenset(text_of(path).rstrip("/") for path in mounts))


def _from_json(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _length(text: str) -> int | None:
    """Tokens; vLLM also takes 25.6k (thousands) and 32K (of 1024)."""
    match = _HUMAN.fullmatch(text)
    if match is None or (match[2] and not match[3]):
        return None
    return int(float(match[1] + (match[2] or "")) * _THOUSANDS[match[3]]) or None


def _share(text: str) -> float | None:
    share = float(text) if _FRACTION.fullmatch(text) else 0.0
    return share if 0 < share <= 1 else None


def _dtype(text: str) -> str | None:
    return text if _DTYPE.fullmatch(text) else None


def _texts(value: object) -> tuple[str, ...] | None:
    """The words of a command, none where it is left out; None where it is no list of text."""
    if value is None:
        return ()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    return None
