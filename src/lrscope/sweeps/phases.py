"""What a sweep's table says: up to where training works, where it works best, and what happens in each cell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal, get_args

import torch

from lrscope.curvature import stability_threshold
from lrscope.optimizers import OptimizerSpec
from lrscope.records import Table
from lrscope.reports.phase.cells import asked, bar_of, best_cell, finite, trains
from lrscope.reports.phase.limits import boundary, ridge
from lrscope.reports.phase.words import summary
from lrscope.stability.edge import NEAR

Phase = Literal[
    "diverged", "failed to train", "slow", "edge of stability", "catapult", "lazy", "flattened", "sharpened", "stable"
]
SAME = 0.1
"""Relative change of the sharpness up to which it counts as unchanged: wide networks below their critical rate keep
theirs to within 10 % (Lewkowycz et al. 2020)."""


def regimes(
    table: Table,
    *,
    optimizer: OptimizerSpec | str | None = None,
    threshold: float | None = None,
    bar: float | None = None,
) -> list[Phase | None]:
    r"""What happened in each run, by what was recorded of it; ``None`` where that is not enough.

    The first that fits:

    =====================  ==========================================================================================
    ``diverged``           its status says so
    ``failed to train``    it finished at or above the bar, see :func:`boundary`
    ``slow``               likewise, but a larger learning rate, all else equal, trained
    ``edge of stability``  at the end the learning rate was 0.9 to 1.5 times what the curvature allows
    ``catapult``           the loss jumped and came back
    ``lazy``               the sharpness at the end is within 10 % of that at the start
    ``flattened``          it fell by more
    ``sharpened``          it rose by more
    ``stable``             no jump was seen, and the sharpness was not measured
    =====================  ==========================================================================================

    Args:
        table: One row per run; ``catapult``, ``sharpness_start`` and ``sharpness_end`` are used where they are. The
            learning rate at the end is taken to be the column ``lr``, as it is of schedules that end at their peak,
            unless there is a column ``headroom_end``.
        optimizer: What trained. The largest stable learning rate times sharpness follows from it: 2 for gradient
            descent, 3.8 for SGD with momentum 0.9; the columns ``optimizer``, ``momentum``, ``dampening`` and
            ``nesterov`` are heeded where they are. The sharpness recorded is that of the loss, which says nothing of
            Adam's edge. ``None``, and no such column: the edge of stability is not looked for.
        threshold: That number itself, for an update rule that is not among ours.
        bar: Final loss below which a run counts as trained; by default as for :func:`boundary`.

    Returns:
        One label per row of the table.

    Raises:
        ValueError: A threshold that is not positive, or an optimizer that nobody knows.

    References:
        Lewkowycz et al. 2020, arXiv 2003.02218 (lazy, catapult); Cohen et al. 2021, arXiv 2103.00065 (the edge).
    """
    if threshold is not None and not 0 < threshold < math.inf:
        raise ValueError(f"threshold: expected a positive number, such as 2 for gradient descent, got {threshold!r}")
    bar = bar_of(table) if bar is None else bar
    base = None if optimizer is None else OptimizerSpec.parse(optimizer)
    labels: list[Phase | None] = [_regime(row, threshold or _threshold(base, row), bar) for row in table.rows()]
    for i, slow in enumerate(_below_one_that_trains(table, bar)):
        if slow and labels[i] == "failed to train":
            labels[i] = "slow"
    return labels


def _below_one_that_trains(table: Table, bar: float) -> list[bool]:
    """Whether the same run with some larger learning rate trained."""
    others = [name for name in asked(table) if name != "lr"]
    largest: dict[tuple[Any, ...], float] = {}
    for row in table.rows():
        if trains(row, bar=bar) and finite(row.get("lr")) is not None:
            key = tuple(row[name] for name in others)
            largest[key] = max(largest.get(key, 0.0), float(row["lr"]))
    return [
        (finite(row.get("lr")) or math.inf) < largest.get(tuple(row[name] for name in others), 0.0)
        for row in table.rows()
    ]


def with_regimes(table: Table, **options: Any) -> Table:
    """The table with its column ``regime`` filled in; options as for :func:`regimes`."""
    return type(table)({**table.columns, "regime": regimes(table, **options)})


def _threshold(base: OptimizerSpec | None, row: Mapping[str, Any]) -> float | None:
    """Of what trained this row; ``None`` if the recorded sharpness is not the one that decides."""
    if row.get("sharpness_end") is None:  # nothing to hold against it, and torch's first optimizer takes a second
        return None
    spec = OptimizerSpec.parse(row["optimizer"]) if row.get("optimizer") else base
    if spec is None or spec.name != "sgd":
        return None
    own = {name: row[name] for name in ("momentum", "dampening", "nesterov") if row.get(name) is not None}
    return _late_threshold(OptimizerSpec.from_spec(spec.to_spec() | own))


@cache
def _late_threshold(spec: OptimizerSpec) -> float:
    return stability_threshold(spec.build([torch.nn.Parameter(torch.zeros(1))], lr=1.0))


def _regime(row: Mapping[str, Any], threshold: float | None, bar: float) -> Phase | None:
    trained = trains(row, bar=bar)
    if trained is None:
        return None
    if not trained:
        return "diverged" if row["status"] == "diverged" else "failed to train"
    start, end = finite(row.get("sharpness_start")), finite(row.get("sharpness_end"))
    headroom = finite(row.get("headroom_end"))
    if headroom is None and threshold is not None and end is not None and finite(row.get("lr")) is not None:
        headroom = float(row["lr"]) * end / threshold
    if headroom is not None and NEAR[0] <= headroom <= NEAR[1]:
        return "edge of stability"
    if row.get("catapult"):
        return "catapult"
    if start is not None and end is not None and start > 0:
        change = end / start - 1
        return "lazy" if abs(change) <= SAME else "flattened" if change < 0 else "sharpened"
    return "stable" if row.get("catapult") is False else None


PHASES: tuple[str, ...] = get_args(Phase)

__all__ = ["PHASES", "Phase", "best_cell", "boundary", "regimes", "ridge", "summary", "with_regimes"]
