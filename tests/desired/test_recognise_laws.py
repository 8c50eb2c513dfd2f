"""Laws of the recogniser, hunted by Hypothesis: strangers write pods, and what is taken for a model must be one."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from agent.desired.recognise import recognise
from agent.desired.servers import GENERIC, SERVERS, Field, Server
from agent.model.demand import Named, Role

REPOSITORY = re.compile(r"[A-Za-z0-9_.-]{1,96}/[A-Za-z0-9_.-]{1,96}")
_KEYS = """
name image command args env envFrom value valueFrom volumeMounts mountPath workingDir resources limits requests nvidia.com/gpu
storageUri modelFormat containers initContainers
"""
_WORDS = """
vllm serve sh -c bash exec python3 -m --model org/model $(A) $A A hf://a/b vllm/vllm-openai:v1 MODEL_ID HF_MODEL_ID
--lora-modules {} -- - = '
"""

part = st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_]|[.-][A-Za-z0-9_]){0,20}", fullmatch=True)
repositories = st.builds("{}/{}".format, part, part)
texts = st.sampled_from(_WORDS.split()) | st.text(max_size=12)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(_KEYS.split()), inner, max_size=6),
)
lists_of_texts = st.lists(texts, max_size=8)
variable = st.fixed_dictionaries({"name": texts}, optional={"value": texts, "valueFrom": anything})
typed = {
    "name": texts,
    "image": texts,
    "command": lists_of_texts,
    "args": lists_of_texts,
    "env": st.lists(variable | anything, max_size=4),
    "storageUri": texts,
}
odd = dict.fromkeys(("resources", "volumeMounts", "modelFormat", "workingDir"), anything)
containers = st.fixed_dictionaries({}, optional={**{key: right | anything for key, right in typed.items()}, **odd})
specs = anything | st.fixed_dictionaries({"containers": st.lists(containers | anything, max_size=3)})


@given(specs)
@example({"containers": [{"command": ["vllm", "serve", "a/b"], "resources": {"limits": {3: 4}}}]})
@example({"containers": [{"command": ["vllm", "serve", "a/b"], "resources": {"limits": {"nvidia.com/gpu": "\u00b2"}}}]})
@example({"containers": [{"command": ["vllm", "serve", "a/b", "--tp", "\u0663", "--lora-modules", "[1, {}]"]}]})
def test_nothing_that_a_stranger_writes_raises(spec: Any) -> None:
    for serving in recognise(spec):
        assert serving.models
        assert all(REPOSITORY.fullmatch(named.repository) for named in serving.models)


@given(st.text(alphabet="vllm serve$(){}'\"\\;|&<>#\n=AB-c:/`", max_size=60))
def test_no_script_raises(script: str) -> None:
    recognise({"containers": [{"command": ["sh", "-c", f"vllm serve a/b; {script}"], "args": ["x", script]}]})


@dataclass(frozen=True)
class Program:
    """One way to start a server, with an image where that stands for the command."""

    server: Server
    words: tuple[str, ...]
    image: str = "example.org/own:1"


FRONTS = ((), ("exec",), ("nice", "-n", "5"), ("timeout", "-k", "1", "2"), ("env", "A=b"), ("numactl", "-m", "0"))
SHELLS = (("sh", "-c"), ("/bin/bash", "-lc", "--"), ("bash", "-euo", "pipefail", "-c"))
NO_SERVERS = (("echo",), ("./train.py",), ("python3", "train.py"), ("timeout", "5", "echo"), ("myvllm",))
IMAGES = (
    "mirror.example:5000/hub/vllm/vllm-openai:v1",
    "ghcr.io/llm-d/llm-d-cuda:v1",
    "runpod/worker-v1-vllm:v1",
    "lmsysorg/sglang:v1",
    "ghcr.io/huggingface/text-generation-inference:3",
    "text-embeddings-inference:cpu@sha256:0",
    "nvcr.io/nim/nvidia/llm-nim:1",
    "openmmlab/lmdeploy:v1",
    "kserve/huggingfaceserver:v1",
)
READING = (Field.MODEL, Field.TOKENIZER, Field.ADAPTERS, Field.DRAFT, Field.SPECULATION, Field.URI)


def of_image(image: str) -> Program:
    name = re.sub(r"(:\w+)?(@.*)?$", "", image)
    return Program(next(server for server in SERVERS if server.images and server.images.search(name)), (), image)


PROGRAMS = [Program(server, words) for server in SERVERS for words in server.programs]
PROGRAMS += [Program(server, ("python3", "-m", *m.split())) for server in SERVERS for m in server.modules]
OF_IMAGES = [of_image(image) for image in IMAGES]


def names_of(server: Server, *fields: Field) -> list[str]:
    return sorted(name for name, field in server.options.items() if field in fields)


def option(server: Server, name: str, value: str, joined: bool) -> tuple[str, ...]:
    if server.pairs:
        return (f"{name}={value}",)
    dashes = "-" if name in ("tp", "q", "pp", "dp") else "--"
    return (f"{dashes}{name}={value}",) if joined else (f"{dashes}{name}", value)


@st.composite
def in_any_wrapping(draw: st.DrawFn, words: tuple[str, ...]) -> dict[str, Any]:
    """A container that starts these words: as they are, behind other programs, or in a script."""
    front = draw(st.sampled_from(FRONTS))
    how = draw(st.sampled_from(["plain", "args", "shell", "shell in shell", "many lines"]))
    if how == "plain":
        return {"command": [*front, *words]}
    if how == "args":
        cut = draw(st.integers(1, len(words)))
        return {"command": list(words[:cut]), "args": list(words[cut:])}
    script = shlex.join((*front, *words))
    if how == "many lines":
        lines = " \\\n  ".join(map(shlex.quote, words))
        script = f"# note org/comment\nset -e\nX=1 {lines} > /log 2>&1"
    if how == "shell in shell":
        script = f"cd /; bash -ec {shlex.quote(script)} || exit 1"
    return {"command": [*draw(st.sampled_from(SHELLS))], "args": [script]}


@st.composite
def through_a_variable(draw: st.DrawFn, container: dict[str, Any], value: str) -> dict[str, Any]:
    """The same container, with the value in its words given by a variable, or as it was."""
    if not draw(st.booleans()):
        return container
    org, slash, rest = value.partition("/")
    env = [{"name": "ORG", "value": org}, {"name": "GIVEN", "value": f"$(ORG){slash}{rest}"}]
    words: dict[str, Any] = {
        key: [word.replace(value, "$(GIVEN)") for word in container[key]]
        for key in ("command", "args")
        if key in container
    }
    return {**container, **words, "env": env}


@st.composite
def served(draw: st.DrawFn) -> tuple[dict[str, Any], str, str]:
    """A container, its server and the repository that it serves, written in one of its spellings."""
    program = draw(st.sampled_from(PROGRAMS + OF_IMAGES))
    server, repository = program.server, draw(repositories.map(lambda r: f"Org-{r}"))
    spellings = [
        option(server, name, repository, joined) for name in names_of(server, Field.MODEL) for joined in (True, False)
    ]
    spellings += [(repository,)] if server.positional is Field.MODEL else []
    read = {name: field for name, field in server.variables.items() if field in (Field.MODEL, Field.URI)}
    if read and (not spellings or draw(st.booleans())):
        name = draw(st.sampled_from(sorted(read)))
        value = repository if read[name] is Field.MODEL else f"hf://{repository}"
        start: dict[str, Any] = draw(in_any_wrapping(program.words)) if program.words else {}
        return {**start, "image": program.image, "env": [{"name": name, "value": value}]}, server.name, repository
    words = program.words + draw(noise(server)) + draw(st.sampled_from(spellings)) + draw(noise(server))
    start = draw(in_any_wrapping(words)) if program.words else {"args": list(words)}
    container = draw(through_a_variable(start, repository))
    return {**container, "image": program.image}, server.name, repository


@st.composite
def noise(draw: st.DrawFn, server: Server) -> tuple[str, ...]:
    """Options that name no repository of the model's."""
    known = names_of(server, Field.ONE, Field.DTYPE, Field.LENGTH)
    chosen = draw(st.lists(st.sampled_from(known), max_size=2)) if known else []
    value = st.sampled_from(["8", "auto", "/models/x", "org/chat-template"])
    return tuple(word for name in chosen for word in option(server, name, draw(value), draw(st.booleans())))


