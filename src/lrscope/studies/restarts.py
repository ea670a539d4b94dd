"""Do restarts carry a run from one minimum to another? Checkpoints at the minima, connected."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from lrscope.errors import MeasurementError
from lrscope.landscape import Barrier, Curve, barrier, connect
from lrscope.optimizers import OptimizerSpec
from lrscope.records import Cost, Run
from lrscope.schedules import Schedule, WarmRestarts
from lrscope.studies.layers import Layers, Measure, check_layers, check_measure, recorded, same_layers
from lrscope.studies.runs import (
    OnProgress,
    State,
    check_rate,
    check_task,
    check_whole,
    directory,
    loaded,
    trained,
    with_drops,
)
from lrscope.tasks import Task
from lrscope.training import Snapshots, checkpoint, members_of

Role = Literal["restarts", "same epochs", "around drops"]
DROPS = (0.4, 0.75)
"""Where the run without restarts lowers its rate to a tenth, as shares of it."""


@dataclass(frozen=True)
class Pair:
    """Two checkpoints of one run, joined.

    Attributes:
        role: ``"restarts"``: minima of the run with restarts. ``"same epochs"``: the same steps of the run without.
            ``"around drops"``: before and after the drops of that run's learning rate.
        steps: Finished updates of both.
        line: Loss on the straight line between them.
        curve: Loss on the trained curve; ``None`` where none was asked for.
        similarity: By layer: similarity of the two checkpoints, and what unrelated data give.
    """

    role: Role
    steps: tuple[int, int]
    line: Barrier
    curve: Curve | None
    similarity: Mapping[str, tuple[float, float]]

    def to_dict(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "steps": list(self.steps),
            "line": self.line.to_dict(),
            "curve": None if self.curve is None else self.curve.to_dict(),
            "similarity": {layer: list(found) for layer, found in self.similarity.items()},
        }


@dataclass(frozen=True)
class Restarts:
    """What :func:`restarts` found.

    Attributes:
        pairs: Checkpoints joined, by role.
        runs: The run with restarts and the one without, ``"restarts"`` and ``"steps"``.
        states: Their checkpoints, state dicts by run and step.
        measure: Of the similarities.
        epoch: Steps of an epoch, for the labels.
        cost: Trainings, barriers, curves and recordings.
    """

    pairs: tuple[Pair, ...]
    runs: Mapping[str, Run]
    states: Mapping[str, Mapping[int, State]] = field(repr=False)
    measure: str
    epoch: int
    cost: Cost

    def of(self, role: Role) -> list[Pair]:
        return [pair for pair in self.pairs if pair.role == role]

    def __str__(self) -> str:
        lines = []
        for pair in self.pairs:
            curve = "" if pair.curve is None else f", on the curve {_height(pair.curve.barrier)}"
            ends = " and ".join(f"{step / self.epoch:.3g}" for step in pair.steps)
            lines.append(f"{pair.role}, epochs {ends}: barrier {_height(pair.line)} on the line{curve}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the weights."""
        return {
            "pairs": [pair.to_dict() for pair in self.pairs],
            "runs": {name: run.to_dict() for name, run in self.runs.items()},
            "measure": self.measure,
            "epoch": self.epoch,
            "cost": self.cost.to_dict(),
        }

    def plot(self, ax: Any = None, *, role: Role = "restarts") -> Any:
        """Loss on lines and curves of one role; returns the axes."""
        from lrscope.reports.figures.studies import paths

        return paths(self.to_dict(), role, ax)

    def figure(self) -> Any:
        """The whole study: learning rates, lines and curves of each role, similarity by layer; returns the Figure."""
        from lrscope.reports.figures.studies import restarts_figure

        return restarts_figure(self.to_dict())


