"""Search by Optuna: a ready objective, a pruner that knows catapults and warmups, trials in and out of sweeps.

Needs the extra ``optuna``; nothing here imports it before it is asked to.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lrscope.errors import MissingExtraError
from lrscope.reports.phase.cells import asked, finite
from lrscope.sweeps.grid import Grid
from lrscope.sweeps.outcome import record_of
from lrscope.sweeps.pruning import LOST, Judgement
from lrscope.sweeps.source import Source
from lrscope.sweeps.table import SweepTable
from lrscope.training import TrainState, train

ROW = "lrscope"
"""Name of the user attribute of a trial that holds its row of a sweep's table."""
LOG_FROM = 10.0
"""Ratio of the ends of a range of positive numbers from which on it is searched by ratio."""


def objective(
    task: Any,
    *,
    optimizer: Any = "sgd",
    steps: int | None = None,
    schedule: Any = None,
    space: Mapping[str, Any],
    value: str | None = None,
    seed: int = 0,
    report_every: int = 10,
    device: str | None = None,
) -> Objective:
    """What ``study.optimize`` takes: trains one run of ``task`` for each trial and returns what judges it.

    Every trial keeps its row of a sweep's table, see :func:`from_study`. A run that diverges is a pruned trial.

    Args:
        task, optimizer, steps, schedule, device: As for :func:`lrscope.sweep`; by default a warmup over the
            parameter ``warmup``, where there is one, and then constant.
        space: What to search, by the names of :func:`lrscope.sweep`'s axes: ``(low, high)`` for a range (by ratio
            where both are positive and a factor of 10 apart; whole numbers stay whole), a list for choices, one of
            Optuna's distributions, or a single value.
        value: Column to return, to be minimised; by default ``eval_loss`` where the task has an evaluation set, else
            ``final_loss``.
        seed: Of every trial, so that they compare.
        report_every: Updates whose mean loss is reported to the pruner at once.
        device: Where to train; ``None``: the task's own.

    Raises:
        TaskError, ValueError, TypeError: What cannot be meant; also from the trial, for a value that cannot.

    Example:
        >>> train_one = objective("digits", steps=100, space={"lr": (1e-3, 1.0), "warmup": ["1%", "10%", "33%"]})
        >>> study = optuna.create_study(pruner=pruner())  # doctest: +SKIP
        >>> study.optimize(train_one, n_trials=20)  # doctest: +SKIP
    """
    if not isinstance(space, Mapping) or not space:
        raise ValueError("space: expected ranges by name, such as {'lr': (1e-4, 1.0)}, got " + repr(space))
    if "seed" in space:
        raise ValueError("space: the seed is no parameter to search; give seed=, or average over studies")
    if isinstance(report_every, bool) or not isinstance(report_every, int) or report_every < 1:
        raise ValueError(f"report_every: expected a positive integer, got {report_every!r}")
    for name, choices in space.items():
        as_distribution(name, choices)
    found = Objective(Source(task, device), optimizer, steps, schedule, dict(space), value, seed, report_every)
    found.grid({name: _any_of(choices) for name, choices in space.items()})  # refuses names nobody knows
    return found


