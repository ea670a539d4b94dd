"""Grids of short runs, kept in a directory, drawn as maps."""

from lrscope.sweeps.adaptive import Adaptive
from lrscope.sweeps.auto import Auto
from lrscope.sweeps.engines import Engine, Replicas, Serial
from lrscope.sweeps.on_ray import Ray
from lrscope.sweeps.phases import best_cell, boundary, regimes, ridge, summary, with_regimes
from lrscope.sweeps.processes import Processes
from lrscope.sweeps.result import Sweep
from lrscope.sweeps.sweep import read, sweep
from lrscope.sweeps.table import SweepTable
from lrscope.sweeps.tally import SweepProgress

__all__ = [
    "Adaptive",
    "Auto",
    "Engine",
    "Processes",
    "Ray",
    "Replicas",
    "Serial",
    "Sweep",
    "SweepProgress",
    "SweepTable",
    "best_cell",
    "boundary",
    "read",
    "regimes",
    "ridge",
    "summary",
    "sweep",
    "with_regimes",
]
