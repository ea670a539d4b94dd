"""``plan``: which learning rate, how long a warmup. An experiment, not a formula."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from lrscope.optimizers import OptimizerSpec
from lrscope.planning.recipe import DECAYS, Decay, recipe, warmup_steps
from lrscope.planning.search import Horizons, search
from lrscope.planning.trials import Row, Trials
from lrscope.planning.verdict import choose, expected_loss, final_cells, notes, peak_interval
from lrscope.records import Cost, CriticalLR, Plan, Table
from lrscope.stability import critical_lr
from lrscope.tasks import Task
from lrscope.training.engines import Engine

WARMUPS = (0.0, 0.05, 0.33)
MIN_GRADIENTS = 6_600
"""Gradient evaluations a plan spends at least when no budget is given: what three rungs need to tell peaks apart."""

_TRAINED = ("Trainer", "LightningModule")
"""Classes whose training an adapter makes a task of; named, since they are not imported here."""

Progress = Callable[[str, float], None]


def plan(
    task: Task,
    optimizer: OptimizerSpec | str | dict[str, Any] = "adamw",
    steps: int | None = None,
    budget: float | None = None,
    *,
    warmups: Sequence[float] = WARMUPS,
    decay: Decay = "linear",
    num_seeds: int = 2,
    seed: int = 0,
    engine: Engine = "auto",
    log: Path | str | None = None,
    on_progress: Progress | None = None,
    on_trial: Callable[[Row], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Plan:
    """Choose peak learning rate and warmup for ``steps`` updates of ``task``, by measuring.

    The critical learning rate at initialisation says where to look; short runs from the same start, in the same
    data order and with the real shape (warmup, then decay to zero, shrunk to the short horizon) rank peaks and
    warmups; the best go on to longer horizons and more seeds. Nothing of the user's is touched: models are built
    fresh, loaders and random states are as before.

    Args:
        task: What will be trained.
        optimizer: Spec, name or text of SGD (momentum), Adam or AdamW.
        steps: Updates of the full run; default ``task.steps``.
        budget: Gradient evaluations to spend, as a share of the full run. ``None``: half a run, but at least
            MIN_GRADIENTS evaluations, so short runs cost more than themselves to plan.
        warmups: Warmup fractions to compare; 0 means none and is always worth having.
        decay: Shape after the peak, to zero.
        num_seeds: Seeds on the last rung.
        seed: First seed; the others follow it.
        engine: How trials run; see :func:`lrscope.training.run_cells`.
        log: File of trial rows; rows already there for the same question are not run again.
        on_progress: Called with a plain sentence and the share of the budget spent.
        on_trial: Called with the row of each trial as it finishes.
        should_stop: Asked every few updates; once true, the plan ends with a ``KeyboardInterrupt``. What was
            finished is in ``log``, and a later call goes on from there.

    Returns:
        :class:`~lrscope.records.Plan` with the evidence and its cost.

    Raises:
        TaskError: The task breaks its contract; found before any work.
        ValueError: An argument is out of range, or the budget is too small to say anything.
        MeasurementError: Every trial diverged.
    """
    started = time.monotonic()
    if not isinstance(task, Task):
        raise TypeError(f"task: expected a lrscope Task, got {type(task).__name__}; {_how_to_make(task)}")
    spec = OptimizerSpec.parse(optimizer)
    steps = _steps(steps, task)
    _check(warmups, decay, engine, seed)
    gradients, horizons = horizons_for(steps, budget, num_seeds, len(set(warmups)))
    task.check()
    seeds = list(range(seed, seed + num_seeds))

    def say(text: str, share: float) -> None:
        if on_progress is not None:
            on_progress(text, share)

    say("measuring the largest stable learning rate at the start", 0.0)
    # Curvature is evidence, not needed to go on, and costs most: once is enough.
    critical = tuple(critical_lr(task.objective(s, num_batches=3), spec, curvature=s == seed) for s in seeds)
    measured = sum((c.cost for c in critical), Cost())
    left = max(gradients - int(measured.in_gradients()), gradients // 2)
    with contextlib.suppress(ValueError):  # what is left may be too little for a rung, but not the whole budget
        horizons = Horizons.for_budget(steps, left, len(set(warmups)))
    center = _center(critical, spec)

    texts = {
        1: f"wide range of peaks from {center:.2g} down",
        2: "peaks in factors of two around the best",
        3: f"the best three cells, {num_seeds} seeds",
    }
    now = {"text": ""}

    def on_rung(rung: int, horizon: int) -> None:
        now["text"] = f"runs of {horizon} steps, {texts[rung]}"
        on_gradients(trials.cost.gradients)

    def on_gradients(done: float) -> None:
        say(now["text"], min(done / gradients, 1.0))

    trials = Trials(
        task,
        spec,
        decay,
        log=None if log is None else Path(log),
        engine=engine,
        on_trial=on_trial,
        on_gradients=on_gradients,
        should_stop=should_stop,
    )
    search(
        trials,
        center,
        horizons,
        left,
        sorted({float(w) for w in warmups}),
        seeds,
        on_rung=on_rung,
    )
    cells = final_cells(trials.rows)
    best = choose(cells)
    warmup = warmup_steps(best.warmup_frac, steps)
    schedule = recipe(best.lr, warmup, steps, decay)
    low, high = peak_interval(best, cells, (r["lr"] for r in trials.rows if r["warmup_frac"] == best.warmup_frac))
    expected, expected_low, expected_high = expected_loss(trials.rows, best, steps)
    cost = trials.cost + measured
    cost = Cost(cost.forwards, cost.gradients, cost.products, cost.updates, time.monotonic() - started)
    say("done", 1.0)
    return Plan(
        task=task.name,
        optimizer=spec.to_spec(),
        steps=steps,
        peak_lr=best.lr,
        peak_low=low,
        peak_high=high,
        start_lr=schedule(0),
        warmup_steps=warmup,
        decay=decay,
        schedule=schedule.to_spec(),
        schedule_text=_text(best.lr, warmup, steps, decay),
        expected_loss=expected,
        expected_low=expected_low,
        expected_high=expected_high,
        critical=critical,
        trials=Table.of(trials.rows),
        cost=cost,
        share=cost.in_gradients() / steps,
        notes=tuple(notes(trials.rows, best)),
        not_tried=_not_tried(trials.rows, steps, spec, decay, num_seeds),
        config={
            "budget_gradients": gradients,
            "horizons": sorted({row["horizon"] for row in trials.rows}),
            "warmups": list(warmups),
            "seeds": seeds,
            "center": center,
        },
    )


def _how_to_make(value: Any) -> str:
    """What makes a task of ``value``, where it is known."""
    trees = {kind.__module__.split(".")[0] for kind in type(value).__mro__ if kind.__name__ in _TRAINED}
    if "transformers" in trees:
        return "lrs.adapters.huggingface.task(trainer) makes one"
    if trees & {"lightning", "pytorch_lightning"}:
        return "lrs.adapters.lightning.task(module, datamodule) makes one"
    return "wrap it in lrs.Task(build=…)"


def horizons_for(
    steps: int, budget: float | None, num_seeds: int = 2, num_warmups: int = len(WARMUPS)
) -> tuple[int, Horizons]:
    """Gradient evaluations a plan may spend, and the length of its short runs.

    Raises:
        ValueError: The budget is no positive number, or too small to say anything.
    """
    if budget is not None and not 0 < budget < math.inf:
        raise ValueError(f"budget: expected a positive share of one full run (0.5 is half a run), got {budget!r}")
    if not isinstance(num_seeds, int) or num_seeds < 1:
        raise ValueError(f"num_seeds: expected a positive integer, got {num_seeds!r}")
    gradients = max(steps // 2, MIN_GRADIENTS) if budget is None else int(budget * steps)
    return gradients, Horizons.for_budget(steps, gradients, num_warmups)


def _center(critical: Sequence[CriticalLR], spec: OptimizerSpec) -> float:
    """Where the first rung looks: the critical learning rate, rounded to two digits so that logs compare."""
    found = [c.lr for c in critical if c.status == "found"]
    lr = math.exp(sum(math.log(x) for x in found) / len(found)) if found else spec.default_lr
    return float(f"{lr:.2g}")


def _text(peak: float, warmup: int, steps: int, decay: Decay) -> str:
    """The schedule as text for the command line and ``parse``."""
    if warmup <= 1:
        return f"{peak!r} * {decay}({steps}, from=1, to=0)"
    return f"{peak!r} * (nonzero_warmup({warmup}) > {decay}(to=0))"


def _not_tried(rows: Sequence[Row], steps: int, spec: OptimizerSpec, decay: Decay, num_seeds: int) -> tuple[str, ...]:
    peaks = [row["lr"] for row in rows]
    other = ", ".join(d for d in DECAYS if d != decay)
    said = [
        f"peaks below {min(peaks):.3g} and above {max(peaks):.3g}, and between the factors of two",
        f"another decay than {decay} to zero ({other}), a plateau, restarts",
        f"other hyper-parameters than {spec}, other batch sizes",
        f"more than {num_seeds} seeds",
    ]
    longest = max(row["horizon"] for row in rows)
    if longest < steps:
        said.insert(0, f"runs longer than {longest} of the {steps} steps: the rest is extrapolated")
    return tuple(said)


def _steps(steps: int | None, task: Task) -> int:
    steps = task.steps if steps is None else steps
    if steps is None:
        raise ValueError(
            f"steps: the task {task.name!r} names no length of its own; give the updates of the full run"
        )
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise ValueError(f"steps: expected a positive integer, got {steps!r}")
    return steps


def _check(warmups: Sequence[float], decay: str, engine: str, seed: int) -> None:
    if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
        raise ValueError(f"seed: expected an integer of 0 or more, got {seed!r}")
    if engine not in get_args(Engine):
        raise ValueError(f"engine: expected one of {', '.join(get_args(Engine))}, got {engine!r}")
    numbers = not isinstance(warmups, str) and all(isinstance(w, (int, float)) for w in warmups)
    if not numbers or not warmups or any(not 0 <= w < 1 for w in warmups):
        raise ValueError(f"warmups: expected fractions in [0, 1), at least one, got {warmups!r}")
    if decay not in DECAYS:
        raise ValueError(f"decay: expected one of {', '.join(DECAYS)}, got {decay!r}")
