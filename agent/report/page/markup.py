"""HTML from values: what is text is escaped, always. Pure."""

from __future__ import annotations

from html import escape


class Html(str):
    """Markup, to be sent as it is; every other string is text."""

    __slots__ = ()


Child = str | int | None
Value = str | int | float | bool | None

_VOID = frozenset({"meta", "link"})


def tag(name: str, /, *children: Child, **attributes: Value) -> Html:
    """An element. Children are markup or text, None is nothing. ``class_`` and ``data_at`` are written ``class`` and ``data-at``;
    an attribute that is True stands alone, one that is False or None is left out."""
    head = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    if name in _VOID:
        return Html(head)
    return Html(f"{head}{joined(*children)}</{name}>")


def joined(*children: Child) -> Html:
    """One after the other, without an element around."""
    return Html("".join(map(_child, children)))


def _child(child: Child) -> str:
    if child is None:
        return ""
    return child if isinstance(child, Html) else escape(_printable(str(child)))


def _attribute(key: str, value: Value) -> str:
    name = key.removesuffix("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(_printable(str(value)))}"'


def _printable(text: str) -> str:
    """Half of a surrogate pair, which no encoding can write, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
