"""lrscope chooses, runs and explains learning-rate schedules for PyTorch training.

Names are loaded on first use, so ``import lrscope.schedules`` needs no torch and the command line starts at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from lrscope._version import __version__
from lrscope.errors import (
    LrscopeError,
    LrscopeWarning,
    MeasurementError,
    MissingExtraError,
    ScheduleError,
    TaskError,
)

if TYPE_CHECKING:
    from lrscope import (
        adapters,
        curvature,
        landscape,
        optimizers,
        papers,
        planning,
        records,
        reports,
        schedules,
        similarity,
        solvable,
        stability,
        studies,
        sweeps,
        tasks,
        training,
    )
    from lrscope.curvature import SharpnessTracker, sharpness
    from lrscope.objective import Objective
    from lrscope.optimizers import ScheduledLR
    from lrscope.planning import plan
    from lrscope.schedules import Horizon
    from lrscope.stability import Watch, critical_lr
    from lrscope.sweeps import sweep
    from lrscope.tasks import Task
    from lrscope.training import replicas, train

_HOME = {
    "Horizon": "lrscope.schedules",
    "Objective": "lrscope.objective",
    "ScheduledLR": "lrscope.optimizers",
    "SharpnessTracker": "lrscope.curvature",
    "Task": "lrscope.tasks",
    "Watch": "lrscope.stability",
    "critical_lr": "lrscope.stability",
    "plan": "lrscope.planning",
    "replicas": "lrscope.training",
    "sharpness": "lrscope.curvature",
    "sweep": "lrscope.sweeps",
    "train": "lrscope.training",
}

__all__ = [
    "Horizon",
    "LrscopeError",
    "LrscopeWarning",
    "MeasurementError",
    "MissingExtraError",
    "Objective",
    "ScheduleError",
    "ScheduledLR",
    "SharpnessTracker",
    "Task",
    "TaskError",
    "Watch",
    "__version__",
    "adapters",
    "critical_lr",
    "curvature",
    "landscape",
    "optimizers",
    "papers",
    "plan",
    "planning",
    "records",
    "replicas",
    "reports",
    "schedules",
    "sharpness",
    "similarity",
    "solvable",
    "stability",
    "studies",
    "sweep",
    "sweeps",
    "tasks",
    "train",
    "training",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    if name in __all__:  # the rest of the public names are rooms
        return importlib.import_module(f"lrscope.{name}")
    raise AttributeError(f"module 'lrscope' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
