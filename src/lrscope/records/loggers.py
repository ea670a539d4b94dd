"""Where numbers go besides the record: one small protocol for every experiment tracker."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

_NAMES = {
    "sharpness": "curvature/lambda_max",
    "sharpness_residual": "curvature/residual",
    "headroom": "curvature/headroom",
    "stable_lr": "curvature/stable_lr",
}
"""Columns of a record that have a longer name among the metrics of other tools."""


class Logger(Protocol):
    """Anything with ``log(metrics, step)``; :mod:`lrscope.adapters.loggers` has those of the usual trackers."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Store the metrics of one step."""
        ...


def as_metrics(row: Mapping[str, float]) -> dict[str, float]:
    """A row of a record under the names for loggers: ``loss``, ``lr``, ``curvature/headroom``, ..."""
    return {_NAMES.get(name, name): value for name, value in row.items() if name != "step"}
