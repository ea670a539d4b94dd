"""The table of a sweep: one row per cell, readable without lrscope."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lrscope.records import Table

TYPES: Mapping[str, type] = {
    "cell": str,
    "status": str,
    "diverged_at": int,
    "first_loss": float,
    "final_loss": float,
    "best_loss": float,
    "eval_loss": float,
    "trains": bool,
    "sharpness_start": float,
    "sharpness_end": float,
    "catapult": bool,
    "regime": str,
    "engine": str,
    "seconds": float,
    "gradients": float,
    "error": str,
}
"""Columns beside the axes, ``warmup_steps`` and the task's metrics; no axis may take their names."""


class SweepTable(Table):
    """Columns of a sweep: the axes by name, ``seed``, and what became of each cell.

    ================================  ===========================================================================
    ``cell``                          hash of the cell's config; names its file
    ``status``                        ``finished``, ``diverged``, or ``failed`` (raised; ``error`` says what)
    ``diverged_at``                   step of the loss that said so
    ``first_loss``, ``final_loss``    of the first batch; mean over the last 5 % of the steps of a finished run
    ``best_loss``                     smallest mean over as many steps in a row
    ``eval_loss`` and metrics         after the last update, where the task has an evaluation set
    ``trains``                        finished, and the final loss is below 0.9 times the first
    ``sharpness_start``, ``..._end``  of the first training batch, where measured
    ``catapult``                      the loss jumped out of its level and came back
    ``regime``                        what happened, in a word; see :func:`lrscope.sweeps.phases.regimes`
    ``warmup_steps``                  the axis ``warmup`` in whole steps
    ``engine``, ``seconds``           who ran it; its share of the wall time
    ``gradients``                     evaluations of one training batch
    ================================  ===========================================================================

    Missing values are ``None``.
    """

    @property
    def plot(self) -> Plots:
        """Pictures of the table, as in ``table.plot.phase(x="lr", y="warmup")``."""
        return Plots(self)

    def where(self, keep: Callable[[dict[str, Any]], bool] | None = None, /, **equal: Any) -> SweepTable:
        kept = super().where(keep, **equal)
        return SweepTable({name: kept.columns.get(name, []) for name in self.columns})  # also where no row is left

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> SweepTable:
        return cls(Table.of(rows).columns)


class Plots:
    """What can be drawn of a sweep's table."""

    def __init__(self, table: SweepTable) -> None:
        self._table = table

    def phase(self, *, x: str = "lr", y: str | None = "warmup", value: str = "final_loss", **options: Any) -> Any:
        """A map of ``value`` over two axes; see :func:`lrscope.reports.phase.draw_phase`."""
        from lrscope.reports.phase.diagram import draw_phase

        return draw_phase(self._table, x=x, y=y, value=value, **options)
