"""Models whose training is exactly known: the ground truth of thresholds, catapults and equilibria."""

from lrscope.solvable.closed import ClosedForm
from lrscope.solvable.deep_linear import DeepLinear
from lrscope.solvable.dynamics import Dynamics
from lrscope.solvable.last_layer import LastLayer
from lrscope.solvable.phases import PhaseDiagram
from lrscope.solvable.quadratic import Quadratic
from lrscope.solvable.scale_invariant import NormEquilibrium, ScaleInvariant
from lrscope.solvable.trajectory import Trajectory
from lrscope.solvable.two_layer import TwoLayer
from lrscope.solvable.uv import UV

__all__ = [
    "UV",
    "ClosedForm",
    "DeepLinear",
    "Dynamics",
    "LastLayer",
    "NormEquilibrium",
    "PhaseDiagram",
    "Quadratic",
    "ScaleInvariant",
    "Trajectory",
    "TwoLayer",
]
