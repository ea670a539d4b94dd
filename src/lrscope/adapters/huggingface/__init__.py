"""Hugging Face: run our schedules under its Trainer, read its schedulers, make a task of what it trains."""

from lrscope.adapters.huggingface.as_task import task
from lrscope.adapters.huggingface.config import schedule_from_config
from lrscope.adapters.huggingface.schedule import set_schedule

__all__ = ["schedule_from_config", "set_schedule", "task"]
