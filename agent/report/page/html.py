"""A little HTML: what is not made here is text, and is escaped."""

from __future__ import annotations

from html import escape


class Html(str):
    """Markup, as opposed to text."""

    __slots__ = ()


_VOID = frozenset({"meta", "br", "hr"})


def tag(name: str, /, *inside: object, **attributes: object) -> Html:
    """An element. Of what is inside, None is nothing, markup is taken as it is, and all else is text. Attributes: a trailing
    ``_`` is dropped (``class_``), another ``_`` is a dash; None and False leave one out, True is one without a value."""
    head = "".join(_attribute(key.removesuffix("_").replace("_", "-"), value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{head}>")
    return Html(f"<{name}{head}>{joined(*inside)}</{name}>")


def joined(*inside: object) -> Html:
    """Markup and text, one after the other."""
    return Html("".join(part if isinstance(part, Html) else escape(str(part)) for part in inside if part is not None))


def _attribute(name: str, value: object) -> str:
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
