"""Figures of the checks of gotmare2018 by layer and by run: similarities, warmups, students, as in Figs. 4 to 6."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lrscope.papers.drawing import DASHES, SHADES, dots, interval, legend, line, log, names, panels, seeds
from lrscope.papers.gotmare2018 import distillation, restarts, warmup
from lrscope.studies.warmup import FROZEN, WITH, WITHOUT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from lrscope.records.outcome import Outcome

KINDS = {WITH: 0, WITHOUT: 1, FROZEN: 2, warmup.SHALLOW: 3}
"""Colours and dashes of the runs."""
SHORT = {WITH: "warmup", WITHOUT: "none", FROZEN: "deep\nfrozen", warmup.SHALLOW: "shallow\nfrozen"}


@restarts.shallow_layers_stay.figure
def shallow_layers_stay(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2, width_ratios=(3, 2))
    found = outcome.numbers["shallow less deep"]
    for kind, (name, rows) in enumerate(outcome.curves.items()):
        words = {"restarts": "with restarts", "two drops": "with two drops"}[name]
        seeds(left, range(1, len(rows[0]) + 1), rows, words, kind)
        dots(right, kind, found[name]["values"], None, kind)
    line(right, 0, "criterion: above 0")
    left.set_xlabel("layer")
    left.set_ylabel("SVCCA, epoch 15 with 75")
    left.set_xticks(range(1, 6))
    right.set_title("First two less last two")
    names(right, list(found))
    legend(figure)


def _accuracies(ax: Axes, outcome: Outcome) -> None:
    found = outcome.numbers["accuracy"]
    for at, (name, values) in enumerate(found.items()):
        dots(ax, at, [100 * v for v in values["values"]], None, KINDS[name])
    names(ax, [SHORT[name] for name in found])
    ax.tick_params(axis="x", length=0)
    ax.set_ylim(0, 105)
    ax.set_title("Last accuracy in %")


@warmup.warmup_rescues.figure
@warmup.freezing_instead.figure
@warmup.not_the_shallow_layers.figure
def runs(outcome: Outcome, figure: Figure) -> None:
    """Loss and learning rate along the runs, and how far they come (Figs. 4 a, 4 b and 5)."""
    left, middle, right = panels(figure, 3, width_ratios=(4, 3, 3))
    for name, found in outcome.curves.items():
        loss = [[v if math.isfinite(v) else math.nan for v in row] for row in found["loss"]]
        each(left, found["step"], loss, name, KINDS[name])
        seeds(middle, found["step"], [found["lr"]], name, KINDS[name])
    _accuracies(right, outcome)
    if outcome.name == "warmup-rescues":
        line(right, 95, "criterion: 95 or more with warmup")
        line(right, 90, "90 or less without", dash=1)
    left.set_title("Training loss")
    middle.set_title("Learning rate")
    for ax in (left, middle):
        ax.set_xlabel("step")
    log(left)
    legend(figure)


def each(ax: Axes, x: Sequence[float], rows: Sequence[Sequence[float]], label: str, kind: int) -> None:
    """A line for each seed, where their shapes differ and a median would be none of them."""
    for i, row in enumerate(rows):
        ax.plot(x, row, color=f"C{kind}", lw=1.2, ls=DASHES[kind], alpha=0.8, label=label if not i else None)


@warmup.warmup_keeps_the_last_layer.figure
def keeps_the_last_layer(outcome: Outcome, figure: Figure) -> None:
    """Similarity of each layer before and after the warmup's steps (Fig. 4 c)."""
    left, right = panels(figure, 2, width_ratios=(3, 2))
    _by_layer(left, outcome.curves, "SVCCA, step 0 with 60")
    for at, (name, found) in enumerate(outcome.numbers["last layer"].items()):
        dots(right, at, found["values"], None, KINDS[name])
    right.set_title("Last layer, seeds that both have")
    names(right, list(outcome.numbers["last layer"]))
    legend(figure)


