"""Tasks: built-in, the user's own, and their data."""

from lrscope.tasks.stream import BatchStream
from lrscope.tasks.task import Task

__all__ = ["BatchStream", "Task"]
