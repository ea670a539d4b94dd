"""Lightning: a schedule in ``configure_optimizers`` or by a callback, exact on resume; sharpness of a run; a task.

Works with both package trees, ``lightning.pytorch`` and ``pytorch_lightning``; neither is imported before it is used.
"""

from __future__ import annotations

import contextlib
import importlib
from typing import TYPE_CHECKING, Any

from lrscope.adapters.lightning.as_task import task
from lrscope.adapters.lightning.callback import ScheduleCallback as ScheduleHooks
from lrscope.adapters.lightning.configure import configure_optimizers
from lrscope.adapters.lightning.length import horizon_of
from lrscope.adapters.lightning.sharpness import SharpnessCallback as SharpnessHooks
from lrscope.errors import MissingExtraError

__all__ = ["ScheduleCallback", "SharpnessCallback", "configure_optimizers", "horizon_of", "task"]

_HOOKS = {"ScheduleCallback": ScheduleHooks, "SharpnessCallback": SharpnessHooks}

if TYPE_CHECKING:

    class ScheduleCallback(ScheduleHooks): ...

    class SharpnessCallback(SharpnessHooks): ...


def __getattr__(name: str) -> Any:
    if name not in _HOOKS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # A Trainer accepts callbacks of its own tree only, and one of both trees serves whichever the user took.
    trees = []
    for tree in ("lightning.pytorch", "pytorch_lightning"):
        with contextlib.suppress(ImportError):
            trees.append(importlib.import_module(tree).Callback)
    if not trees:
        raise MissingExtraError(f'{name} needs Lightning, which is not installed: pip install "lrscope[lightning]"')
    hooks = _HOOKS[name]
    globals()[name] = type(name, (hooks, *trees), {"__doc__": hooks.__doc__, "__module__": __name__})
    return globals()[name]
