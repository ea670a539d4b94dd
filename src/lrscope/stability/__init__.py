"""How large a step survives, and what happens beyond: thresholds, critical learning rate, catapults, watching."""

from lrscope.records import CriticalLR
from lrscope.stability.alarm import Alarm
from lrscope.stability.cap import Cap
from lrscope.stability.catapult import Catapult, CatapultDetector, find_catapults
from lrscope.stability.catapult_warmup import CatapultWarmup
from lrscope.stability.constants import CriticalConstants, critical_constants
from lrscope.stability.critical import critical_lr
from lrscope.stability.critical_sharpness import CriticalSharpness, critical_sharpness
from lrscope.stability.critical_warmup import CriticalWarmup, warmup_from_critical
from lrscope.stability.decay import decay_curvature
from lrscope.stability.edge import EdgeDetector, EdgeOfStability, edge_of_stability
from lrscope.stability.equivalent import equivalent_lr
from lrscope.stability.explain import explain
from lrscope.stability.gauge import StabilityGauge
from lrscope.stability.gen import GeN
from lrscope.stability.invariance import GroupInvariance, ScaleInvariance, scale_invariance
from lrscope.stability.jump import Jump, find_jump
from lrscope.stability.probes import SharpnessProbe
from lrscope.stability.regime import Regime, measure_regime, run_regime
from lrscope.stability.sharpening import Sharpening, natural_sharpening
from lrscope.stability.show_equivalence import Equivalence, show_equivalence
from lrscope.stability.two_phase_rates import TwoPhaseRates, two_phase_rates
from lrscope.stability.watch import Watch

__all__ = [
    "Alarm",
    "Cap",
    "Catapult",
    "CatapultDetector",
    "CatapultWarmup",
    "CriticalConstants",
    "CriticalLR",
    "CriticalSharpness",
    "CriticalWarmup",
    "EdgeDetector",
    "EdgeOfStability",
    "Equivalence",
    "GeN",
    "GroupInvariance",
    "Jump",
    "Regime",
    "ScaleInvariance",
    "Sharpening",
    "SharpnessProbe",
    "StabilityGauge",
    "TwoPhaseRates",
    "Watch",
    "critical_constants",
    "critical_lr",
    "critical_sharpness",
    "decay_curvature",
    "edge_of_stability",
    "equivalent_lr",
    "explain",
    "find_catapults",
    "find_jump",
    "measure_regime",
    "natural_sharpening",
    "run_regime",
    "scale_invariance",
    "show_equivalence",
    "two_phase_rates",
    "warmup_from_critical",
]
