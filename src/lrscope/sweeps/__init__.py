"""Grids of short runs, kept in a directory, drawn as maps."""

from lrscope.sweeps.auto import Auto
from lrscope.sweeps.engines import Engine, Replicas, Serial
from lrscope.sweeps.on_ray import Ray
from lrscope.sweeps.processes import Processes
from lrscope.sweeps.sweep import Sweep, read, sweep
from lrscope.sweeps.table import SweepTable
from lrscope.sweeps.tally import SweepProgress

__all__ = [
    "Auto",
    "Engine",
    "Processes",
    "Ray",
    "Replicas",
    "Serial",
    "Sweep",
    "SweepProgress",
    "SweepTable",
    "read",
    "sweep",
]
