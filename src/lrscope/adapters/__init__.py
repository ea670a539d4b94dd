"""Other trainers: run our schedules there, read theirs, make a task of what they train.

One place per trainer; nothing here is imported until it is asked for, since the trainers are optional.

- :mod:`~lrscope.adapters.huggingface`, :mod:`~lrscope.adapters.lightning`: schedules in their trainers, and tasks.
- ``from_torch``, ``from_timm``: read the schedulers of PyTorch and timm; ``TimmStepping`` steps ours as timm does.
- ``to_optax``: a schedule as a jittable function for optax.
- :mod:`~lrscope.adapters.loggers`: rows of a run for TensorBoard, W&B, MLflow and Trackio.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrscope.adapters import huggingface, lightning, loggers
    from lrscope.adapters.imported import Imported
    from lrscope.adapters.optax import to_optax
    from lrscope.adapters.timm import TimmStepping, from_timm
    from lrscope.adapters.torch_schedulers import from_torch, simulate

_HOME = {
    "Imported": "lrscope.adapters.imported",
    "TimmStepping": "lrscope.adapters.timm",
    "from_timm": "lrscope.adapters.timm",
    "from_torch": "lrscope.adapters.torch_schedulers",
    "simulate": "lrscope.adapters.torch_schedulers",
    "to_optax": "lrscope.adapters.optax",
}

__all__ = [
    "Imported",
    "TimmStepping",
    "from_timm",
    "from_torch",
    "huggingface",
    "lightning",
    "loggers",
    "simulate",
    "to_optax",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in __all__:  # the rest are modules
        return importlib.import_module(f"lrscope.adapters.{name}")
    raise AttributeError(f"module 'lrscope.adapters' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
