"""Grids of short runs, kept in a directory, drawn as maps."""

from lrscope.sweeps.engines import Engine, Replicas, Serial
from lrscope.sweeps.sweep import Sweep, read, sweep
from lrscope.sweeps.table import SweepTable
from lrscope.sweeps.tally import SweepProgress

__all__ = ["Engine", "Replicas", "Serial", "Sweep", "SweepProgress", "SweepTable", "read", "sweep"]
