"""The picture of giadam.md: how much of the stable range the first steps of Adam use, measured while it trains.

python docs/giadam_picture.py        # writes docs/images/giadam.svg; half a minute
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

import lrscope as lrs
from lrscope.reports.figures.style import colour, settings
from lrscope.schedules import Constant, Linear
from lrscope.stability import SharpnessProbe

OUT = Path(__file__).parent / "images" / "giadam.svg"
PEAK, STEPS = 3e-3, 300
MARKS = (1, 2, 3, 5, 10, 20, 50, 100, 200, 300)
CASES = {
    "AdamW": ("adamw", PEAK * Constant(1.0), "default", (0, (5, 2))),
    "AdamW, 100 steps of warmup": (
        "adamw",
        PEAK * Linear(0.01, 1.0, 99).then(Constant(1.0)),
        "cosine",
        (0, (1.2, 1.2)),
    ),
    "GI-AdamW": ("giadamw", PEAK * Constant(1.0), "planned", "-"),
}


def measure() -> dict[str, lrs.records.Run]:
    """Three runs from one start over the same batches, with the preconditioned sharpness before every update."""
    task = lrs.tasks.digits()
    return {
        name: lrs.train(task, rule, shape, STEPS, probes=[SharpnessProbe(task, every=1, budget=None)])
        for name, (rule, shape, _, _) in CASES.items()
    }


def draw(figure: Figure, runs: dict[str, lrs.records.Run]) -> None:
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    for name, run in runs.items():
        _, _, shade, dash = CASES[name]
        step, headroom = run["headroom"]
        top.plot(step + 1, headroom, color=colour(shade), linestyle=dash)
        step, loss = run["loss"]
        bottom.plot(step + 1, loss, color=colour(shade), linestyle=dash, label=name)
    top.axhline(1.0, color=colour("limit"), linewidth=0.8)
    top.set(yscale="log", ylabel="learning rate /\nlargest stable one")
    top.text(STEPS * 0.95, 1.2, "largest stable learning rate", ha="right", va="bottom", color=colour("limit"))
    bottom.legend(frameon=False, loc="lower left")
    bottom.set(xscale="log", xlabel="update", ylabel="loss", xlim=(1, STEPS))


def main() -> None:
    runs = measure()
    for name, run in runs.items():
        step, headroom = run["headroom"]
        print(name, {int(s) + 1: round(float(h), 3) for s, h in zip(step, headroom, strict=True) if s + 1 in MARKS})
        print(" ", {k: round(run.final(k), 4) for k in ("eval_loss", "accuracy")})
    for key, value in (settings(compact=True) | {"svg.hashsalt": "giadam"}).items():
        mpl.rcParams[key] = value  # pyright: ignore[reportArgumentType]
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    draw(figure, runs)
    figure.savefig(OUT, metadata={"Date": None})


if __name__ == "__main__":
    main()
