"""Hugging Face: run our schedules under its Trainer, read its schedulers, make a task of what it trains."""

from lrscope.adapters.huggingface.as_task import task
from lrscope.adapters.huggingface.config import schedule_from_config

__all__ = ["schedule_from_config", "task"]
