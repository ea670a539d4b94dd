"""Mode connectivity still works where the two networks come from different recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

from lrscope.landscape import Barrier, Curve, barrier, connect, profile
from lrscope.papers.claim import Curves, Holds, Numbers, claim, spread
from lrscope.papers.gotmare2018.networks import columns, mlp, task
from lrscope.schedules import Linear, Schedule
from lrscope.studies.runs import State, trained, with_drops
from lrscope.tasks import Task

EPOCHS, BATCH = 60, 50
CURVE = {"steps": 40 * 20, "lr": 0.03, "weight_decay": 5e-4}


class Recipe(NamedTuple):
    """One way to train the perceptron; the defaults are those of the reference G."""

    optimizer: str = "sgd(momentum=0.9, weight_decay=5e-4)"
    lr: float = 0.05
    batch_size: int = BATCH
    decay: str = "steps"
    spread: float = 1.0
    noise: float = 0.3


RECIPES: Mapping[str, Recipe] = {
    "A batch 500": Recipe(batch_size=500),
    "B Adam": Recipe("adam(weight_decay=5e-4)", lr=1e-3),
    "C linear decay": Recipe(decay="linear"),
    "D little weight decay": Recipe("sgd(momentum=0.9, weight_decay=5e-6)"),
    "E init x 3": Recipe(lr=0.01, spread=3.0),
    "F no augmentation": Recipe(noise=0.0),
}


def clean() -> Task:
    """Where lines and curves are judged, and curves trained: the images as they are."""
    return task(mlp, batch_size=BATCH, name="digits")


@cache
def mode(recipe: Recipe, seed: int) -> State:
    """Weights after 60 epochs."""
    steps = EPOCHS * (1000 // recipe.batch_size)
    which = task(partial(mlp, spread=recipe.spread), batch_size=recipe.batch_size, noise=recipe.noise, name="mode")
    schedule: Schedule = Linear(recipe.lr, 0.0, steps)
    if recipe.decay == "steps":
        schedule = with_drops(recipe.lr, steps, (0.5, 0.75))
    _, states = trained(which, recipe.optimizer, schedule, steps, {steps}, name="mode", seed=seed, out=None)
    return states[steps]


@cache
def joined(name: str, seed: int, kind: Any) -> tuple[Barrier, Curve]:
    """The reference and a recipe of another initialisation, on the straight line and on a trained curve."""
    a, b = mode(Recipe(), seed), mode(RECIPES[name], seed + 10)
    return barrier(clean(), a, b), connect(clean(), a, b, kind=kind, seed=seed, **CURVE)


def _of_kind(kind: str, seeds: Sequence[int], recipes: Sequence[str], *, line: bool) -> tuple[Numbers, Holds, Curves]:
    numbers: dict[str, Any] = {}
    holds: dict[str, bool] = {}
    curves: dict[str, Any] = {}
    for name in recipes:
        found = [joined(name, seed, kind) for seed in seeds]
        curves[name] = {
            "line": columns([straight.profile for straight, _ in found], "test_error"),
            kind: columns([curve.profile for _, curve in found], "test_error"),
        }
        numbers[name] = {
            "line": spread(straight.height + max(straight.ends) for straight, _ in found),
            kind: spread(curve.barrier.height + max(curve.barrier.ends) for _, curve in found),
            "worse end": spread(max(curve.barrier.ends) for _, curve in found),
        }
        if line:
            holds[f"{name}: loss of 0.5 or more on the line"] = min(numbers[name]["line"]["values"]) >= 0.5
        above = [curve.barrier.height for _, curve in found]
        holds[f"{name}: at most 0.1 above the worse end on the {kind}"] = max(above) <= 0.1
    return numbers, holds, curves


@claim(
    "gotmare2018/different-recipes",
    "Networks of different training recipes are joined by a path of low loss, and not by a straight line",
    where="workshop text arXiv 1806.06977, abstract; Fig. 1",
    sure="source",
    shows=["B Adam", "E init x 3"],
    headline=True,
)
def different_recipes(
    seeds: Sequence[int] = (0, 1, 2), recipes: Sequence[str] = tuple(RECIPES)
) -> tuple[Numbers, Holds, Curves]:
    """64-64-64-10 with ReLU, 60 epochs; six recipes that differ from the reference in one thing each, and start from
    another initialisation. Largest training loss on the line and on a chain with one bend, trained for 40 epochs.
    """
    return _of_kind("chain", seeds, recipes, line=True)


@claim(
    "gotmare2018/bezier-too",
    "The path may as well be a quadratic Bezier curve",
    where="the method's own paper and code, which this one uses",
    sure="inferred",
    shows=["B Adam", "E init x 3"],
)
def bezier_too(
    seeds: Sequence[int] = (0, 1, 2), recipes: Sequence[str] = tuple(RECIPES)
) -> tuple[Numbers, Holds, Curves]:
    """The pairs of different-recipes, joined by Bezier curves with one bend, trained for as long."""
    return _of_kind("bezier", seeds, recipes, line=False)


@claim(
    "gotmare2018/nothing-between-points",
    "61 points on a trained curve are enough: ten times as many find no higher loss",
    where="the method's public code, which looks at 61 points",
    sure="inferred",
    shows=["rise"],
)
def nothing_between_points(seeds: Sequence[int] = (0, 1, 2), num_points: int = 601) -> tuple[Numbers, Holds]:
    """Largest training loss on 601 points less that on 61, on the chains of different-recipes."""
    rise = {}
    for name in RECIPES:
        curves = [joined(name, seed, "chain")[1] for seed in seeds]
        fine = [profile(clean(), curve.points, kind="chain", num_points=num_points)["train_loss"] for curve in curves]
        rise[name] = [float(loss.max() - loss[:: (num_points - 1) // 60].max()) for loss in fine]
    worst = max(max(values) for values in rise.values())
    return {"rise": worst, "by_recipe": rise}, {"at most 0.01 higher, on every chain": worst <= 0.01}