@given(served())
def test_a_model_is_recognised_in_any_of_its_spellings(case: tuple[dict[str, Any], str, str]) -> None:
    """Exactly that, and nothing beside it."""
    container, server, repository = case
    [found] = recognise({"containers": [{"name": "c", **container}]})
    assert (found.server, found.models) == (server, (Named(repository, "main", Role.MODEL),))


@given(repositories, st.sampled_from(["/bin/true", "python3 app.py", "nginx", "vllm bench serve", "ray start"]))
def test_a_generic_variable_counts_with_any_program(repository: str, program: str) -> None:
    for name in (name for name, field in GENERIC.variables.items() if field is Field.MODEL):
        container = {"name": "c", "command": program.split(), "env": [{"name": name, "value": repository}]}
        [found] = recognise({"containers": [container]})
        assert (found.server, found.models) == ("other", (Named(repository),))


not_models = st.one_of(
    repositories.map(lambda r: f"/{r}"),
    repositories.map(lambda r: f"./{r}"),
    repositories.map(lambda r: f"../{r}"),
    repositories.map(lambda r: f"~/{r}"),
    repositories.map(lambda r: f"{r}/deeper"),
    repositories.map(lambda r: f"{r}:v1"),
    repositories.map(lambda r: f"{r}@sha256:0"),
    repositories.map(lambda r: f"{r}\n"),
    repositories.map(lambda r: f"{r} "),
    repositories.map(lambda r: f"{r}-"),
    repositories.map(lambda r: f"-{r}"),
    repositories.map(lambda r: f".{r}"),
    repositories.map(lambda r: f"a--{r}"),
    repositories.map(lambda r: f"$(MISSING){r}"),
    repositories.map(lambda r: f"${{MISSING}}{r}"),
    repositories.map(lambda r: f"\u00e9{r}"),
    st.builds(
        "{}://{}".format, st.sampled_from(["http", "https", "s3", "gs", "oci", "pvc", "file", "ngc"]), repositories
    ),
    part,
    st.just("a" * 97 + "/b"),
    st.text(max_size=20).filter(lambda text: not REPOSITORY.search(text)),
)


