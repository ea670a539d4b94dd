"""The pictures of the page on solvable models, drawn by the models themselves before every build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lrscope.reports.figures.style import COLOURS, colour
from lrscope.reports.svg import render
from lrscope.solvable import UV, LastLayer, ScaleInvariant
from lrscope.solvable.last_layer import run_together

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
WIDTH = 560  # CSS pixels
USED = ("ink", "muted", "grid", "rule", "planned", "default", "cosine", "failed-ink")
LINES = (("planned", "-"), ("default", (0, (5, 2))), ("cosine", (0, (1.2, 1.2))))


def phases(figure: Figure) -> None:
    UV(width=512).phase_diagram(seeds=4).plot(figure)


def catapult(figure: Figure) -> None:
    uv = UV(width=512)
    run = uv.run([c / uv.kernel for c in (1.5, 2.5, 3.5)], 60)
    labels = ("1.5 / curvature", "2.5 / curvature", "3.5 / curvature")
    for ax, what in zip(figure.subplots(2, sharex=True), ("loss", "kernel"), strict=True):
        for k, (name, dash) in enumerate(LINES):
            ax.plot(run[what][:, k], color=colour(name), linestyle=dash, linewidth=1.8, label=labels[k])
            if what == "kernel":
                ax.axhline(2 / float(run.lr[0, k]), color=colour(name), linestyle=(0, (1, 4)), linewidth=1.2)
        ax.set_ylabel("loss" if what == "loss" else "curvature; dots: 2 / lr")
    upper, lower = figure.axes
    upper.set_yscale("log")
    upper.set_ylim(bottom=1e-12)
    lower.set_ylim(bottom=0)
    lower.set_xlabel("step")
    upper.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderpad=0, title=None)


def spikes(figure: Figure) -> None:
    lr = 0.05
    ax, below = figure.subplots(2, sharex=True)
    for (name, dash), decay in zip(LINES, (0.05, 0.0), strict=False):
        model = ScaleInvariant(weight_decay=decay)
        run = model.run(lr, 6000)
        ax.plot(
            run.loss.clamp(min=1e-12),
            color=colour(name),
            linestyle=dash,
            linewidth=1.2,
            label=f"weight decay {decay:g}",
        )
        below.plot(run["norm"], color=colour(name), linestyle=dash, linewidth=1.2)
    below.axhline(ScaleInvariant(weight_decay=0.05).critical_norm(lr), color=colour("ink"), linewidth=1.0)
    ax.set_yscale("log")
    ax.set_ylabel("loss")
    below.set_ylabel("norm; line: critical")
    below.set_xlabel("step")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, borderpad=0)


def floors(figure: Figure) -> None:
    both = LastLayer(weight_decay=0.05)
    models = {
        "both": both,
        "weight decay only": LastLayer(weight_decay=0.05, normalised=False),
        "normalised only": LastLayer(weight_decay=0.0),
    }
    error = run_together(list(models.values()), 4000).error
    smooth = error[: len(error) // 40 * 40].reshape(-1, 40, 3).mean(1)
    ax = figure.add_subplot()
    for k, ((name, dash), (label, model)) in enumerate(zip(LINES, models.items(), strict=True)):
        ax.plot(torch.arange(len(smooth)) * 40, smooth[:, k], color=colour(name), linestyle=dash, label=label)
        if model.error_floor:
            ax.axhline(model.error_floor, color=colour("ink"), linewidth=0.9)
    ax.set_yscale("log")
    ax.set_ylabel("error (mean of 40 steps)")
    ax.set_xlabel("step; lines: predicted floors")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, borderpad=0)


FIGURES: dict[str, tuple[Callable[[Figure], None], int, str]] = {
    "phases": (phases, 420, "Largest loss and final curvature against the learning rate, with boundaries at 2 and 4"),
    "catapult": (catapult, 360, "Loss and curvature over 60 steps at three learning rates"),
    "spikes": (spikes, 340, "Loss and norm over 6,000 steps with and without weight decay"),
    "floors": (floors, 260, "Error over 4,000 steps of three kinds of training, with predicted floors"),
}


def write(folder: Path = HERE / "_generated") -> list[Path]:
    """One file for each picture, which the page includes; what would not change is left alone."""
    folder.mkdir(exist_ok=True)
    files = []
    for name, (draw, height, alt) in FIGURES.items():
        svg = render(draw, f"solvable-{name}", WIDTH, height, compact=True, alt=alt)
        text = f'```{{raw}} html\n{_style()}<figure class="solvable">{svg}</figure>\n```\n'
        files.append(folder / f"solvable_{name}.md")
        if not files[-1].exists() or files[-1].read_text(encoding="utf-8") != text:
            files[-1].write_text(text, encoding="utf-8")
    return files


def _style() -> str:
    """Colours in both modes of the page."""
    light, dark = ("".join(f"--{name}:{COLOURS[name][mode]};" for name in USED) for mode in (0, 1))
    return (
        f"<style>.solvable{{{light}margin:1em 0}}body[data-theme=dark] .solvable{{{dark}}}"
        f"@media(prefers-color-scheme:dark){{body:not([data-theme=light]) .solvable{{{dark}}}}}"
        f".solvable svg{{width:{WIDTH}px;max-width:100%;height:auto;"
        "font-family:var(--font-stack,sans-serif)}</style>"
    )
