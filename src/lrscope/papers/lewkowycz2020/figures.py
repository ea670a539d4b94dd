"""Figures of the checks of lewkowycz2020; c is the learning rate times the curvature at the start."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lrscope.papers.drawing import DASHES, band, dots, interval, legend, line, log, muted, names, panels, seeds
from lrscope.papers.lewkowycz2020 import linear, networks, transition

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lrscope.records.outcome import Outcome


def _phase(c: float) -> int:
    """Colours of the lazy phase, the catapult and what diverges."""
    return 0 if c < 2 else 1 if c < 4 else 3


def _loss_and_curvature(curves: Mapping[str, Any], figure: Figure) -> None:
    left, right = panels(figure, 2)
    dash = dict.fromkeys(range(4), 0)
    for name, run in curves.items():
        c = float(name.split()[1])
        kind = _phase(c)
        for ax, column in ((left, "loss"), (right, "c")):
            values = [v if math.isfinite(v) and v < 1e6 else math.nan for v in run[column]]
            seeds(ax, range(len(values)), [values], f"c = {c:g}", kind, dash[kind])
        dash[kind] += 1
    line(right, 2, "2: stable below")
    line(right, 4, "4: grows above", dash=1)
    left.set_ylabel("loss")
    left.set_ylim(1e-7, 1e6)
    right.set_ylabel("lr x curvature")
    right.set_ylim(0, 6)
    for ax in (left, right):
        ax.set_xlabel("step")
        ax.set_xlim(0, 40)
    log(left)
    legend(figure)


@linear.phases.figure
@linear.full_model.figure
def phases(outcome: Outcome, figure: Figure) -> None:
    _loss_and_curvature(outcome.curves, figure)


@linear.growth.figure
def growth(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2)
    widths = outcome.curves["width"]
    runs = {name: run for name, run in outcome.curves.items() if name != "width"}
    for kind, ((name, run), slope) in enumerate(zip(runs.items(), outcome.numbers["expected_slopes"], strict=True)):
        left.plot(widths, run["peak_step"], "os^"[kind], color=f"C{kind}", ms=6, label=name.replace("c ", "c = "))
        middle = math.log(widths[len(widths) // 2])
        fit = [statistics.fmean(run["peak_step"]) + slope * (math.log(w) - middle) for w in widths]
        left.plot(widths, fit, color=f"C{kind}", lw=1.3, ls=DASHES[2], label="predicted slope" if kind == 2 else None)
        right.plot(widths, run["peak_per_width"], marker="os^"[kind], color=f"C{kind}", lw=1.2, ms=5)
    left.set_title("Step of the largest loss")
    right.set_title("Largest loss / width")
    right.set_ylim(0.01, 1)
    for ax in (left, right):
        ax.set_xlabel("width")
        log(ax, "x", ticks=[1e2, 1e4, 1e6, 1e8, 1e10])
        ax.set_xticks([1e2, 1e4, 1e6, 1e8, 1e10], ["1e2", "1e4", "1e6", "1e8", "1e10"])
    log(right)
    legend(figure)


@linear.kernel_is_hessian.figure
def kernel_is_hessian(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure, height=280)
    found = outcome.numbers["hessian_over_kernel"]
    for at, values in enumerate(found.values()):
        dots(ax, at, values, "a seed each; bar: mean" if not at else None, 0)
    band(ax, 0.98, 1.02, "criterion: within 2 %")
    names(ax, list(found))
    ax.set_ylabel("largest eigenvalue,\nHessian over kernel")
    legend(figure)


@linear.linear_again.figure
def linear_again(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2, share=True)
    for ax, when in ((left, "before"), (right, "after")):
        found = outcome.numbers[f"kernel_change_{when}"]
        widths = sorted({int(name.split()[1].strip(",")) for name in found})
        for name, values in found.items():
            width, c = int(name.split()[1].strip(",")), float(name.split()[-1])
            kind = (2.5, 3.0, 3.5).index(c)
            dots(ax, widths.index(width) + 0.22 * (kind - 1), values, f"c = {c:g}", kind)
        names(ax, [f"{w:,}" for w in widths])
        ax.set_xlabel("width")
        ax.set_title(f"{when.capitalize()} the loss is back")
    line(left, 0.3, "criterion before: above 0.3", dash=1)
    line(right, 0.1, "criterion after: below 0.1")
    left.set_ylabel("relative change of the kernel")
    log(left)
    log(right)
    legend(figure)


@networks.relu_catapult.figure
def relu_catapult(outcome: Outcome, figure: Figure) -> None:
    left, middle, right = panels(figure, 3, height=320)
    dash = dict.fromkeys(range(4), 0)
    for c, losses in outcome.curves["loss"].items():
        kind = 0 if float(c) < 2 else 1 if float(c) < 3.5 else 2 if float(c) < 5 else 3
        seeds(left, range(len(losses)), [losses], f"c = {c}", kind, dash[kind])
        dash[kind] += 1
    cs = [float(c) for c in outcome.numbers["largest_loss_over_first"]]
    spikes, late = (
        list(zip(*outcome.numbers[key].values(), strict=True))
        for key in ("largest_loss_over_first", "largest_lr_x_kernel_from_step_30")
    )
    seeds(middle, cs, spikes, "seeds, median", 4, 0)
    seeds(right, cs, late, "seeds, median", 4, 0)
    line(middle, 2, "above from c = 2.5 on", dash=1)
    line(right, 2, "below")
    left.set_title("Loss, seed 0")
    left.set_xlabel("step")
    left.set_ylim(1e-4, 1e3)
    middle.set_title("Largest / first loss")
    right.set_title("lr x kernel, late")
    for ax in (middle, right):
        ax.set_xlabel("c")
    right.set_ylim(0, 2.3)
    log(left)
    log(middle)
    legend(figure)


@networks.where_it_diverges.figure
def largest_rate(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure)
    found = outcome.numbers["smallest_diverging_c_by_seed"]
    words = {
        "linear": "linear",
        "tanh": "tanh",
        "relu 2": "ReLU,\n2 hidden layers",
        "relu 3": "ReLU,\n3 hidden layers",
    }
    for at, rows in enumerate(found.values()):
        for kind, (width, values) in enumerate(rows.items()):
            dots(ax, at + 0.24 * kind - 0.12, values, width if not at else None, kind)
    line(ax, 4, "4: the linear model's")
    line(ax, 12, "12: the paper's for ReLU", dash=1)
    names(ax, [words[name] for name in found])
    ax.set_ylabel("smallest c that diverges")
    log(ax, ticks=[2, 4, 8, 12, 16, 24, 32])
    legend(figure)


@networks.best_rate.figure
def best_rate(outcome: Outcome, figure: Figure) -> None:
    axes = panels(figure, 2, share=True)
    for ax, (key, words) in zip(axes, {"steps": "60 steps", "lr x steps": "60 x 12 / c steps"}.items(), strict=True):
        found = outcome.numbers["accuracy"][key]
        cs = [float(c) for c in found]
        for c, values in zip(cs, found.values(), strict=True):
            ax.plot([c] * len(values), values, "o", color="C0", mfc="none", ms=4.5, label="a seed each")
        ax.plot(cs, [statistics.fmean(v) for v in found.values()], color="C0", lw=1.8, label="mean")
        line(ax, 2, "2 / kernel", axis="x")
        line(ax, 12, "12 / kernel", axis="x", dash=1)
        ax.set_title(words)
        ax.set_xlabel("c")
        log(ax, "x", ticks=[0.5, 1, 2, 4, 8, 12])
    axes[0].set_ylabel("test accuracy in %")
    legend(figure)


@transition.edge.figure
def edge(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure)
    cs = outcome.curves["c"]
    for kind, (name, peaks) in enumerate((k, v) for k, v in outcome.curves.items() if k != "c"):
        seeds(ax, cs, [[v if math.isfinite(v) else math.nan for v in peaks]], name, kind)
    ax.axvspan(4, max(cs), color=muted(), alpha=0.16, lw=0, label="every run diverges")
    line(ax, 2, "2: the loss begins to rise", axis="x")
    line(ax, 4, "4: the edge", axis="x", dash=1)
    ax.set_xlabel("c = lr x curvature at the start")
    ax.set_ylabel("largest loss over the first")
    log(ax)
    legend(figure)


@transition.width_drops_out.figure
def width_drops_out(outcome: Outcome, figure: Figure) -> None:
    axes = panels(figure, len(outcome.curves), share=True)
    for ax, (name, runs) in zip(axes, outcome.curves.items(), strict=True):
        for kind, (width, losses) in enumerate(runs.items()):
            # Widest lines first, so that lines on top of each other are all seen.
            ax.plot(losses, color=f"C{kind}", lw=(6, 3.4, 1.3)[kind % 3], ls=DASHES[0], label=width)
        ax.set_title(f"Output / root of width {name.split()[1]}")
        ax.title.set_fontsize("small")
        ax.set_xlabel("step")
        ax.set_xlim(0, 30)
    for ax in axes:
        ax.set_ylim(1e-9, 1)
        log(ax)
    axes[0].set_ylabel("loss / width at c = 3.5")
    legend(figure)


@transition.kink.figure
def kink(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure)
    found = {float(c): one for c, one in outcome.numbers["kernel_over_start"].items()}
    for at, (c, one) in enumerate(found.items()):
        ax.plot([c] * len(one["values"]), one["values"], "o", color="C0", mfc="none", ms=5,
                label="a seed each; bar: 95 % of the mean" if not at else None)  # fmt: skip
        interval(ax, c * 1.03, one, 1)
    ax.plot(list(found), [one["mean"] for one in found.values()], color="C0", lw=1.6)
    fine = [2 * 1.02**k for k in range(58)]
    ax.plot(fine, [2 / c for c in fine], color=muted(), lw=1.3, ls=DASHES[2], label="2 / lr: stable below")
    line(ax, 2, "2 / kernel", axis="x", dash=1)
    band(ax, 0.9, 1.1, "criterion below 2")
    ax.set_xlabel("c = lr x kernel at the start")
    ax.set_ylabel("kernel over that at the start")
    log(ax, "x", ticks=list(found))
    log(ax, ticks=[0.05, 0.1, 0.2, 0.5, 1])
    legend(figure)


@transition.without_noise.figure
def without_noise(outcome: Outcome, figure: Figure) -> None:
    axes = panels(figure, 2, share=True)
    for name, losses in outcome.curves.items():
        size, c = name.split(", c ")
        whole = size == next(iter(outcome.curves)).split(", c ")[0]
        kind = 0 if float(c) < 2 else 1 if float(c) < 4 else 2
        seeds(axes[not whole], range(len(losses)), [losses], f"c = {c}", kind)
        axes[not whole].set_title("Gradient descent" if whole else size.capitalize())
    for ax in axes:
        line(ax, 1, "loss at the start")
        ax.set_xlim(0, 40)
        ax.set_xlabel("step, seed 0")
        log(ax)
    axes[0].set_ylabel("loss over the first")
    legend(figure)
