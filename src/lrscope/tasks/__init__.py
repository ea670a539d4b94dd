"""Tasks: built-in, the user's own, and their data."""

from lrscope.tasks.batches import Batches
from lrscope.tasks.cifar import cifar10, cifar100
from lrscope.tasks.digits import digits
from lrscope.tasks.distill import distill
from lrscope.tasks.load import BUILT_IN, load
from lrscope.tasks.stream import BatchStream
from lrscope.tasks.task import Task
from lrscope.tasks.text import text
from lrscope.tasks.topics import topics

__all__ = [
    "BUILT_IN",
    "BatchStream",
    "Batches",
    "Task",
    "cifar10",
    "cifar100",
    "digits",
    "distill",
    "load",
    "text",
    "topics",
]
