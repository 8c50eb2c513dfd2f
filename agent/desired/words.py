"""The commands that a container starts, word by word: environment, the kubelet's ``$(VAR)``, shell scripts and programs that
start another. Pure. What cannot be known on paper keeps its ``$``, and what a stranger wrote never raises."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.desired.pod_spec import mappings

_SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh"})
_KEYWORDS = frozenset(
    {"if", "then", "elif", "else", "while", "until", "do", "!", "{", "}", "time", "fi", "done", "esac"}
)
_ASSIGNING = frozenset({"export", "declare", "typeset", "local", "readonly"})
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL | re.ASCII)
_KUBELET = re.compile(r"\$(?:(\$)|\(([^)]{0,253})\))")
_VARIABLE = re.compile(r"\$(?:([A-Za-z_]\w*|[0-9])|\{(\w+)(?:(:?[-=+])([^{}]*))?\})", re.ASCII)
_REDIRECTION = re.compile(r"&>>?|<<<|<<-?|>>|[<>]&|>\||<>|[<>]")
_ESCAPED_IN_QUOTES = '$`"\\'
_LONGEST_SCRIPT = 1 << 18
_COST_OF_A_COMMAND = 1 << 8
_MOST_NESTED = 4
_MOST_WRAPPED = 16


@dataclass(slots=True)
class Budget:
    """How many characters expansion may still make, for values that double one another would fill the memory. A command costs as
    much as ``_COST_OF_A_COMMAND`` of them."""

    left: int

    def pays(self, cost: int) -> bool:
        self.left -= cost
        return self.left >= 0


@dataclass(frozen=True, slots=True)
class Environment:
    """A container's variables. ``hidden`` have a value that is not in the spec; with ``hides_more`` any other name may."""

    known: Mapping[str, str]
    hidden: frozenset[str] = frozenset()
    hides_more: bool = False

    def with_known(self, values: Mapping[str, str]) -> Environment:
        return Environment({**self.known, **values}, self.hidden - values.keys(), self.hides_more)


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments, and the environment that it sees."""

    words: tuple[str, ...]
    environment: Environment


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """A program that starts the one in its arguments, behind its own options and ``operands`` more words. ``valued`` are the
    options whose value stands apart, with the number of words."""

    valued: Mapping[str, int] = field(default_factory=dict)
    operands: int = 0

    def inner(self, words: tuple[str, ...]) -> tuple[str, ...]:
        at = 0
        while at < len(words) and words[at].startswith("-") and words[at] != "--":
            at += 1 + self.valued.get(words[at], 0)
        at += at < len(words) and words[at] == "--"
        return words[at + self.operands :]


def _valued(options: str) -> _Wrapper:
    return _Wrapper(dict.fromkeys(options.split(), 1))


_PLAIN = _Wrapper()
_MPIRUN_VALUED = ("-n", "-np", "-H", "-x", "--host", "--hostfile", "--bind-to")
_WRAPPERS = {
    "exec": _valued("-a"),
    "command": _PLAIN,
    "nohup": _PLAIN,
    "setsid": _PLAIN,
    "env": _valued("-u -C --unset --chdir"),
    "nice": _valued("-n --adjustment"),
    "ionice": _valued("-c -n --class --classdata"),
    "chrt": _Wrapper(operands=1),
    "stdbuf": _valued("-i -o -e"),
    "timeout": _Wrapper({"-k": 1, "-s": 1, "--kill-after": 1, "--signal": 1}, operands=1),
    "numactl": _valued("-N -m -C -i -p --cpunodebind --membind --physcpubind --interleave --preferred"),
    "taskset": _Wrapper(operands=1),
    "sudo": _valued("-u -g"),
    "tini": _valued("-p -e"),
    "dumb-init": _valued("-r --rewrite"),
    "mpirun": _Wrapper(dict.fromkeys(_MPIRUN_VALUED, 1) | {"--mca": 2, "-mca": 2}),
    "trtllm-llmapi-launch": _PLAIN,
    "opentelemetry-instrument": _PLAIN,
    "nvidia_entrypoint.sh": _PLAIN,
    "docker-entrypoint.sh": _PLAIN,
    "entrypoint.sh": _PLAIN,
}


def environment_of(container: Mapping[str, Any], budget: Budget) -> Environment:
    """Each value may use the ones before it. A value that is taken from elsewhere is hidden."""
    known: dict[str, str] = {}
    hidden: set[str] = set()
    for entry in mappings(container.get("env")):
        name, value = entry.get("name"), entry.get("value")
        if not isinstance(name, str):
            continue
        if entry.get("valueFrom") is not None or not isinstance(value, str | None):
            known.pop(name, None)
            hidden.add(name)
        else:
            known[name] = as_kubelet_expands(value or "", known, budget)
            hidden.discard(name)
    return Environment(known, frozenset(hidden), bool(container.get("envFrom")))


def as_kubelet_expands(text: str, known: Mapping[str, str], budget: Budget) -> str:
    """``$(NAME)`` becomes the value where there is one and stays otherwise; ``$$`` is a dollar sign."""

    def value(match: re.Match[str]) -> str:
        found = "$" if match[1] else known.get(match[2], match[0])
        return found if budget.pays(len(found)) else match[0]

    return _KUBELET.sub(value, text)


def commands_of(words: tuple[str, ...], environment: Environment, budget: Budget) -> Iterator[Command]:
    """The commands that are started by these words, those in a shell's script and behind wrappers included."""
    yield from _Scope(dict(environment.known), environment, budget).commands(words, 0)


