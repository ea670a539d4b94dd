"""Tasks: built-in, the user's own, and their data."""

from lrscope.tasks.batches import Batches
from lrscope.tasks.digits import digits
from lrscope.tasks.stream import BatchStream
from lrscope.tasks.task import Task
from lrscope.tasks.text import text
from lrscope.tasks.topics import topics

__all__ = ["BatchStream", "Batches", "Task", "digits", "text", "topics"]
