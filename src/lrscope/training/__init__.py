"""Training: the loop, and engines that run many cells at once."""

from lrscope.training.cell import Cell
from lrscope.training.engines import run_cells
from lrscope.training.evaluate import evaluate
from lrscope.training.loop import train
from lrscope.training.probes import Probe, TrainState
from lrscope.training.program import CannotBatch
from lrscope.training.replicas import replicas
from lrscope.training.serial import train_one

__all__ = ["CannotBatch", "Cell", "Probe", "TrainState", "evaluate", "replicas", "run_cells", "train", "train_one"]
