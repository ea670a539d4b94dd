"""Curvature of the training loss: sharpness, its preconditioned form, its tracking, and what it says of the step."""

from lrscope.curvature.block import block
from lrscope.curvature.eigen import sharpness
from lrscope.curvature.hvp import DifferenceHessian, ExactHessian, Hessian
from lrscope.curvature.jacobian import NTK, EmpiricalFisher, GaussNewton
from lrscope.curvature.operators import Deflated, Operator, Preconditioned, Scaled, Sum
from lrscope.curvature.precondition import headroom, preconditioner, reference_lr, stability_threshold
from lrscope.curvature.probe import Choice, choose
from lrscope.curvature.result import EigenResult
from lrscope.curvature.tracker import SharpnessTracker

__all__ = [
    "NTK",
    "Choice",
    "Deflated",
    "DifferenceHessian",
    "EigenResult",
    "EmpiricalFisher",
    "ExactHessian",
    "GaussNewton",
    "Hessian",
    "Operator",
    "Preconditioned",
    "Scaled",
    "SharpnessTracker",
    "Sum",
    "block",
    "choose",
    "headroom",
    "preconditioner",
    "reference_lr",
    "sharpness",
    "stability_threshold",
]
