"""Warm restarts: barriers between the minima of cycles, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache, partial
from typing import Any

from lrscope import studies
from lrscope.landscape import Curve, barrier, connect
from lrscope.papers.claim import Curves, Holds, Numbers, claim, spread
from lrscope.papers.gotmare2018.networks import cnn, columns, mlp, task
from lrscope.studies.restarts import DROPS, Pair, Role
from lrscope.studies.runs import trained, with_drops
from lrscope.tasks import Task

OPTIMIZER = "sgd(momentum=0.9, weight_decay=5e-4)"
MEMORIZING = {"batch_size": 20, "noise": 0.3, "wrong": 0.2}
EPOCH = 50


@cache
def study(seed: int) -> studies.Restarts:
    """The perceptron with four hidden layers: 75 epochs, minima after 5, 15, 35, 75; on straight lines."""
    return studies.restarts(
        _perceptron(), OPTIMIZER, lr=0.1, period=5 * EPOCH, curve=None, roles=("restarts",), seed=seed
    )


def _perceptron() -> Task:
    return task(partial(mlp, depth=4), name="restarts", **MEMORIZING)


def _chain(which: Task, found: studies.Restarts, pair: tuple[int, int], epochs: int, seed: int) -> Curve:
    a, b = (found.states["restarts"][step] for step in pair)
    return connect(which, a, b, kind="chain", steps=epochs * EPOCH, lr=0.03, weight_decay=5e-4, seed=seed)


@cache
def control(seed: int) -> studies.Restarts:
    """The same without restarts, on straight lines only."""
    roles: tuple[Role, ...] = ("same epochs", "around drops")
    return studies.restarts(_perceptron(), OPTIMIZER, lr=0.1, period=5 * EPOCH, curve=None, roles=roles, seed=seed)


def _epochs(pair: Pair) -> str:
    return "-".join(f"{step / EPOCH:.3g}" for step in pair.steps)


def _lines(pairs: Sequence[Pair]) -> dict[str, float]:
    return {_epochs(pair): pair.line.height for pair in pairs}


def _drawn(found: Sequence[Sequence[Pair]]) -> dict[str, Any]:
    """Training loss on the line of each pair, a row for each seed."""
    return {
        _epochs(pairs[0]): columns([pair.line.profile for pair in pairs], "train_loss")
        for pairs in zip(*found, strict=True)
    }


def _by_pair(found: Sequence[dict[str, float]]) -> dict[str, Any]:
    return {pair: spread(each[pair] for each in found) for pair in found[0]}


@claim(
    "gotmare2018/restart-barriers",
    "Between restarts the run crosses barriers of the training loss",
    where="workshop text arXiv 1806.06977, abstract; Fig. 2",
    sure="source",
    shows=["barrier"],
    headline=True,
)
def restart_barriers(seeds: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """64-64-64-64-64-10 with ReLU, 20 % of the labels wrong, batches of 20 with noise; cosine cycles of 5, 10, 20, 40
    epochs from 0.1 to 1e-6. Rise of the training loss above the worse end on the line between minima.
    """
    pairs = [study(seed).pairs for seed in seeds]
    found = [_lines(of_seed) for of_seed in pairs]
    each = [sum(height >= 0.1 for height in heights.values()) >= 2 for heights in found]
    holds = {"0.1 or more in two of three pairs, in every seed": all(each)}
    return {"barrier": _by_pair(found)}, holds, _drawn(pairs)


@claim(
    "gotmare2018/no-barrier-at-drops",
    "A step decay crosses no barrier around the drops of its learning rate",
    where="Fig. 2, baseline",
    sure="recalled",
    shows=["barrier", "from the drop itself"],
    unlike="a few epochs at the high rate before the drop make the barrier; from the drop itself there is none",
)
def no_barrier_at_drops(seeds: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """The run of restart-barriers with a constant rate and drops at 40 and 75 % instead. Pairs lie as far around the
    drops as the paper's, 5 epochs of 150: epochs 27.5, 32.5, 53.7 and 58.7 of 75. No part of the criterion: the line
    from the first drop itself to epoch 32.5.
    """
    pairs = [control(seed).of("around drops") for seed in seeds]
    found = [_lines(of_seed) for of_seed in pairs]
    highest = max(max(heights.values()) for heights in found)
    numbers = {"barrier": _by_pair(found), "from the drop itself": spread(map(_from_the_drop, seeds))}
    return numbers, {"0.01 or less in all pairs, in every seed": highest <= 0.01}, _drawn(pairs)


def _from_the_drop(seed: int) -> float:
    steps, drop = 75 * EPOCH, 30 * EPOCH
    after = control(seed).of("around drops")[0].steps[1]
    _, states = trained(
        _perceptron(),
        OPTIMIZER,
        with_drops(0.1, steps, DROPS),
        after,
        {drop, after},
        name="drop",
        seed=seed,
        out=None,
    )
    return barrier(_perceptron(), states[drop], states[after]).height


@claim(
    "gotmare2018/high-rates-do-it-alone",
    "Not the restart makes the barrier: a constant high rate, in the same epochs, does it as well",
    where="our control; the paper compares other epochs",
    sure="inferred",
    shows=["barrier"],
)
def high_rates_do_it_alone(seeds: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """The run of no-barrier-at-drops, looked at in the epochs in which the other has its minima; of the three pairs
    the two that begin in the phase of the high rate.
    """
    pairs = [[p for p in control(seed).of("same epochs") if p.steps[0] == 15 * EPOCH] for seed in seeds]
    found = [_lines(of_seed) for of_seed in pairs]
    lowest = min(min(heights.values()) for heights in found)
    holds = {"0.1 or more in both pairs, in every seed": lowest >= 0.1}
    return {"barrier": _by_pair(found)}, holds, _drawn(pairs)


@claim(
    "gotmare2018/not-two-basins",
    "The minima before and after a restart are not separate basins: a trained curve joins them without a barrier",
    where="abstract (a); Figs. 2 and 3",
    sure="source",
    shows=["line", "chain", "bend below the lower end"],
)
def not_two_basins(seeds: Sequence[int] = (0, 1, 2, 3, 4)) -> tuple[Numbers, Holds, Curves]:
    """Chain with one bend between the minima after 35 and 75 epochs of restart-barriers, trained for 60 epochs; the
    bend is the point at t = 0.5.
    """
    ends = (35 * EPOCH, 75 * EPOCH)
    lines = [next(p.line for p in study(seed).pairs if p.steps == ends) for seed in seeds]
    chains = [_chain(_perceptron(), study(seed), ends, 60, seed).barrier for seed in seeds]
    chain = [found.height for found in chains]
    bends = [float(found.profile["train_loss"][abs(found.profile.t - 0.5).argmin()]) for found in chains]
    below = [min(found.ends) - bend for found, bend in zip(chains, bends, strict=True)]
    numbers = {
        "line": spread(line.height for line in lines),
        "chain": spread(chain),
        "bend below the lower end": spread(below),
    }
    holds = {
        "on the chain at most 0.02 above the worse end, in every seed": max(chain) <= 0.02,
        "the bend has a lower training loss than both ends, in every seed": min(below) > 0,
    }
    curves = {"line": lines, "chain": chains}
    return numbers, holds, {name: columns([f.profile for f in found], "train_loss") for name, found in curves.items()}


@claim(
    "gotmare2018/better-between",
    "Between two minima the validation loss is lower than at both, which is why averaging weights helps",
    where="Fig. 3",
    sure="recalled",
    shows=["lowest between, less the lower end"],
    unlike="networks this small do not gain from averaging over a whole cycle: the middle is far up the barrier",
)
def better_between(seeds: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """Loss on the 797 other images, on the line between the minima after 35 and 75 epochs of restart-barriers; the
    middle half of the line is meant by between.
    """
    pairs = [next(p for p in study(seed).pairs if p.steps == (35 * EPOCH, 75 * EPOCH)) for seed in seeds]
    lines = [pair.line.profile for pair in pairs]
    gaps = []
    for line in lines:
        loss, between = line["test_loss"], (line.t >= 0.25) & (line.t <= 0.75)
        gaps.append(float(loss[between].min() - min(loss[0], loss[-1])))
    numbers = {"lowest between, less the lower end": spread(gaps)}
    return numbers, {"below both ends, in every seed": max(gaps) < 0}, columns(lines, "train_loss", "test_loss")


@claim(
    "gotmare2018/shallow-layers-stay",
    "With restarts as without, shallow layers stay more alike over the run than deep ones",
    where="appendix",
    sure="recalled",
    shows=["shallow less deep"],
    unlike="five layers of one width: with restarts the second one changes most and the last ones hardly",
)
def shallow_layers_stay(seeds: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """SVCCA (99 % of the variance, 797 images) of each layer after 15 and after 75 epochs, of both runs; the first
    two of the five layers against the last two.
    """
    numbers: dict[str, Any] = {"shallow less deep": {}, "by layer": {}}
    curves: dict[str, Any] = {}
    kinds: dict[str, tuple[Any, Role]] = {"restarts": (study, "restarts"), "two drops": (control, "same epochs")}
    for name, (made, role) in kinds.items():
        pairs = [next(p for p in made(seed).of(role) if p.steps == (15 * EPOCH, 75 * EPOCH)) for seed in seeds]
        alike = [[value for value, _ in pair.similarity.values()] for pair in pairs]
        curves[name] = alike
        numbers["by layer"][name] = [sum(column) / len(column) for column in zip(*alike, strict=True)]
        numbers["shallow less deep"][name] = spread((a[0] + a[1] - a[-2] - a[-1]) / 2 for a in alike)
    holds = {
        f"{name}: shallow layers more alike, in every seed": min(found["values"]) > 0
        for name, found in numbers["shallow less deep"].items()
    }
    return numbers, holds, curves


@claim(
    "gotmare2018/convolutional",
    "A network with convolutions and batch normalisation crosses barriers between restarts, and curves have none",
    where="Fig. 2, whose networks are of this kind",
    sure="recalled",
    shows=["line", "chain"],
    unlike="with batch normalisation a peak of 0.1 is a small step, and the run crosses next to nothing",
)
def convolutional(seeds: Sequence[int] = (0, 1, 2)) -> tuple[Numbers, Holds, Curves]:
    """Three convolutions with batch normalisation and a stack of three layers; data as in restart-barriers, cosine
    cycles of 2, 4, 8, 16 epochs from 0.1. Statistics are recomputed at every point. The chain joins the last two
    minima and is trained for 20 epochs.
    """
    which = task(cnn, name="restarts-cnn", **MEMORIZING)
    roles: tuple[Role, ...] = ("restarts",)
    ends = (14 * EPOCH, 30 * EPOCH)
    pairs, chains = [], []
    for seed in seeds:
        found = studies.restarts(which, OPTIMIZER, lr=0.1, period=2 * EPOCH, curve=None, roles=roles, seed=seed)
        pairs.append(found.pairs)
        chains.append(_chain(which, found, ends, 20, seed).barrier)
    lines, heights = [_lines(of_seed) for of_seed in pairs], [chain.height for chain in chains]
    holds = {
        "0.1 or more on the line in two of three pairs, in every seed": all(
            sum(height >= 0.1 for height in of_seed.values()) >= 2 for of_seed in lines
        ),
        "on the chain at most 0.02 above the worse end, in every seed": max(heights) <= 0.02,
    }
    curves = {"lines": _drawn(pairs), "chain": columns([chain.profile for chain in chains], "train_loss")}
    return {"line": _by_pair(lines), "chain": spread(heights)}, holds, curves
