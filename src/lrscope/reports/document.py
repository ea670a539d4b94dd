"""The shell of every page: one file, no network, light and dark, wide and narrow."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from lrscope.records import strict_json
from lrscope.reports.markup import Markup, tag
from lrscope.reports.svg import css_variables


def document(title: str, *body: object, data: Any = None) -> str:
    """A whole page as text.

    Args:
        title: Of the window.
        body: Elements of the page, of :func:`~lrscope.reports.markup.tag`.
        data: What the page shows, embedded as JSON under the id ``lrscope-data``.
    """
    script = (
        None if data is None else tag("script", Markup(_embedded(data)), type="application/json", id="lrscope-data")
    )
    return "<!doctype html>\n" + tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            tag("style", Markup(style())),
        ),
        tag("body", tag("main", *body), script),
        lang="en",
    )


def style() -> str:
    light, dark = css_variables(0), css_variables(1)
    modes = f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
    return modes + files("lrscope.reports").joinpath("page.css").read_text(encoding="utf-8")


def _embedded(data: Any) -> str:
    """JSON that cannot end its script element, and holds no address that a browser would open."""
    return strict_json(data, separators=(",", ":"), default=str).replace("<", "\\u003c").replace("http", "\\u0068ttp")