@warmup.warmup_limits_movement.figure
def limits_movement(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2, width_ratios=(3, 2))
    _by_layer(left, outcome.curves, "movement over norm at the start")
    log(left, ticks=[0.2, 0.5, 1, 2, 5])
    for at, (name, found) in enumerate(outcome.numbers["movement of the stack"].items()):
        dots(right, at, found["values"], None, KINDS[name])
    right.set_title("Root mean square of the stack")
    right.set_ylim(bottom=0)
    names(right, list(outcome.numbers["movement of the stack"]))
    legend(figure)


def _by_layer(ax: Axes, curves: Mapping[str, Any], words: str) -> None:
    layers = curves["layers"]
    for name, rows in curves.items():
        if name != "layers" and rows:
            seeds(ax, range(len(layers)), rows, name, KINDS[name])
    names(ax, _short(layers, len(layers) - 3))
    ax.set_ylabel(words)


@distillation.distillation_helps.figure
def helps(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure, height=260)
    for at, found in enumerate(outcome.numbers["accuracy"].values()):
        dots(ax, at, [100 * v for v in found["values"]], None, at)
        interval(ax, at, {"interval": [100 * v for v in found["interval"]]}, at)
    names(ax, ["on the teacher's answers", "on labels"])
    line(ax, 100 * outcome.numbers["accuracy"]["alone"]["mean"] + 2, "criterion for the mean: 2 above that on labels")
    ax.set_ylabel("accuracy of the student in %")
    legend(figure)


@distillation.knowledge_in_deep_layers.figure
@distillation.with_labels_too.figure
def matrices(outcome: Outcome, figure: Figure) -> None:
    """Similarity of the student's layers to the teacher's, of both kinds, and the difference (Fig. 6)."""
    axes = panels(figure, 4, height=300, share=True, width_ratios=(6, 6, 6, 4))
    curves, numbers = outcome.curves, outcome.numbers
    student = _short(numbers["layers"], 2)
    tables = {
        "SVCCA in %, taught": curves["distilled"],
        "On labels alone": curves["alone"],
        "Difference": [[abs(v) for v in row] for row in curves["difference"]],
    }
    for ax, (words, table) in zip(axes, tables.items(), strict=False):
        _table(ax, table, LEVELS if words != "Difference" else SMALL)
        names(ax, _short(curves["teacher"], 3, ("c", "f")))
        names(ax, student, "y")
        ax.set_title(words)
        ax.set_xlim(-0.5, len(curves["teacher"]) - 0.5)
        ax.set_ylim(len(student) - 0.5, -0.5)
        ax.tick_params(length=0)
        ax.set_xlabel("teacher's layer")
        for side in ax.spines.values():
            side.set_visible(False)
    axes[0].set_ylabel("student's layer")
    means = numbers["difference by layer"]
    axes[-1].plot(means, range(len(means)), "o", color="C0", ms=6, label="mean over the teacher's layers")
    noise = numbers["between seeds alone"]
    axes[-1].plot(noise, range(len(noise)), "|", color="C1", ms=13, mew=1.8, label="between seeds alone")
    wanted = 2 * max(means[:2])
    line(axes[-1], wanted, "criterion for fc: twice the larger of conv", axis="x")
    axes[-1].set_xlim(-0.003, 1.12 * max(wanted, *means))
    axes[-1].set_title("Its mean")
    legend(figure)


LEVELS, SMALL = (0.8, 0.65, 0.5, 0.35, 0.2), (0.08, 0.06, 0.04, 0.02, 0.01)
"""Where the shade of a similarity changes, and that of a difference."""


def _table(ax: Axes, table: Sequence[Sequence[float]], levels: Sequence[float]) -> None:
    from matplotlib.patches import Rectangle

    for y, row in enumerate(table):
        for x, value in enumerate(row):
            level = next((i for i, least in enumerate(levels) if value > least), len(levels))
            ax.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, fc=SHADES[level], ec="none", lw=0))
            tone = "C11" if level < 2 else "C12"
            ax.text(x, y, f"{100 * value:.0f}", ha="center", va="center", color=tone, fontsize=9.5)


def _short(layers: Sequence[str], convolutions: int, words: tuple[str, str] = ("conv ", "fc ")) -> list[str]:
    """Numbered names: convolutions first, then the stack."""
    first, then = words
    return [f"{first}{i + 1}" if i < convolutions else f"{then}{i + 1 - convolutions}" for i in range(len(layers))]