@dataclass(frozen=True)
class Objective:
    """Trains one run for a trial; made by :func:`objective`."""

    source: Source
    optimizer: Any
    steps: int | None
    schedule: Any
    space: Mapping[str, Any]
    value: str | None
    seed: int
    report_every: int

    def grid(self, point: Mapping[str, Any]) -> Grid:
        """The sweep of one cell that a point of the space is."""
        given = {name: [v] for name, v in point.items() if name not in ("optimizer", "steps", "schedule")}
        own = {name: point.get(name, getattr(self, name)) for name in ("optimizer", "steps", "schedule")}
        return Grid(self.source, **own, given={**given, "seed": [self.seed]})

    def __call__(self, trial: Any) -> float:
        TrialPruned = _optuna().TrialPruned
        point = {name: suggest(trial, name, choices) for name, choices in self.space.items()}
        (cell,) = self.grid(point).cells()
        trial.set_user_attr("warmup_steps", cell.point.get("warmup_steps") or 0)
        recent: list[float] = []

        def on_step(state: TrainState) -> None:
            recent.append(state.loss)
            if len(recent) == self.report_every:
                mean = sum(recent) / len(recent)
                recent.clear()
                trial.report(mean if math.isfinite(mean) else LOST, state.step + 1)
                if trial.should_prune():
                    shown = {**cell.point, **point, "status": "pruned", "pruned_at": state.step + 1}
                    trial.set_user_attr(ROW, shown)
                    raise TrialPruned(f"pruned at step {state.step + 1}")

        task = self.source.task(cell.settings)
        run = train(task, cell.optimizer, cell.schedule, cell.steps, seed=cell.seed, on_step=on_step)
        row = {**record_of(cell, run)["row"], **point, "engine": "optuna"}
        trial.set_user_attr(ROW, row)
        judged = self.value or ("final_loss" if task.evaluate is None else "eval_loss")
        if judged not in row:
            raise ValueError(f"value: there is no column {judged!r}; there are {', '.join(row)}")
        if row["status"] == "diverged" or finite(row[judged]) is None:
            raise TrialPruned(f"diverged at step {row['diverged_at']}")
        return float(row[judged])


def suggest(trial: Any, name: str, choices: Any) -> Any:
    """A value for one parameter of a space; see :func:`objective`."""
    kinds, range_ = _optuna().distributions, as_distribution(name, choices)
    if isinstance(range_, kinds.FloatDistribution):
        return trial.suggest_float(name, range_.low, range_.high, log=range_.log, step=range_.step)
    if isinstance(range_, kinds.IntDistribution):
        return trial.suggest_int(name, range_.low, range_.high, log=range_.log, step=range_.step)
    return trial.suggest_categorical(name, range_.choices)


def as_distribution(name: str, choices: Any) -> Any:
    """The distribution that a parameter of a space is.

    Raises:
        ValueError: A range whose ends are no numbers in order.
    """
    kinds = _optuna().distributions
    if isinstance(choices, kinds.BaseDistribution):
        return choices
    if isinstance(choices, (list, tuple)) and not choices:
        raise ValueError(f"space: {name} has no values; give at least one")
    if isinstance(choices, list):
        return kinds.CategoricalDistribution(choices)
    if not isinstance(choices, tuple):
        return kinds.CategoricalDistribution([choices])
    ends = [finite(end) for end in choices]
    if len(ends) != 2 or None in ends or not choices[0] <= choices[1]:
        raise ValueError(f"space: {name}={choices!r} is no range (low, high); choices are a list")
    low, high = choices
    log = low > 0 and high / low >= LOG_FROM
    if isinstance(low, int) and isinstance(high, int):
        return kinds.IntDistribution(low, high, log=log)
    return kinds.FloatDistribution(float(low), float(high), log=log)


def _any_of(choices: Any) -> Any:
    """Some value of a parameter, to try whether a sweep takes it."""
    if isinstance(choices, (list, tuple)):
        return choices[0]
    several = getattr(choices, "choices", None)
    return several[0] if several else getattr(choices, "low", choices)


def pruner(*, startup: int = 5, patience: int = 100, margin: float = 1.5) -> Any:
    """Gives up trials that are lost or far behind, by their loss curves.

    Lost is a loss that is not finite, or stays above its first value for ``patience`` updates; a catapult, which
    comes back within 100, is none. Far behind is a lowest loss above the median of the finished trials at the same
    step by ``margin`` times their interquartile range; a trial within its warmup is not compared.

    Args:
        startup: Finished trials before any is compared.
        patience: Updates.
        margin: In interquartile ranges.

    Raises:
        MissingExtraError: Optuna is not installed.
        ValueError: A number out of range.
    """
    if startup < 1 or patience < 1 or not margin >= 0:
        raise ValueError(
            f"pruner: expected startup and patience of 1 or more and margin of 0 or more, got {startup!r}, "
            f"{patience!r} and {margin!r}"
        )
    optuna = _optuna()
    judgement = Judgement(startup, patience, margin)

    class LossCurvePruner(optuna.pruners.BasePruner):
        def prune(self, study: Any, trial: Any) -> bool:
            curve = dict(trial.intermediate_values)
            if judgement.lost(curve):
                return True
            done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
            others = [dict(t.intermediate_values) for t in done if t.intermediate_values]
            return judgement.behind(curve, others, int(trial.user_attrs.get("warmup_steps") or 0))

    return LossCurvePruner()


