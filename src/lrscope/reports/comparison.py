"""The page of two networks compared, and the sentences that page and command line say about them."""

from __future__ import annotations

import math
import os
from functools import partial
from pathlib import Path
from typing import Any

from lrscope.records.comparison import Between, Comparison, Rise
from lrscope.reports.document import document
from lrscope.reports.figures.comparison import WORDS, between, layers
from lrscope.reports.markup import Markup, table, tag
from lrscope.reports.numbers import capital, loss, percent, times
from lrscope.reports.pictures import NARROW, WIDE, Picture
from lrscope.reports.sections import figure
from lrscope.reports.svg import render

FLAT = 0.02
"""A rise of less than this share of the worse end's loss is said to be none."""


def write_comparison(found: Comparison, path: Path) -> Path:
    """Write the page as one HTML file, whole or not at all; returns its path."""
    partial_file = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        partial_file.write_text(comparison_page(found), encoding="utf-8")
        partial_file.replace(path)
    finally:
        partial_file.unlink(missing_ok=True)
    return path


def comparison_page(found: Comparison) -> str:
    """The whole page as HTML text."""
    a, b = found.names
    lead, *others = sentences(found)
    head = tag(
        "header",
        tag("p", f"Two networks compared · {found.task}", class_="eyebrow"),
        tag("h1", f"{a} and {b}"),
        tag("p", lead, class_="lead"),
    )
    facts = tag("section", tag("h2", "In short"), _facts(found), tag("ul", [tag("li", text) for text in others]))
    way = tag("section", tag("h2", "Between them"), [figure(p) for p in _ways(found)], _rises(found))
    alike = tag("section", tag("h2", "Layer by layer"), figure(_layers(found)), _by_layer(found))
    return document(f"{a} and {b}: comparison", head, facts, way, alike, _care(found), data=found.to_dict())


def sentences(found: Comparison) -> list[str]:
    """What the comparison says, the main thing first."""
    a, b = found.names
    if found.same:
        return [f"{a} and {b} hold the same weights, value for value: the same network, or one file given twice."]
    line = found.line.rises["train_loss"]
    if not math.isfinite(line.height):
        first = f"On the straight line from {a} to {b} the training loss is not finite."
    elif flat(found.line):
        first = (
            f"No barrier: on the straight line from {a} to {b} the training loss stays at or below the worse end, "
            f"{loss(max(line.ends))}."
            if line.height <= 0
            else f"Hardly a barrier: on the straight line from {a} to {b} the training loss rises by "
            f"{loss(line.height)} above the worse end, {loss(max(line.ends))}."
        )
    elif _in_noise(line):
        first = (
            f"No barrier that stands out from the noise: on the straight line from {a} to {b} the training loss "
            f"rises by {_plus_minus(line.height, line.stderr)} above the worse end, {loss(max(line.ends))}."
        )
    else:
        first = (
            f"A barrier: on the straight line from {a} to {b} the training loss rises to "
            f"{loss(max(line.ends) + line.height)}, {_plus_minus(line.height, line.stderr)} above the worse end."
        )
    said = [first]
    if flat(found.line) and not flat_above_chord(found.line):
        said.append(
            f"But the ends are unlike, {loss(line.ends[0])} for {a} and {loss(line.ends[1])} for {b}, and the loss "
            f"rises by {loss(line.above_chord)} above the straight line between these two numbers."
        )
    if found.curve is not None:
        curve = found.curve.rises["train_loss"]
        if found.curve.status == "diverged":
            said.append("Training the curve diverged; give it a lower learning rate.")
        elif flat(found.curve):
            said.append(
                f"A trained curve joins them without one, over {times(found.curve.detour)} the straight distance: "
                "nowhere on it is the training loss clearly above that of the worse end."
            )
        elif _in_noise(curve):
            said.append(
                "A trained curve joins them without one that stands out from the noise: the training loss rises by "
                f"{_plus_minus(curve.height, curve.stderr)}, over {times(found.curve.detour)} the straight distance."
            )
        elif curve.height < line.height / 5:
            said.append(
                f"A trained curve nearly removes it: the training loss rises by {loss(curve.height)}, "
                f"{times(line.height / curve.height)} less, over {times(found.curve.detour)} the straight distance."
            )
        else:
            said.append(
                f"On the trained curve the training loss still rises by {loss(curve.height)}; more steps or another "
                "rate may lower it, so this is no proof of a barrier."
            )
    for column in found.errors:
        rise = found.line.rises[column]
        said.append(
            f"{capital(WORDS[column])}: {percent(rise.ends[0])} for {a}, {percent(rise.ends[1])} for {b}, at most "
            f"{percent(max(rise.ends) + rise.height)} on the straight line."
        )
    alike = {name: value for name, value in found.by_layer.items() if not math.isnan(value)}
    if alike:
        least, most = min(alike, key=lambda n: alike[n]), max(alike, key=lambda n: alike[n])
        size = f"by {_measure(found)} on {found.examples} examples"
        chance = max(found.chance[i][i] for i, name in enumerate(found.layers) if name in alike)
        size += f", where unrelated data would give up to {chance:.2f}" if chance >= 0.1 else ""
        range_ = f"{alike[least]:.2f} ({least}) to {alike[most]:.2f} ({most})"
        said.append(
            f"Layers of the same name are alike by {range_}, {size}."
            if len(alike) > 1
            else f"{least} is alike in both by {alike[least]:.2f}, {size}."
        )
    elif found.layers:
        said.append(
            f"No layer can be compared by {_measure(found)}: none varies over these {found.examples} examples, or "
            "they are too few for it."
        )
    return said