in_adapters = not_models.map(lambda v: f"name={v}") | not_models.map(lambda v: json.dumps({"model": v, "path": v}))


@st.composite
def serving_no_model(draw: st.DrawFn) -> dict[str, Any]:
    """A known server whose every option and variable holds something that is no repository; repositories stand only where no
    server reads a model: served names, options that nobody knows, and arguments behind them."""
    program = draw(st.sampled_from(PROGRAMS + OF_IMAGES))
    server, words = program.server, program.words
    reading = names_of(server, *READING)
    for name in draw(st.lists(st.sampled_from(reading), max_size=4)) if reading else []:
        words += option(server, name, draw(not_models | in_adapters), draw(st.booleans()))
    decoy = draw(repositories)
    words += draw(
        st.sampled_from([(), ("--served-model-name", decoy), ("--made-up", decoy), ("--made-up", "x", decoy)])
    )
    words += draw(st.sampled_from([(), (f"--served-model-name={decoy}",), (f"--made_up={decoy}",), ("-Z", decoy)]))
    read = {name: draw(not_models) for name in (*server.variables, *GENERIC.variables) if draw(st.booleans())}
    env = [{"name": name, "value": value} for name, value in {**read, "SERVED_MODEL_NAME": decoy}.items()]
    start: dict[str, Any] = draw(in_any_wrapping(words)) if program.words else {"args": list(words)}
    return {**start, "name": "c", "image": program.image, "env": env}


@given(serving_no_model())
def test_a_path_a_url_or_a_served_name_is_no_model(container: dict[str, Any]) -> None:
    assert recognise({"containers": [container], "initContainers": [container]}) == ()


@given(repositories, st.sampled_from([p for p in PROGRAMS if names_of(p.server, Field.MODEL)]), st.data())
def test_an_unknown_program_serves_nothing(repository: str, program: Program, data: st.DataObject) -> None:
    """Whatever it is given, the words of a server among them."""
    words = option(program.server, names_of(program.server, Field.MODEL)[0], repository, data.draw(st.booleans()))
    unknown = data.draw(st.sampled_from(NO_SERVERS))
    container = data.draw(in_any_wrapping((*unknown, *program.words, *words)))
    assert recognise({"containers": [{"name": "c", **container}]}) == ()
