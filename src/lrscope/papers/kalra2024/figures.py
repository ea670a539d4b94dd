"""Figures of the checks of kalra2024 along training: sharpness, thresholds, warmups."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lrscope.papers.drawing import band, diagonal, dots, legend, line, log, names, panels, seeds, spaced, stack
from lrscope.papers.kalra2024 import adam, figures_boundary, sharpness, solvable, warmup

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lrscope.records.outcome import Outcome

STARTS = {"sp": "standard", "mup": "muP", "zero": "last layer of zeros"}
RULES = {"gd": "gradient descent", "momentum": "momentum 0.9", "adam": "Adam's rule, frozen P"}


@solvable.thresholds.figure
def thresholds(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure)
    for kind, (rule, words) in enumerate(RULES.items()):
        found = outcome.curves[rule]
        seeds(ax, found["lr"], [found["factor"]], f"{words}: crosses at {outcome.numbers[rule]:.4g}", kind)
    for value in (2, 3.8, 38):
        line(ax, value, "predicted: 2, 3.8 and 38", axis="x")
    ax.axhline(1, color="C4", lw=1.0, label="neither grows nor shrinks")
    ax.set_ylim(0.85, 1.45)
    ax.set_xlabel("learning rate x curvature")
    ax.set_ylabel("factor per step")
    log(ax, "x")
    legend(figure)


@solvable.sign_rule.figure
def sign_rule(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure)
    for kind, (name, found) in enumerate(outcome.curves.items()):
        scale, c = name.replace("scale ", "").split(", c ")
        seeds(ax, found["step"], found["curvature"], f"weights x {scale}, lr x curvature {c}", kind)
    line(ax, 1, "unchanged")
    ax.set_xlabel("step")
    ax.set_ylabel("curvature over that at the start")
    log(ax)
    log(ax, "x")
    legend(figure)


@adam.first_step.figure
def first_step(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2)
    found = outcome.numbers
    for at, start in enumerate(("sp", "mup")):
        ratio = found[f"{start} GI-Adam over Adam"]
        ours = [a * r for a, r in zip(found[f"{start} Adam"], ratio["values"], strict=True)]
        dots(left, at - 0.12, found[f"{start} Adam"], "Adam" if not at else None, 1)
        dots(left, at + 0.12, ours, "GI-Adam" if not at else None, 0)
        dots(right, at, ratio["values"], None, 2)
    line(right, math.sqrt(1e-3), "sqrt(1 - beta2) = 0.0316")
    band(right, 0.030, 0.035, "criterion for the standard start")
    left.set_ylabel("preconditioned sharpness")
    left.set_title("Before the first update")
    right.set_title("GI-Adam over Adam")
    right.set_ylim(0.01, 0.12)
    for ax in (left, right):
        names(ax, ["standard", "muP"])
        log(ax)
    legend(figure)


@adam.identity.figure
def identity(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure, height=260)
    lines = [[max(gap, 1e-18) for gap in row] for row in outcome.curves["gap"]]
    seeds(ax, range(1, len(lines[0]) + 1), lines, "GI-Adam beside the formula", 0)
    line(ax, 1e-10, "criterion: below 1e-10")
    ax.set_ylim(1e-18, 1e-8)
    ax.set_xlabel("step")
    ax.set_ylabel("largest gap between weights")
    log(ax)
    legend(figure)


@adam.falls_at_once.figure
def falls_at_once(outcome: Outcome, figure: Figure) -> None:
    axes = panels(figure, 2, share=True)
    for name, rows in outcome.numbers["lr_times_sharpness_by_seed_and_update"].items():
        kind, lr = name.split(", ")
        which = 0 if lr == "lr 0.001" else 1
        seeds(axes[kind != "Adam"], range(1, len(rows[0]) + 1), rows, lr, which)
    for ax, words in zip(axes, ("Adam", "GI-Adam"), strict=True):
        line(ax, 38, "38: Adam's threshold late")
        line(ax, 20, "20: that of the first update", dash=1)
        ax.set_title(words)
        ax.set_xlabel("update")
        log(ax)
    axes[0].set_ylabel("lr x preconditioned sharpness")
    legend(figure)


@adam.edge.figure
def edge(outcome: Outcome, figure: Figure) -> None:
    axes = panels(figure, 2, share=True)
    found = {name: rows for name, rows in outcome.curves.items() if name != "step"}
    for ax, (name, rows) in zip(axes, found.items(), strict=True):
        seeds(ax, outcome.curves["step"], rows, "a seed each, and their median", 0)
        line(ax, 38, "38")
        band(ax, 38 * 0.9, 38 * 1.1, "criterion for the mean")
        ax.set_title(name)
        ax.set_xlabel("step")
        ax.set_ylim(15, 200)
        log(ax, ticks=[20, 38, 50, 100, 200])
    axes[0].set_ylabel("lr x preconditioned sharpness")
    legend(figure)


@sharpness.solver.figure
def solver(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure, height=260)
    for at, (name, errors) in enumerate(outcome.numbers["relative_error"].items()):
        dots(ax, at - 0.1, [max(e, 1e-17) for e in errors[::2]], "at the start" if not at else None, 0)
        dots(ax, at + 0.1, [max(e, 1e-17) for e in errors[1::2]], "after updates of Adam" if not at else None, 1)
        del name
    line(ax, 1e-4, "criterion: below 1e-4")
    names(ax, ["sharpness, H", "preconditioned, P^-1 H"])
    ax.set_ylim(1e-17, 1e-3)
    ax.set_ylabel("relative error")
    log(ax)
    legend(figure)


@sharpness.by_itself.figure
def by_itself(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure)
    for kind, (start, words) in enumerate(STARTS.items()):
        seeds(ax, outcome.curves["step"], outcome.curves[start], words, kind)
    last = outcome.curves["step"][-1]
    for start, low, high, kind in (("sp", 0.0, 0.6, 0), ("mup", 2.0, math.inf, 1), ("zero", 1.1, 2.0, 2)):
        del start
        bounds = [max(low, 0.1), min(high, 8.0)]
        ax.plot([last * 1.04] * 2, bounds, color=f"C{kind}", lw=4, alpha=0.5, solid_capstyle="butt")
    line(ax, 1, "as at the start")
    ax.set_xlabel("step of gradient descent; bars at the right: the criterion for the last")
    ax.set_ylabel("sharpness over that at the start")
    log(ax, ticks=[0.1, 0.2, 0.5, 1, 2, 5])
    legend(figure)


@sharpness.gain.figure
def gain(outcome: Outcome, figure: Figure) -> None:
    axes = panels(figure, 2, share=True)
    steps = [int(name.split()[1]) for name in outcome.numbers["largest_c_by_seed"]["sp, finite"]]
    for ax, start in zip(axes, ("sp", "mup"), strict=True):
        for kind, (told, words) in enumerate({"finite": "the loss stays finite", "trained": "it trains"}.items()):
            found = outcome.numbers["largest_c_by_seed"][f"{start}, {told}"]
            rows = [[max(v, 0.5) for v in row] for row in zip(*found.values(), strict=True)]
            seeds(ax, steps, rows, words, kind)
        ax.set_title(f"{STARTS[start]} start".capitalize() if start == "sp" else "muP")
        ax.set_xlabel("warmup in steps")
        log(ax, "x", ticks=steps)
    for ax in axes:
        log(ax, ticks=[0.5, 1, 4, 16, 64, 256, 1024])
    axes[0].set_ylabel("largest peak lr x sharpness at the start")
    legend(figure)


@sharpness.final_norm.figure
def final_norm(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2)
    first, ratio = outcome.numbers["sharpness_at_start"], outcome.numbers["without_over_with"]
    dots(left, 0, first["with"], None, 0)
    dots(left, 1, first["without"], None, 1)
    names(left, ["with", "without"])
    left.set_title(f"At the start: {ratio['mean']:.0f} times as sharp")
    left.set_ylabel("sharpness")
    log(left, ticks=[10, 20, 50, 100, 200, 500])
    for kind, name in enumerate(("with", "without")):
        rows = [[1.0, *row] for row in outcome.numbers["sharpness_over_start"][name]]
        seeds(right, [0, *outcome.numbers["read_at"]], rows, f"{name} final normalisation", kind)
    line(right, 1, "as at the start")
    right.set_title("Then")
    right.set_xlabel("step")
    right.set_ylabel("over that at the start")
    log(right)
    legend(figure)


@warmup.crossings.figure
def crossings(outcome: Outcome, figure: Figure) -> None:
    top, below = stack(figure, 2, len(outcome.curves))
    for upper, lower, (name, run) in zip(top, below, outcome.curves.items(), strict=True):
        steps = spaced(len(run["loss"]), int(name.split()[1]) + outcome.settings["after"] - 1)
        upper.plot(steps, run["loss"], color="C0", lw=1.7, label="loss")
        lower.plot(run["read_at"], run["sharpness"], color="C1", lw=1.7, label="sharpness")
        lower.plot(steps, [2 / lr for lr in run["lr"]], color="C2", lw=1.5, ls=(0, (5, 2)), label="2 / lr")
        upper.set_title(name)
        lower.set_xlabel("step")
        log(upper)
        log(lower)
    top[0].set_ylabel("loss, seed 0")
    below[0].set_ylabel("sharpness")
    legend(figure)


@warmup.searches.figure
def searches(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2)
    nets = list(outcome.numbers["c_by_network"])
    each = len(outcome.numbers["c_by_network"][nets[0]])
    for kind, (delta, ratios) in enumerate(outcome.numbers["found_over_true"].items()):
        for at in range(len(nets)):
            part = slice(at * each, (at + 1) * each)
            label = f"loss may rise by {delta}" if not at else None
            dots(left, at + 0.24 * kind - 0.12, ratios[part], label, kind)
            dots(right, at + 0.24 * kind - 0.12, outcome.numbers["forward_passes"][delta][part], None, kind)
    band(left, 0.99, 1.2, "criterion at 0.1")
    line(left, 1.03, "upper bound at 0.01")
    line(right, 25, "criterion: at most 25 passes", dash=1)
    left.set_title("Learning rate found over the true one")
    right.set_title("Forward passes")
    for ax in (left, right):
        names(ax, [net.replace(", width ", "\n").replace("sp", "std") for net in nets])
        ax.set_xlabel("start and width")
    legend(figure)


@warmup.from_critical.figure
def from_critical(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2)
    rows: list[dict[str, Any]] = outcome.numbers["rows"]
    for kind, c in enumerate(sorted({row["c"] for row in rows})):
        mine = [row for row in rows if row["c"] == c]
        x, y = [row["formula"] for row in mine], [row["reached"] for row in mine]
        left.plot(x, y, "os^"[kind], color=f"C{kind}", mfc="none", mew=1.4, ms=6, ls="none", label=f"peak c = {c:g}")
        dots(right, kind, [row["loss_ratio"] for row in mine], None, kind)
    diagonal(left, 0, 64, "equal")
    line(right, 1.3, "criterion: at most 1.3", dash=1)
    left.set_xlabel("T (1 - critical / peak)")
    left.set_ylabel("step")
    left.set_title("Reaches the peak at the predicted step")
    right.set_title("Last loss over that from 0")
    right.set_ylim(0, 1.5)
    names(right, [f"c = {c:g}" for c in sorted({row["c"] for row in rows})])
    legend(figure)


@warmup.catapults.figure
def catapults(outcome: Outcome, figure: Figure) -> None:
    top, below = stack(figure, 2, len(outcome.curves))
    for upper, lower, (name, runs) in zip(top, below, outcome.curves.items(), strict=True):
        for kind, (words, run) in enumerate(runs.items()):
            steps = list(range(1, len(run["lr"]) + 1))
            seeds(upper, steps, [run["lr"]], words, kind)
            seeds(lower, steps, [run["loss"]], words, kind)
        upper.set_title(f"Peak {name}")
        lower.set_xlabel("step, seed 0")
        log(lower, "x")
        log(lower)
    top[0].set_ylabel("learning rate")
    below[0].set_ylabel("loss")
    legend(figure)


__all__ = ["figures_boundary"]