def flat(path: Between) -> bool:
    """Whether the training loss rises by next to nothing on the way."""
    rise = path.rises["train_loss"]
    return rise.height <= FLAT * abs(max(rise.ends)) + 1e-3


def _in_noise(rise: Rise) -> bool:
    """Whether other data might show no rise at all."""
    return rise.stderr is not None and rise.height < 2 * rise.stderr


def flat_above_chord(path: Between) -> bool:
    """Whether it also stays next to the straight line between the two end losses."""
    rise = path.rises["train_loss"]
    return rise.above_chord <= FLAT * abs(max(rise.ends)) + 1e-3


def _measure(found: Comparison) -> str:
    return {"cka": "debiased CKA", "svcca": "SVCCA", "pwcca": "PWCCA", "procrustes": "shape similarity"}[
        found.measure
    ]


def _plus_minus(height: float, stderr: float | None) -> str:
    return loss(height) if stderr is None else f"{loss(height)} ± {loss(stderr)}"


def _facts(found: Comparison) -> Markup:
    def fact(name: str, value: str, note: str) -> Markup:
        return tag("div", tag("dt", name), tag("dd", value), tag("dd", note, class_="sub"))

    line = found.line.rises["train_loss"]
    facts = [fact("Barrier, training loss", loss(line.height, "infinite"), "on the straight line")]
    if found.curve is not None:
        height = found.curve.rises["train_loss"].height
        facts.append(fact("On the curve", loss(height, "infinite"), f"one bend, {found.curve.kind}"))
    for column in found.errors[-1:]:
        facts.append(
            fact(f"Barrier, {WORDS[column]}", percent(found.line.rises[column].height), "on the straight line")
        )
    share = found.distance / max(*found.norms, 1e-30)
    facts.append(fact("Distance", f"{found.distance:.3g}", f"{share:.2f} of the larger norm"))
    return tag("dl", facts, class_="facts")


def _ways(found: Comparison) -> list[Picture]:
    columns = [name for name in ("train_loss", "test_loss", "test_error") if name in found.line.columns]
    how = "Dashed: the straight line between the parameters." + (
        " Solid: the trained curve." if found.curve is not None else ""
    )
    how += " The dot is the highest point. BatchNorm's statistics, if there are any, are recomputed at every point."

    def drawn(name: str) -> Picture:
        def draw(ax: Any, compact: bool) -> None:
            between(found, name, ax, compact=compact)

        said = how if name == columns[0] else "As above."
        return _picture(name, _takeaway(found, name), said, draw, (270, 230))

    return [drawn(name) for name in columns]