@dataclass(slots=True)
class _Scope:
    """A shell's variables, as far as its script has been read."""

    values: dict[str, str]
    outer: Environment
    budget: Budget

    def commands(self, words: tuple[str, ...], depth: int) -> Iterator[Command]:
        """Those of one simple command."""
        own: dict[str, str] = {}
        for _ in range(_MOST_WRAPPED):
            words = _without_keywords(words)
            words, assigned = _without_assignments(words)
            own.update(assigned)
            if not words:
                self.values.update(own)
                return
            name = _program(words[0])
            if name in _ASSIGNING:
                self.values.update(_assignments(words[1:]))
                return
            if name in _SHELLS:
                yield from self._script(words[1:], own, depth)
                return
            if name not in _WRAPPERS:
                self.budget.left -= len(self.values)
                yield Command(words, self.outer.with_known({**self.values, **own}))
                return
            words = _WRAPPERS[name].inner(words[1:])

    def _script(self, words: tuple[str, ...], own: Mapping[str, str], depth: int) -> Iterator[Command]:
        given = _script_of(words)
        if given is None or depth >= _MOST_NESTED or len(given[0]) > _LONGEST_SCRIPT:
            return
        script, parameters = given
        numbered = {str(number): text for number, text in enumerate(parameters[:10])}
        inner = _Scope({**self.values, **own, **numbered}, self.outer, self.budget)
        for simple in _Reader(script, inner).simple_commands():
            yield from inner.commands(simple, depth + 1)

    def expanded(self, match: re.Match[str]) -> str:
        """The value of ``$NAME`` or ``${NAME...}``, or the text itself where that is unknown."""
        name, operator, default = match[1] or match[2], match[3], match[4]
        value = self.values.get(name)
        unknown = value is None and (name in self.outer.hidden or self.outer.hides_more or operator is None)
        if unknown or "$" in (default or ""):
            return match[0]
        chosen = _chosen(value, operator, _unquoted(default or ""))
        return chosen if self.budget.pays(len(chosen)) else match[0]


def _chosen(value: str | None, operator: str | None, default: str) -> str:
    if operator is None:
        return value or ""
    is_set = bool(value) if operator.startswith(":") else value is not None
    if operator.endswith("+"):
        return default if is_set else ""
    return value or "" if is_set else default


def _unquoted(text: str) -> str:
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1] if quoted else text


def _program(word: str) -> str:
    return word.rpartition("/")[2]


def _without_keywords(words: tuple[str, ...]) -> tuple[str, ...]:
    first = next((at for at, word in enumerate(words) if word not in _KEYWORDS), len(words))
    return words[first:]


