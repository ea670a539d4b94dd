"""Hugging Face: run schedules and measure under its Trainer, read its schedulers, make a task of what it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrscope.adapters.huggingface.as_task import task
from lrscope.adapters.huggingface.config import schedule_from_config
from lrscope.adapters.huggingface.schedule import set_schedule
from lrscope.adapters.huggingface.sharpness import SharpnessCallback as Hooks
from lrscope.errors import MissingExtraError

__all__ = ["SharpnessCallback", "schedule_from_config", "set_schedule", "task"]

if TYPE_CHECKING:

    class SharpnessCallback(Hooks): ...


def __getattr__(name: str) -> Any:
    if name != "SharpnessCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise MissingExtraError(
            f'SharpnessCallback: transformers cannot be imported ({error}); pip install "lrscope[hf]"'
        ) from error
    globals()[name] = type(name, (Hooks, TrainerCallback), {"__doc__": Hooks.__doc__, "__module__": __name__})
    return globals()[name]