def _takeaway(found: Comparison, column: str) -> str:
    def text(path: Between) -> str:
        height = path.rises[column].height
        if column.endswith("_error"):
            return f"{100 * height:.2g} points" if math.isfinite(height) else "no number"
        return loss(height, "no end")

    said = f"{capital(WORDS[column])} rises by {text(found.line)} on the straight line"
    return said + (f" and by {text(found.curve)} on the curve" if found.curve is not None else "")


def _layers(found: Comparison) -> Picture:
    how = (
        f"Rows: layers of {found.names[0]}, columns: layers of {found.names[1]}, input to output. 1: the same up to "
        "rotation and scale. Each number is one layer's answers to the same examples held against another's."
    )
    size = min(len(found.layers), 20)
    heights = (130 + 32 * size, 130 + 28 * min(size, 10))
    takeaway = f"{capital(_measure(found))} of all layers on {found.examples} examples"
    return _picture("layers", takeaway, how, lambda ax, compact: layers(found, ax, compact=compact), heights)


def _picture(key: str, takeaway: str, how: str, draw: Any, heights: tuple[int, int]) -> Picture:
    def on(fig: Any, *, compact: bool) -> None:
        draw(fig.add_subplot(), compact)

    def svg(width: int, height: int, compact: bool) -> str:
        name = f"{key.replace('_', '-')}-{'narrow' if compact else 'wide'}"
        return render(partial(on, compact=compact), name, width, height, compact=compact, alt=takeaway)

    return Picture(key, "comparison", takeaway, how, svg(WIDE, heights[0], False), svg(NARROW, heights[1], True))


def _rises(found: Comparison) -> Markup:
    paths = [("straight line", found.line)] + ([(found.curve.kind, found.curve)] if found.curve is not None else [])
    rows = [
        [
            WORDS.get(column, column.replace("_", " ")),
            label,
            *(loss(end, "not finite") for end in rise.ends),
            loss(rise.height, "infinite"),
            "–" if rise.stderr is None else loss(rise.stderr),
            loss(rise.above_chord, "infinite"),
            f"{rise.t:.2f}",
        ]
        for label, path in paths
        for column, rise in path.rises.items()
    ]
    header = ["", "path", *found.names, "barrier", "±", "above chord", "at t"]
    return table(header, rows, numeric=2)


def _by_layer(found: Comparison) -> Markup:
    rows = [
        [name, "–" if math.isnan(value) else f"{value:.3f}", f"{found.chance[i][i]:.3f}"]
        for i, (name, value) in enumerate(found.by_layer.items())
    ]
    return tag(
        "details",
        tag("summary", "The same layer in both networks"),
        table(["layer", _measure(found), "unrelated data"], rows, class_="small"),
    )


def _care(found: Comparison) -> Markup:
    texts = [
        "The barrier is the largest loss on the way less that of the worse end; above chord is the excess over the "
        "straight line between both end losses. ± is the standard error over the choice of data; another seed of "
        "training moves it by more.",
        "A barrier on the straight line alone does not put two networks into different basins: units may be "
        "permuted, and a curve may lead around it. A curve that found no way is no proof that there is none.",
        "Similarity is of answers on these examples. It does not see how weights differ, and layers that are wide "
        "for so few examples score too high unless the measure is debiased.",
    ]
    cost = found.cost
    texts.append(
        f"Cost: {cost.forwards:.0f} forward passes and {cost.gradients:.0f} gradients of a training batch, "
        f"{cost.seconds:.0f} seconds. lrscope {found.environment.get('lrscope', '')}."
    )
    return tag(
        "section", tag("h2", "How to read this"), tag("ul", [tag("li", text) for text in texts], class_="notes")
    )
