"""Curvature of the training loss: sharpness, its preconditioned form, its tracking, and what it says of the step."""

from lrscope.curvature.block import block
from lrscope.curvature.density import SpectralDensity, spectral_density
from lrscope.curvature.directional import DirectionalCurvature, directional
from lrscope.curvature.eigen import preconditioned_sharpness, sharpness
from lrscope.curvature.hvp import DifferenceHessian, ExactHessian, ForwardHessian, Hessian
from lrscope.curvature.jacobian import NTK, EmpiricalFisher, GaussNewton
from lrscope.curvature.layers import LayerSharpness, layer_sharpness
from lrscope.curvature.measurement import Measurement
from lrscope.curvature.noise import NoiseScale, gradient_noise_scale
from lrscope.curvature.operators import Deflated, Operator, Preconditioned, Scaled, Sum
from lrscope.curvature.precondition import headroom, preconditioner, reference_lr, stability_threshold
from lrscope.curvature.probe import Choice, choose
from lrscope.curvature.result import EigenResult
from lrscope.curvature.trace import TraceResult, trace
from lrscope.curvature.tracker import SharpnessTracker

__all__ = [
    "NTK",
    "Choice",
    "Deflated",
    "DifferenceHessian",
    "DirectionalCurvature",
    "EigenResult",
    "EmpiricalFisher",
    "ExactHessian",
    "ForwardHessian",
    "GaussNewton",
    "Hessian",
    "LayerSharpness",
    "Measurement",
    "NoiseScale",
    "Operator",
    "Preconditioned",
    "Scaled",
    "SharpnessTracker",
    "SpectralDensity",
    "Sum",
    "TraceResult",
    "block",
    "choose",
    "directional",
    "gradient_noise_scale",
    "headroom",
    "layer_sharpness",
    "preconditioned_sharpness",
    "preconditioner",
    "reference_lr",
    "sharpness",
    "spectral_density",
    "stability_threshold",
    "trace",
]
