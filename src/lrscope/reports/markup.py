"""HTML elements from Python values: text is escaped unless it is markup already."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape


class Markup(str):
    """A string that is HTML already."""


_VOID = {"meta", "br", "hr", "col"}


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """``<name …>children</name>``; ``class_`` stands for ``class``, ``None`` leaves an attribute or child out."""
    head = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{head}>")
    return Markup(f"<{name}{head}>{join(*children)}</{name}>")


def join(*children: object) -> Markup:
    parts = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, (list, tuple)):
            parts.append(join(*child))
        else:
            parts.append(child if isinstance(child, Markup) else escape(str(child), quote=False))
    return Markup("".join(parts))


def table(
    header: Sequence[object], rows: Sequence[Sequence[object]], *, numeric: int = 1, class_: str | None = None
) -> Markup:
    """A table in a box of its own that scrolls sideways; columns from ``numeric`` on are numbers."""

    def line(cells: Sequence[object], cell: str) -> Markup:
        return tag("tr", [tag(cell, c, class_="n" if i >= numeric else None) for i, c in enumerate(cells)])

    body = tag("tbody", [line(row, "td") for row in rows])
    return tag(
        "div", tag("table", tag("thead", line(header, "th")), body, class_=class_), class_="scroll", tabindex="0"
    )
