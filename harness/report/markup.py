"""HTML in which everything is escaped that was not made here."""

from __future__ import annotations

import re
from html import escape
from typing import Any

_VOID = ("br", "col", "img", "input")


class Html(str):
    """Text that is markup already; any other string is escaped when it is put into a tag."""

    __slots__ = ()


def tag(name: str, *children: Any, **attributes: Any) -> Html:
    """An element. `class_` and `for_` lose their underscore, others turn `_` into `-`; None and "" are left out."""
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value not in (None, "", False))
    return Html(f"<{name}{written}>" if name in _VOID else f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Any) -> Html:
    """Children one after another, escaped where they are not markup; lists are flattened and None is left out."""
    parts = []
    for child in children:
        if isinstance(child, list | tuple):
            parts.append(join(*child))
        elif child is not None:
            parts.append(child if isinstance(child, Html) else escape(str(child)))
    return Html("".join(parts))


def breakable(text: str) -> Html:
    """A name that may break after the marks inside it, so that a long one does not widen its column."""
    return Html(re.sub(r"([_+,\[/])", r"\1<wbr>", escape(text)))


def script_json(text: str) -> Html:
    """JSON that may stand inside a script element: nothing in it can end the element or open a comment."""
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return Html(safe.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _attribute(key: str, value: Any) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
