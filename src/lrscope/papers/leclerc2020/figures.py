"""Figures of the checks of leclerc2020."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lrscope.papers.drawing import DASHES, dots, legend, line, log, muted, names, panels, seeds
from lrscope.papers.leclerc2020 import regimes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lrscope.records.outcome import Outcome


@regimes.regimes.figure
def large_steps_bounce(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2, height=320)
    for at, (lr, rows) in enumerate(outcome.curves["MLP-BN"].items()):
        rate = float(lr)
        kind, dash = (0, at) if rate <= 0.03 else (4, 3) if rate < 0.3 else (1, at - 4)
        seeds(left, range(len(rows[0])), rows, f"lr {lr}", kind, dash)
    rates = outcome.numbers["lr"]
    for kind, name in ((2, "MLP-BN"), (3, "MLP")):
        seeds(right, rates, list(zip(*outcome.numbers[f"{name} rises"], strict=True)), name, kind)
    line(right, 0.2, "0.2: criterion")
    left.set_xlabel("epoch")
    left.set_ylabel("training loss")
    left.set_title("With BatchNorm")
    right.set_xlabel("learning rate")
    right.set_title("Share of epochs that raise the loss")
    log(left)
    log(right, "x", ticks=rates)
    legend(figure)


@regimes.momentum_is_a_rate.figure
def momentum_is_a_rate(outcome: Outcome, figure: Figure) -> None:
    axes = panels(figure, 2, share=True, height=340)
    runs = {tuple(float(word.split()[1]) for word in name.split(", ")): row for name, row in outcome.curves.items()}
    for ax, effective in zip(axes, (1.0, 3.0), strict=True):
        for dash, momentum in enumerate((0.0, 0.5, 0.9, 0.95)):
            (row,) = (r for (lr, m), r in runs.items() if m == momentum and abs(lr / (1 - m) / effective - 1) < 0.02)
            words = f"momentum {momentum:g}, lr x {1 - momentum:.3g}"
            ax.plot(row, color=f"C{dash}", ls=DASHES[dash], lw=1.8, label=words)
        (row,) = (r for (lr, m), r in runs.items() if m == 0.9 and lr == 1.0)
        if effective == 1.0:
            ax.plot(row, color=muted(), lw=1.2, ls=DASHES[4], label="momentum 0.9, lr kept")
        ax.set_title(f"lr without momentum {effective:g}")
        ax.set_xlabel("epoch")
    log(axes[0])
    log(axes[1])
    axes[0].set_ylabel("training loss, mean of seeds")
    legend(figure)


@regimes.momentum_helps.figure
def momentum_helps(outcome: Outcome, figure: Figure) -> None:
    axes = panels(figure, 2, share=True)
    momenta = outcome.numbers["momentum"]
    for ax, (variant, words) in zip(axes, {"any": "All runs", "falling": "Runs that only fall"}.items(), strict=True):
        for kind, (seed, row) in enumerate(
            zip(outcome.numbers["seeds"], outcome.numbers[f"best loss, {variant}"], strict=True)
        ):
            ax.plot(range(len(momenta)), row, marker="os^"[kind % 3], color=f"C{kind}", ls=DASHES[kind % 5], lw=1.6,
                    label=f"seed {seed}")  # fmt: skip
        top = outcome.numbers[f"best loss, {variant}"][0][0]
        ax.plot([0, 1, 2], [top, top / 3, top / 9], color=muted(), lw=1.3, ls=DASHES[2], label="criterion: threefold")
        names(ax, [f"{m:g}" for m in momenta])
        ax.set_title(words)
        ax.set_xlabel("momentum")
        log(ax)
    axes[0].set_ylabel("lowest loss after 80 steps")
    legend(figure)


@regimes.large_first.figure
def large_first(outcome: Outcome, figure: Figure) -> None:
    left, right = panels(figure, 2, height=320)
    accuracy, losses = outcome.numbers["accuracy"], outcome.numbers["train_loss"]
    for at, (name, values) in enumerate(accuracy.items()):
        dots(left, at, values, name, at)
        right.plot([losses[name]], [sum(values) / len(values)], "os^D"[at], color=f"C{at}", ms=8)
    for row in zip(*accuracy.values(), strict=True):
        left.plot(range(len(row)), row, color=muted(), lw=0.7, alpha=0.6, zorder=1)
    names(left, ["A", "B", "C", "D"])
    left.set_title("A line for each seed")
    left.set_xlabel("in the order above")
    left.set_ylabel("test accuracy in %")
    right.set_title("Means: up and right is the claim")
    right.set_xlabel("final training loss")
    right.margins(0.2)
    right.locator_params(axis="x", nbins=4)
    legend(figure, left)


@regimes.no_momentum_first.figure
def no_momentum_first(outcome: Outcome, figure: Figure) -> None:
    (ax,) = panels(figure, height=280)
    arms = outcome.numbers["accuracy"]
    for at, (name, values) in enumerate(arms.items()):
        dots(ax, at, values, name, at)
    for row in zip(*arms.values(), strict=True):
        ax.plot(range(len(row)), row, color=muted(), lw=0.7, alpha=0.6, zorder=1)
    heavy = list(arms.values())[1]
    line(ax, sum(heavy) / len(heavy) - 0.3, "criterion: mean above this")
    names(ax, ["without momentum first", "with momentum first"])
    ax.set_ylabel("test accuracy in %")
    legend(figure)


@regimes.diagnostics.figure
def gradient_turns(outcome: Outcome, figure: Figure) -> None:
    axes = panels(figure, 2, share=True)
    for ax, name in zip(axes, ("MLP-BN", "MLP"), strict=True):
        found = outcome.numbers[name]
        for kind, (key, words) in enumerate({"batch_cosine": "its own batch", "full_cosine": "all images"}.items()):
            ax.plot(found["lr"], found[key], marker="os"[kind], color=f"C{kind}", ls=DASHES[kind], lw=1.8,
                    label=f"gradient of {words}")  # fmt: skip
        line(ax, 0.95, "criterion, smallest lr: at least 0.95", dash=1)
        line(ax, 0.4, "criterion, largest lr: at most 0.4")
        ax.set_title(name)
        ax.set_xlabel("learning rate")
        log(ax, "x", ticks=found["lr"])
    axes[0].set_ylabel("cosine before and after a step")
    axes[0].set_ylim(-0.05, 1.05)
    legend(figure)