def _without_assignments(words: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    first = next((at for at, word in enumerate(words) if not _ASSIGNMENT.fullmatch(word)), len(words))
    return words[first:], _assignments(words[:first])


def _assignments(words: Iterable[str]) -> dict[str, str]:
    return {match[1]: match[2] for word in words if (match := _ASSIGNMENT.fullmatch(word))}


def _script_of(words: tuple[str, ...]) -> tuple[str, tuple[str, ...]] | None:
    """What ``-c`` gives a shell, with the parameters from $0 on; None where it runs a file."""
    at, inline = 0, False
    while at < len(words) and words[at][:1] in ("-", "+") and words[at] != "--":
        short = not words[at].startswith("--")
        inline |= short and "c" in words[at]
        at += 1 + (short and words[at].lower().endswith("o"))
    at += at < len(words) and words[at] == "--"
    return (words[at], words[at + 1 :]) if inline and at < len(words) else None


class _Reader:
    """Cuts a script into simple commands. One is given before the next is read, for it may set what that uses.

    ``shlex`` will not do: it knows no end of line, takes a ``#`` within a word for a comment, and forgets which quotes a ``$``
    stood in.
    """

    def __init__(self, text: str, scope: _Scope) -> None:
        self._text = text.replace("\\\r\n", "").replace("\\\n", "")
        self._scope = scope
        self._at = 0
        self._words: list[str] = []
        self._word: list[str] | None = None
        self._drop_next = False
        self._here: list[str] = []
        self._awaits_here = False

    def simple_commands(self) -> Iterator[tuple[str, ...]]:
        """Nothing comes of a command whose quotes do not end."""
        while self._at < len(self._text) and self._scope.budget.left >= 0:
            char = self._text[self._at]
            redirection = _REDIRECTION.match(self._text, self._at)
            if redirection:
                self._redirect(redirection)
            elif char in "\n;&|()":
                self._at += 1
                self._end_word()
                yield self._taken()
                if char == "\n":
                    self._skip_here_documents()
            elif not self._read_one(char):
                return
        self._end_word()
        yield self._taken()

    def _taken(self) -> tuple[str, ...]:
        taken, self._words, self._drop_next = tuple(self._words), [], False
        self._scope.budget.left -= _COST_OF_A_COMMAND if taken else 0
        return taken

    def _read_one(self, char: str) -> bool:
        if char in " \t\r":
            self._at += 1
            self._end_word()
        elif char == "#" and self._word is None:
            self._at = self._find("\n", self._at)
        elif char == "\\":
            self._add(self._text[self._at + 1 : self._at + 2])
            self._at += 2
        elif char == "'":
            return self._single_quoted()
        elif char == '"':
            self._at += 1
            return self._double_quoted()
        elif char in "$`":
            self._unquoted_expansion()
        else:
            self._add(char)
            self._at += 1
        return True

    def _single_quoted(self) -> bool:
        end = self._find("'", self._at + 1)
        self._add(self._text[self._at + 1 : end])
        self._at = end + 1
        return end < len(self._text)

    def _double_quoted(self) -> bool:
        self._add("")
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == '"':
                self._at += 1
                return True
            if char == "\\" and self._text[self._at + 1 : self._at + 2] in (*_ESCAPED_IN_QUOTES,):
                self._add(self._text[self._at + 1])
                self._at += 2
            elif char in "$`":
                self._add(self._expansion()[0])
            else:
                self._add(char)
                self._at += 1
        return False

    def _unquoted_expansion(self) -> None:
        """A value falls into words at its blanks; what is unknown stays one word, for it may be any."""
        value, known = self._expansion()
        parts = re.split(r"[ \t\n]+", value) if known else [value]
        for number, part in enumerate(parts):
            if number:
                self._end_word()
            if part:
                self._add(part)

    def _expansion(self) -> tuple[str, bool]:
        start = self._at
        variable = _VARIABLE.match(self._text, start)
        if variable:
            self._at = variable.end()
            value = self._scope.expanded(variable)
            return value, value != variable[0]
        if self._text.startswith("$(", start):
            self._at = self._end_of_parentheses(start + 1)
        elif self._text[start] == "`":
            self._at = self._find("`", start + 1) + 1
        else:
            self._at = start + 1
        return self._text[start : self._at], False

    def _end_of_parentheses(self, start: int) -> int:
        depth = 0
        for match in re.compile(r"[()]").finditer(self._text, start):
            depth += 1 if match[0] == "(" else -1
            if not depth:
                return match.end()
        return len(self._text)

    def _redirect(self, match: re.Match[str]) -> None:
        """The word behind it is a file's name, and a number before it a descriptor."""
        if self._word is not None and "".join(self._word).isdigit():
            self._word = None
        self._end_word()
        self._at = match.end()
        self._drop_next = True
        self._awaits_here = match[0] in ("<<", "<<-")

    def _skip_here_documents(self) -> None:
        for delimiter in self._here:
            end = re.compile(rf"^\t*{re.escape(delimiter)}$", re.MULTILINE).search(self._text, self._at)
            self._at = end.end() if end else len(self._text)
        self._here.clear()

    def _add(self, text: str) -> None:
        self._word = self._word if self._word is not None else []
        self._word.append(text)

    def _end_word(self) -> None:
        if self._word is None:
            return
        word, self._word = "".join(self._word), None
        if not self._drop_next:
            self._words.append(word)
        elif self._awaits_here:
            self._here.append(word)
        self._drop_next = self._awaits_here = False

    def _find(self, text: str, start: int) -> int:
        found = self._text.find(text, start)
        return found if found >= 0 else len(self._text)
