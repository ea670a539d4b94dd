"""How large a step survives, and what happens beyond: thresholds, critical learning rate, catapults, watching."""

from lrscope.records import CriticalLR
from lrscope.stability.alarm import Alarm
from lrscope.stability.cap import Cap
from lrscope.stability.catapult import Catapult, find_catapults
from lrscope.stability.critical import critical_lr
from lrscope.stability.critical_sharpness import CriticalSharpness, critical_sharpness
from lrscope.stability.equivalent import equivalent_lr
from lrscope.stability.gauge import StabilityGauge
from lrscope.stability.invariance import GroupInvariance, ScaleInvariance, scale_invariance
from lrscope.stability.probes import SharpnessProbe
from lrscope.stability.watch import Watch

__all__ = [
    "Alarm",
    "Cap",
    "Catapult",
    "CriticalLR",
    "CriticalSharpness",
    "GroupInvariance",
    "ScaleInvariance",
    "SharpnessProbe",
    "StabilityGauge",
    "Watch",
    "critical_lr",
    "critical_sharpness",
    "equivalent_lr",
    "find_catapults",
    "scale_invariance",
]