def restarts(
    task: Task,
    optimizer: str | OptimizerSpec = "sgd(momentum=0.9, weight_decay=5e-4)",
    *,
    lr: float,
    period: int,
    cycles: int = 4,
    mult: int = 2,
    low: float = 1e-6,
    first: int = 1,
    curve: Literal["chain", "bezier"] | None = "chain",
    curve_steps: int = 1000,
    curve_lr: float | None = None,
    roles: Role | Sequence[Role] = ("restarts", "same epochs", "around drops"),
    num_points: int = 25,
    measure: Measure = "svcca",
    layers: Layers = None,
    seed: int = 0,
    out: Path | str | None = None,
    on_progress: OnProgress | None = None,
) -> Restarts:
    """Train with warm restarts and with two drops, and join the checkpoints of each run.

    Minima of a run with restarts lie a whole cycle at high rates apart. A run with drops whose checkpoints are taken
    just before and after a drop has travelled little between them, so no barrier there says nothing about restarts.
    The fair control is the same run without restarts, looked at in the same epochs: hence the second role.

    Args:
        task: What is trained.
        optimizer: Update rule of both runs, and (without its weight decay, which the curve has of its own) of the
            curve.
        lr: Peak of the cycles, and the constant rate of the other run before its drops.
        period: Steps of the first cycle; each is ``mult`` times as long as the one before.
        cycles: Their number; the run ends with the last.
        low: Rate at the end of a cycle.
        first: Minima from this one on are joined, each with each. 1 leaves out that of the short first cycle.
        curve: Form of the trained curve with one bend; ``None`` for straight lines only.
        curve_steps, curve_lr: As for :func:`lrscope.landscape.connect`.
        roles: Which pairs to measure.
        num_points: On a straight line.
        measure, layers: Similarity of the checkpoints' layers; by default of all that have a matrix of weights.
        seed: Of both runs and the curves.
        out: Directory; runs that are finished there are read, stopped ones go on.
        on_progress: Called with what is being done and its share done.

    Raises:
        ValueError: An argument is out of range.
        MeasurementError: A run diverged before its last checkpoint.

    Cost: two trainings of ``period * (mult**cycles - 1) / (mult - 1)`` steps, and per pair ``curve_steps`` gradients
    and about a hundred passes over the data.

    References:
        Gotmare, Keskar, Xiong, Socher, 2018, arXiv 1810.13243, section on restarts; the control is ours.
    """
    roles = (roles,) if isinstance(roles, str) else roles
    check_task(task)
    _check(period, cycles, mult, first, roles, curve)
    check_rate("lr", lr)
    check_whole("num_points", num_points, 3)
    if curve is not None:
        check_whole("curve_steps", curve_steps, 1)
        if curve_lr is not None:
            check_rate("curve_lr", curve_lr)
    check_measure(measure)
    check_layers(task.model(seed), layers)
    spec = OptimizerSpec.parse(optimizer)
    minima = list(itertools.accumulate(period * mult**i for i in range(cycles)))
    steps, epoch = minima[-1], max(len(task.batches()), 1)
    out = directory(out)
    drops = [round(share * steps) for share in DROPS]
    near = max(steps // 30, 1)
    around = (drops[0] - near, drops[0] + near, drops[1] + near)
    joined: dict[Role, list[tuple[int, int]]] = {
        "restarts": list(itertools.combinations(minima[first:], 2)),
        "same epochs": list(itertools.combinations(minima[first:], 2)),
        "around drops": [(around[0], around[1]), (drops[1] - near, around[2]), (around[0], around[2])],
    }
    joined = {role: joined[role] for role in dict.fromkeys(roles)}
    runs: dict[str, Run] = {}
    states: dict[str, Mapping[int, State]] = {}
    cost = Cost()
    if "restarts" in joined:
        schedule = WarmRestarts(lr, low, period, mult, steps=steps)
        runs["restarts"], states["restarts"] = _with_snapshots(task, spec, schedule, steps, seed, out, on_progress)
    if {"same epochs", "around drops"} & joined.keys():
        at = {step for role in joined if role != "restarts" for pair in joined[role] for step in pair}
        schedule = with_drops(lr, steps, DROPS)
        runs["steps"], states["steps"] = trained(
            task, spec, schedule, steps, at, name="steps", seed=seed, out=out, on_progress=on_progress
        )
    cost += sum((run.cost for run in runs.values()), Cost())
    todo: list[tuple[Role, tuple[int, int]]] = [(role, pair) for role in joined for pair in joined[role]]
    rule, decay = replace(spec, weight_decay=0.0), spec.weight_decay
    pairs = []
    for number, (role, (start, end)) in enumerate(todo):
        if on_progress is not None:
            on_progress("joining checkpoints", number / len(todo))
        name = "restarts" if role == "restarts" else "steps"
        a, b = (_state(states[name], step, runs[name]) for step in (start, end))
        line = barrier(task, a, b, num_points=num_points)
        bend = None
        if curve is not None:
            bend = connect(
                task, a, b, kind=curve, steps=curve_steps, lr=curve_lr, optimizer=rule, weight_decay=decay, seed=seed
            )
        models = {"a": loaded(task, a, seed), "b": loaded(task, b, seed)}
        seen = recorded(task, models, layers)
        alike = same_layers(seen["a"], seen["b"], measure)
        pairs.append(Pair(role, (start, end), line, bend, alike))
        cost += line.cost + (bend.cost if bend is not None else Cost()) + seen["a"].cost + seen["b"].cost
    return Restarts(tuple(pairs), runs, states, measure, epoch, cost)


def _with_snapshots(
    task: Task,
    spec: OptimizerSpec,
    schedule: Schedule,
    steps: int,
    seed: int,
    out: Path | None,
    on_progress: OnProgress | None,
) -> tuple[Run, dict[int, State]]:
    """The run with restarts, and its checkpoints wherever the learning rate turns up again."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = (Path(scratch) if out is None else out) / "restarts-minima"
        # A run that left no checkpoint left no members that count.
        fresh = out is None or not (out / "restarts.pt").exists()
        run, _ = trained(
            task,
            spec,
            schedule,
            steps,
            (),
            name="restarts",
            seed=seed,
            out=out,
            on_progress=on_progress,
            probes=[Snapshots(folder, replace=fresh)],
        )
        kept = [checkpoint.load(file) for file in members_of(folder)] if folder.exists() else []
    return run, {member["step"]: member["model"] for member in kept}


def _height(found: Barrier) -> str:
    return f"{found.height:.3g}" + ("" if found.stderr is None else f" ± {found.stderr:.2g}")


def _state(states: Mapping[int, State], step: int, run: Run) -> State:
    if step not in states:
        raise MeasurementError(
            f"{run.name}: the run {run.status} at step {run.steps_done}, before its checkpoint at step {step}; "
            "give a lower lr"
        )
    return states[step]


def _check(period: Any, cycles: Any, mult: Any, first: Any, roles: Sequence[Role], curve: Any) -> None:
    for name, value, least in (("period", period, 2), ("cycles", cycles, 2), ("mult", mult, 1), ("first", first, 0)):
        check_whole(name, value, least)
    if cycles - first < 2:
        raise ValueError(f"first: of {cycles} minima those from {first} on leave none to join; at most {cycles - 2}")
    if curve not in ("chain", "bezier", None):
        raise ValueError(f"curve: expected 'chain', 'bezier' or None, got {curve!r}")
    known = ("restarts", "same epochs", "around drops")
    if not roles or any(role not in known for role in roles):
        raise ValueError(f"roles: expected some of {', '.join(map(repr, known))}, got {roles!r}")