def from_study(study: Any) -> SweepTable:
    """The trials of a study as the table of a sweep, one row each in their order.

    Trials of :func:`objective` or :func:`to_study` come with all that is known of them; of others there are the
    parameters, and the value as ``final_loss`` where the study minimises, else as ``value``. Trials that have not
    ended are left out, pruned ones have the status ``"pruned"`` and count for no boundary.
    """
    TrialState = _optuna().trial.TrialState
    column = "final_loss" if study.direction.name == "MINIMIZE" else "value"
    status = {TrialState.COMPLETE: "finished", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state not in status:
            continue
        row = trial.user_attrs.get(ROW)
        if row is None:
            value = trial.value if trial.state == TrialState.COMPLETE else None
            row = {**trial.params, "seed": trial.number, "status": status[trial.state], column: value}
        rows.append({**row, "trial": trial.number})
    return SweepTable.of(rows)


def to_study(
    table: SweepTable, study: Any, *, axes: Mapping[str, Any] | None = None, value: str | None = None
) -> int:
    """Add the cells of a sweep to a study, so that its sampler starts from what is known; returns how many.

    Finished cells are complete trials, diverged ones pruned, and those that raised failed. A cell that the study has
    already is passed over, so it may be called again as the sweep grows.

    Args:
        table: ``sweep.table``.
        study: Minimises.
        axes: Parameters by name as for :func:`objective`'s ``space``; by default the columns of the table that take
            several values and are none of its outcomes, numbers as a range from the smallest to the largest.
        value: Column to be minimised; by default ``eval_loss`` where it was recorded, else ``final_loss``.

    Raises:
        MissingExtraError: Optuna is not installed.
        ValueError: No such column, or nothing to add.
    """
    optuna = _optuna()
    TrialState = optuna.trial.TrialState
    rows = list(table.rows())
    if value is None:
        value = "eval_loss" if any(row.get("eval_loss") is not None for row in rows) else "final_loss"
    axes = _axes_of(table) if axes is None else axes
    missing = [name for name in (*axes, value, "status") if name not in table.columns]
    if missing or not axes:
        raise ValueError(
            f"table: there is no column {missing[0]!r}" if missing else "axes: no column takes two values"
        )
    ranges = {name: as_distribution(name, choices) for name, choices in axes.items()}
    have = {t.user_attrs[ROW].get("cell") for t in study.get_trials(deepcopy=False) if ROW in t.user_attrs}
    states = {"finished": TrialState.COMPLETE, "diverged": TrialState.PRUNED, "failed": TrialState.FAIL}
    added = 0
    for row in rows:
        if row["status"] not in states or (row.get("cell") is not None and row["cell"] in have):
            continue
        state = states[row["status"]]
        judged = finite(row[value])
        if state == TrialState.COMPLETE and judged is None:
            continue
        trial = optuna.trial.create_trial(
            state=state,
            value=judged if state == TrialState.COMPLETE else None,
            params={name: row[name] for name in axes},
            distributions=ranges,
            user_attrs={ROW: row, "warmup_steps": row.get("warmup_steps") or 0},
        )
        study.add_trial(trial)
        added += 1
    return added


def _axes_of(table: SweepTable) -> dict[str, Any]:
    """What was asked for and takes several values."""
    found: dict[str, Any] = {}
    for name in asked(table):
        distinct = list(dict.fromkeys(table[name]))
        if name in ("seed", "warmup_steps") or len(distinct) < 2:
            continue
        numbers = all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in distinct)
        found[name] = (min(distinct), max(distinct)) if numbers else distinct
    return found


def _optuna() -> Any:
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise MissingExtraError("optuna is not installed; pip install 'lrscope[optuna]'") from error
