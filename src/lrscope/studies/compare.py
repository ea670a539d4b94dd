"""Two trained networks: the loss between them, and how alike their layers answer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lrscope.landscape import Barrier, Profile, barrier, connect
from lrscope.params import ParamLayout
from lrscope.records.comparison import Between, Rise
from lrscope.records.comparison import Comparison as Record
from lrscope.studies.checkpoints import fitted, read_checkpoint
from lrscope.studies.layers import Layers, Measure, check_layers, check_measure, matrix, recorded
from lrscope.studies.runs import OnProgress, check_rate, check_task, check_whole, loaded
from lrscope.tasks import Task

Network = nn.Module | Mapping[str, Tensor] | Path | str


class Comparison(Record):
    """What :func:`compare` found: the record, with its drawings."""

    def plot(self, ax: Any = None) -> Any:
        """Training loss on the line and on the curve; returns the axes."""
        from lrscope.reports.figures.comparison import between

        return between(self, "train_loss", ax)

    def figure(self) -> Any:
        """Loss and error between the networks, and the similarity of their layers; returns the Figure."""
        from lrscope.reports.figures.comparison import comparison_figure

        return comparison_figure(self)

    def __str__(self) -> str:
        from lrscope.reports.comparison import sentences

        return "\n".join(sentences(self))


def compare(
    task: Task,
    a: Network,
    b: Network,
    *,
    curve: Literal["bezier", "chain"] | None = None,
    curve_steps: int = 1000,
    curve_lr: float | None = None,
    num_points: int = 25,
    num_batches: int | None = None,
    measure: Measure = "cka",
    layers: Layers = None,
    max_examples: int | None = 4096,
    seed: int = 0,
    names: tuple[str, str] = ("A", "B"),
    on_progress: OnProgress | None = None,
) -> Comparison:
    """Barrier between two networks, a curve of low loss if asked for, and the similarity of their layers.

    Args:
        task: The data, and the architecture: ``task.model(seed)``.
        a, b: Networks: modules, state dicts, or files as :func:`read_checkpoint` takes them.
        curve: Also train a curve with one bend between them; see :func:`lrscope.landscape.connect`.
        curve_steps, curve_lr: Its updates and peak learning rate.
        num_points: Points on the straight line.
        num_batches: Training batches that line and curve are evaluated on; all by default.
        measure: Similarity of layers. Debiased linear CKA says something for any number of examples of 4 or more; the
            CCA family needs ten times as many as a layer has directions.
        layers: Names or patterns; by default all modules that have a matrix of weights.
        max_examples: Examples of the evaluation set to compare layers on.
        seed: Of the curve's training.
        names: What to call them.
        on_progress: Called with what is being done and its share done.

    Raises:
        ValueError, TypeError: An argument is wrong, or a file holds no network of this task.
        TaskError: The networks have no common landscape.

    Cost: ``num_points`` passes over all data; with ``curve``, ``curve_steps`` gradients and 77 passes more; one pass
    of each network for the layers.
    """
    check_task(task)
    check_measure(measure)
    check_whole("num_points", num_points, 3)
    if curve is not None:
        if curve not in ("bezier", "chain"):
            raise ValueError(f"curve: expected 'bezier', 'chain' or None, got {curve!r}")
        check_whole("curve_steps", curve_steps, 1)
        if curve_lr is not None:
            check_rate("curve_lr", curve_lr)
    if not isinstance(names, tuple) or len(names) != 2 or not all(isinstance(name, str) for name in names):
        raise ValueError(f"names: expected what to call each of the two, got {names!r}")
    check_layers(task.model(0), layers)
    states = [fitted(_state(network, name), task, name) for network, name in zip((a, b), names, strict=True)]
    same = all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    layout = ParamLayout.of(task.model(0))
    one, other = (layout.flatten(state).double() for state in states)

    def told(what: str) -> Callable[[int, int], None] | None:
        return None if on_progress is None else partial(_share, on_progress, what)

    if on_progress is not None:
        on_progress("layers", 0.0)
    models = dict(zip("ab", (loaded(task, state) for state in states), strict=True))
    seen = recorded(task, models, layers, max_examples=max_examples)
    similarity, chance = matrix(seen["a"], seen["b"], measure)
    cost = seen["a"].cost + seen["b"].cost
    line = barrier(
        task, *states, num_points=num_points, num_batches=num_batches, on_progress=told("loss on the straight line")
    )
    cost, bent = cost + line.cost, None
    if curve is not None and not same:
        found = connect(
            task,
            *states,
            kind=curve,
            steps=curve_steps,
            lr=curve_lr,
            seed=seed,
            num_batches=num_batches,
            on_progress=told("training the curve"),
        )
        bent, cost = _between(curve, found.barrier, found.detour, found.status), cost + found.cost
    return Comparison(
        task=task.name,
        names=names,
        same=same,
        distance=float((one - other).norm()),
        norms=(float(one.norm()), float(other.norm())),
        line=_between("line", line),
        curve=bent,
        layers=tuple(seen["a"]),
        similarity=tuple(map(tuple, similarity.tolist())),
        chance=tuple(map(tuple, chance.tolist())),
        measure=measure,
        examples=seen["a"].examples,
        settings={
            "curve": curve,
            "curve_steps": curve_steps,
            "num_points": num_points,
            "num_batches": num_batches,
            "seed": seed,
        },
        cost=cost,
    )


def _share(on_progress: OnProgress, what: str, done: int, total: int) -> None:
    on_progress(what, done / max(total, 1))


def _state(network: Network, name: str) -> Mapping[str, Tensor]:
    if isinstance(network, nn.Module):
        return network.state_dict()
    if isinstance(network, (str, Path)):
        return read_checkpoint(network)
    if isinstance(network, Mapping) and all(isinstance(value, Tensor) for value in network.values()):
        return network
    raise TypeError(f"{name}: expected a module, its state_dict() or a file, got {type(network).__name__}")


def _between(kind: str, found: Barrier, detour: float = 1.0, status: str = "done") -> Between:
    profile: Profile = found.profile
    columns = {name: tuple(map(float, values)) for name, values in profile.values.items()}
    rises = {name: _rise(found.on(name)) for name in columns if name.endswith(("_loss", "_error"))}
    return Between(
        kind, tuple(map(float, profile.t)), columns, rises, detour if math.isfinite(detour) else 1.0, status
    )


def _rise(found: Barrier) -> Rise:
    return Rise(found.height, found.above_chord, found.stderr, found.t, found.ends)
