"""Figures of the checks of li2019."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from lrscope.papers.drawing import (
    DASHES,
    band,
    dots,
    interval,
    legend,
    line,
    log,
    muted,
    names,
    panels,
    seeds,
    spaced,
)
from lrscope.papers.li2019 import equilibrium, equivalence, solvable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lrscope.records.outcome import Outcome

BLOCK = 10
"""Steps that a point of the curves of training is the mean of."""


def _middle(length: int) -> list[float]:
    return [BLOCK * (i + 0.5) for i in range(length)]


@equivalence.equivalence.figure
def equivalent(outcome: Outcome, figure: Figure) -> None:
    right, wrong = outcome.numbers["gap_if_right"], outcome.numbers["gap_if_wrong"]
    (ax,) = panels(figure, height=130 + 19 * (len(right) + len(wrong)))
    words = [*right, *wrong]
    for kind, (found, label) in enumerate(((right, "exact"), (wrong, "a slip made on purpose"))):
        for name, gaps in found.items():
            y = words.index(name)
            first = name == next(iter(found))
            ax.plot(gaps, [y] * len(gaps), "os"[kind], color=f"C{kind}", mfc="none", ms=5, mew=1.3,
                    label=label if first else None)  # fmt: skip
    line(ax, 1e-10, "criterion: exact ones below 1e-10", axis="x", dash=1)
    line(ax, 1e-4, "slips above 1e-4", axis="x")
    names(ax, words, "y")
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel("largest gap, in weights and logits")
    log(ax, "x", ticks=[1e-16, 1e-13, 1e-10, 1e-7, 1e-4, 1e-1, 1e2])
    ax.set_xticks([10.0**k for k in range(-16, 3, 3)], [f"1e{k}" for k in range(-16, 3, 3)])
    legend(figure)


@solvable.last_layer.figure
def last_layer(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure)
    floors = outcome.numbers["predicted_floors"]
    both, slow, alone = floors["both"], floors["both, wd 0.005"], floors["wd"]
    words = ("weight decay alone", "normalisation alone", "both", "both, a tenth of the decay")
    for kind, (name, error) in enumerate(zip(words, outcome.curves["error"], strict=True)):
        seeds(ax, outcome.curves["step"], [error], name, kind)
    for floor in (alone, both, slow):
        line(ax, floor, "predicted floors")
    ax.set_xlabel("step")
    ax.set_ylabel("classification error")
    log(ax)
    legend(figure)


@solvable.never_settles.figure
def never_settles(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure)
    block = outcome.curves["block"]
    for kind, decay in enumerate(("0.05", "0")):
        losses = [max(loss, 1e-12) for loss in outcome.curves[f"weight decay {decay}"]]
        seeds(ax, spaced(len(losses), block * len(losses)), [losses], f"weight decay {decay}", kind)
    line(ax, 0.1, "criterion: comes back above 0.1", dash=1)
    line(ax, 1e-3, "criterion: crosses 0.001")
    ax.set_xlabel("step")
    ax.set_ylabel(f"largest loss of {block} steps")
    log(ax)
    legend(figure)


@solvable.intrinsic_lr.figure
def intrinsic_lr(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2)
    for kind, (name, losses) in enumerate(outcome.curves.items()):
        left.plot(
            spaced(len(losses), 399),
            [max(x, 1e-20) for x in losses],
            color=f"C{kind}",
            lw=(4.5, 1.3)[kind],
            label=name,
        )
    dots(right, 0, outcome.numbers["angle_per_step"], "a seed each", 2)
    angle = outcome.numbers["predicted_angle"]
    line(right, angle, "sqrt(2 lr wd)")
    band(right, 0.95 * angle, 1.05 * angle, "criterion: within 5 %")
    names(right, ["lr 0.4, wd 0.01"])
    left.set_title("Loss: one line upon the other")
    left.set_xlabel("step")
    left.set_xlim(0, 250)
    right.set_title("Angle per step, last layer")
    right.set_ylim(0.9 * angle, 1.1 * angle)
    log(left)
    legend(figure)


@solvable.clipping.figure
def clipping(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2)
    block = outcome.curves["block"]
    words = {"None": "not clipped", "4.0": "C = 4", "1.0": "C = 1"}
    for kind, (clip, label) in enumerate(words.items()):
        norm = outcome.curves[clip]
        seeds(left, spaced(len(norm), outcome.settings["steps"] / 2), [norm], label, kind)
        dots(right, kind, [max(share, 1e-4) for share in outcome.numbers["share_clipped"][clip]], None, kind)
    line(left, 1.1, "criterion without: above", dash=1)
    line(left, 1.02, "criterion with C = 4: below")
    left.set_title(f"Largest norm in {block} steps / median")
    left.set_xlabel("step of the second half, seed 0")
    right.set_title("Share of steps clipped")
    names(right, list(words.values()))
    log(right)
    legend(figure)


@solvable.relative.figure
def relative(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure, height=260)
    for kind, (name, norm) in enumerate(outcome.curves.items()):
        ax.plot(spaced(len(norm), outcome.settings["steps"]), norm, color=f"C{kind}", lw=(4.5, 1.3)[kind], label=name)
    ax.set_xlabel("step, seed 0")
    ax.set_ylabel("norm over that of the start")
    legend(figure)


@equilibrium.tapered.figure
def tapered(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2)
    rates = outcome.curves["lr"]
    left.plot(spaced(len(rates), equilibrium.STEPS - 1), rates, color="C0", lw=1.9)
    constant = [equilibrium.LR * f for f in equilibrium.FACTORS for _ in range(2)]
    ends = [0, *equilibrium.SWITCHES, equilibrium.STEPS]
    left.plot([x for pair in pairwise(ends) for x in pair], constant, color="C1", lw=1.6, ls=DASHES[1])
    for kind, name in enumerate(("TEXP", "step decay")):
        rows = outcome.curves[name]
        seeds(
            right,
            _middle(len(rows[0])),
            rows,
            {"TEXP": "TEXP, no weight decay"}.get(name, "step decay with it"),
            kind,
        )
    left.set_title("Learning rate")
    right.set_title("Batch loss, means of 10 steps")
    for ax in (left, right):
        ax.set_xlabel("step")
    log(left)
    legend(figure)


@equilibrium.drop_is_temporary.figure
def drop_is_temporary(outcome: Outcome, figure: Figure) -> None:
    axes = panels(figure, len(outcome.curves), share=True)
    for ax, (head, rows) in zip(axes, outcome.curves.items(), strict=True):
        seeds(ax, _middle(len(rows[0])), rows, "with drops over without", 0)
        for switch in equilibrium.SWITCHES:
            line(ax, switch, "a drop to a tenth", axis="x")
        line(ax, 0.95, "criterion at once: at most 0.95", dash=1)
        ax.set_title(head)
        ax.set_xlabel("step")
        ax.set_xlim(400, 1000)
    axes[0].set_ylabel("batch loss, ratio")
    legend(figure)


@equilibrium.slow_without_drops.figure
def slow_without_drops(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure)
    for kind, (name, rows) in enumerate(outcome.curves.items()):
        seeds(ax, _middle(len(rows[0])), rows, name, kind)
    for switch in equilibrium.SWITCHES:
        line(ax, switch, "switch", axis="x")
    line(ax, equilibrium.SWITCHES[0] + 200, "compared here", axis="x", dash=1)
    ax.set_xlabel("step")
    ax.set_ylabel("angle per step")
    log(ax)
    legend(figure)


@equilibrium.equilibrium.figure
def equilibrium_angle(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2)
    rows = outcome.curves["angle_per_step"]
    length = equilibrium.SWITCHES[0] // BLOCK
    seeds(left, _middle(len(rows[0])), [row[:length] for row in rows], "network", 0)
    predicted = (2 * equilibrium.LR * equilibrium.DECAY / (1 + equilibrium.MOMENTUM)) ** 0.5
    line(left, predicted, "sqrt(2 lr wd / (1 + momentum))")
    band(left, 0.85 * predicted, 1.15 * predicted, "criterion: within 15 %")
    left.set_title("Angle per step of a hidden layer")
    left.set_xlabel("step")
    left.set_ylim(0, 0.08)
    found = outcome.numbers["angle_over_predicted"]
    for at, values in enumerate(found.values()):
        dots(right, at, values, "random gradients" if not at else None, 1)
    right.axhspan(0.99, 1.01, color=muted(), alpha=0.16, lw=0)
    right.set_title("Random gradients, over predicted")
    right.set_ylim(0.98, 1.02)
    names(right, list(found))
    right.set_xlabel("momentum")
    legend(figure)


@equilibrium.forgets.figure
def forgets(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2, height=330)
    for kind, (name, run) in enumerate(outcome.curves.items()):
        for ax, column in ((left, "effective_lr"), (right, "loss")):
            seeds(ax, _middle(len(run[column])), [run[column]], f"first {name}", kind)
    for ax, words in ((left, "Effective rate, lr / norm^2"), (right, "Batch loss, means of 10 steps")):
        line(ax, 300, "then lr 0.1, wd 0.01 for all", axis="x", dash=1)
        line(ax, 700, "then lr 0.001", axis="x")
        ax.set_title(words)
        ax.set_xlabel("step, seed 0")
    log(left)
    legend(figure)


@equilibrium.small_but_long.figure
def small_but_long(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure)
    words = {
        "baseline": "lr 0.1 first,\n1,000 steps",
        "long": "lr 0.01 first,\n3,750 steps",
        "short, 500 steps": "lr 0.01 first,\n500 steps",
        "short, 1,000 steps": "lr 0.01 first,\n1,000 steps",
    }
    for at, name in enumerate(words):
        found = outcome.numbers[name]
        dots(ax, at, found["values"], None, at)
        interval(ax, at + 0.12, found, at)
    mean = outcome.numbers["baseline"]["mean"]
    line(ax, mean - 0.5, "criterion for 3,750 steps: above", dash=1)
    line(ax, mean - 1, "criterion for the last two: below")
    names(ax, list(words.values()))
    ax.set_ylabel("test accuracy in %")
    legend(figure)
