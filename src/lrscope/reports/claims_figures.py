"""Drawings of claims in the colours of the reports: inline for a page, or as a file."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from lrscope.records.outcome import Outcome
from lrscope.reports.figures.style import colour, settings
from lrscope.reports.svg import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Draw = Callable[[Outcome, "Figure"], object]
WIDTH, HEIGHT = 680, 300
"""CSS pixels; a drawing may set another height."""
CYCLE = ("planned", "default", "cosine", "other", "warmup-0", *(f"level-{i}" for i in range(6)))
CYCLE += ("on-level-0", "on-level-3")
"""What C0 to C12 are in a drawing."""


def inline_figure(outcome: Outcome, draw: Draw) -> str:
    """The figure of an outcome as an ``<svg>`` element that follows the page's colours."""
    alt = f"Figure of {outcome.id}: {outcome.statement}"
    key = outcome.id.replace("/", "-")
    return render(lambda figure: _themed(outcome, draw, figure), key, WIDTH, HEIGHT, compact=False, alt=alt)


def save_figure(outcome: Outcome, draw: Draw, path: Path) -> Path:
    """The figure as a file, SVG or PNG by its name, in light colours on paper; SVG keeps text as text."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context():
        mpl.rcdefaults()
        page = {"svg.fonttype": "none", "svg.hashsalt": outcome.id, "savefig.dpi": 72, "figure.dpi": 72}
        for name, value in (settings() | page).items():
            mpl.rcParams[name] = value  # pyright: ignore[reportArgumentType]
        figure = Figure(figsize=(WIDTH / 72, HEIGHT / 72), layout="constrained", facecolor=colour("paper"))
        _themed(outcome, draw, figure)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            figure.savefig(path, dpi=110)
            return path
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        text = re.sub(r'\sd="[^"]*"', _shorter, out.getvalue())
        path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")
    return path


def _shorter(outline: re.Match[str]) -> str:
    """A path to a hundredth of a pixel."""
    return re.sub(r"(\d\.\d\d)\d+", r"\1", outline.group())


def _themed(outcome: Outcome, draw: Draw, figure: Figure) -> None:
    import matplotlib as mpl
    from cycler import cycler

    # Within the context of whoever renders, which puts the cycle back.
    mpl.rcParams["axes.prop_cycle"] = cycler(color=[colour(name) for name in CYCLE])
    draw(outcome, figure)
