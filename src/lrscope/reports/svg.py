"""A matplotlib figure as inline SVG that follows the page: its colours, its font, its width."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from lrscope.reports.figures.style import COLOURS, settings

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HEX = {light: name for name, (light, _) in COLOURS.items()}
_COLOUR = re.compile("|".join(sorted(map(re.escape, _HEX), key=len, reverse=True)), re.IGNORECASE)


def render(draw: Callable[[Figure], object], key: str, width: int, height: int, *, compact: bool, alt: str) -> str:
    """Draw at ``width`` x ``height`` CSS pixels and return an ``<svg>`` element.

    Colours of the style table become CSS variables, text stays text in the page's font, and ids carry ``key`` so that
    several drawings can live in one page.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    page = {"svg.fonttype": "none", "svg.hashsalt": key, "savefig.dpi": 72, "figure.dpi": 72}
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's own style would break the colour table
        for name, value in (settings(compact=compact) | page).items():
            mpl.rcParams[name] = value  # pyright: ignore[reportArgumentType]
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return inline(out.getvalue(), key, alt)


def inline(svg: str, key: str, alt: str) -> str:
    """A standalone SVG document as an element for an HTML page: no namespaces, no metadata, no global style."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = svg.replace("xlink:href", "href")
    box = re.search(r'viewBox="([^"]+)"', svg)
    label = alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
    head = f'<svg viewBox="{box.group(1) if box else ""}" role="img" aria-label="{label}">'
    svg = re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)
    used = set(re.findall(r'(?:href="#|url\(#)([\w.-]+)', svg))
    svg = re.sub(r'\sid="([^"]*)"', lambda m: f' id="{key}-{m.group(1)}"' if m.group(1) in used else "", svg)
    svg = re.sub(r'(href="#|url\(#)([\w.-]+)', lambda m: f"{m.group(1)}{key}-{m.group(2)}", svg)
    svg = re.sub(r"font-family: [^;\"]*;?\s*", "", svg)
    svg = re.sub(r'fill="(#[0-9a-fA-F]{6})"', r'style="fill: \1"', svg)  # variables work in style only
    svg = _COLOUR.sub(lambda m: f"var(--{_HEX[m.group(0).lower()]})", svg)
    svg = re.sub(r'\stransform="rotate\(-0 [^)]*\)"', "", svg)
    return re.sub(r"\s*\n\s*", " ", svg).strip()


def css_variables(mode: int) -> str:
    """Declarations of all colours; mode 0 is light, 1 is dark."""
    return "".join(f"--{name}:{pair[mode]};" for name, pair in COLOURS.items())
