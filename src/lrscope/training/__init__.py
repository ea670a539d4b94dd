"""Training: the loop, and engines that run many cells at once."""

from lrscope.training.cell import Cell
from lrscope.training.engines import run_cells
from lrscope.training.ensemble import Ensemble, EnsembleResult, ensemble
from lrscope.training.evaluate import evaluate
from lrscope.training.gradient_norm import GradientNorm, gradient_norms
from lrscope.training.loop import train
from lrscope.training.probes import Probe, TrainState
from lrscope.training.program import CannotBatch
from lrscope.training.replicas import replicas
from lrscope.training.serial import train_one
from lrscope.training.snapshots import Snapshots, members_of

__all__ = [
    "CannotBatch",
    "Cell",
    "Ensemble",
    "EnsembleResult",
    "GradientNorm",
    "Probe",
    "Snapshots",
    "TrainState",
    "ensemble",
    "evaluate",
    "gradient_norms",
    "members_of",
    "replicas",
    "run_cells",
    "train",
    "train_one",
]
