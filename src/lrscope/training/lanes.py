"""Chunks of replicas that train at the same time, each on a thread of its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch
from torch.utils.data import DataLoader

from lrscope.tasks import Batches, Task
from lrscope.tasks.text import Windows
from lrscope.training.program import Traits


def lanes_for(task: Task, traits: Traits, num_cells: int, asked: int | None = None) -> int:
    """Chunks of a captured program that may train at the same time."""
    # Other threads must draw no random numbers, since generators are global, and need their batches ahead.
    if traits.draws or not keeps(task) or traits.grad.device.type != "cpu":
        return 1
    return max(1, min(asked or torch.get_num_threads(), num_cells))


def keeps(task: Task) -> bool:
    """Whether a batch stays what it is when the next one is drawn; other loaders may fill the same memory again."""
    return isinstance(task.train, (Batches, Windows, DataLoader, list, tuple))


@contextmanager
def workers(number: int) -> Iterator[ThreadPoolExecutor | None]:
    """Threads that compute on one core each; none where one lane is enough."""
    if number == 1:
        yield None
        return
    before = torch.get_num_threads()
    with ThreadPoolExecutor(number, "lrscope-lane", torch.set_num_threads, (1,)) as pool:
        try:
            yield pool
        finally:
            torch.set_num_threads(before)  # in parts it holds for the process, whichever thread says so


@contextmanager
def threads(number: int | None) -> Iterator[None]:
    """Let torch compute on ``number`` threads for a block; ``None`` changes nothing."""
    before = torch.get_num_threads()
    try:
        if number is not None:
            torch.set_num_threads(number)
        yield
    finally:
        if number is not None:
            torch.set_num_threads(before)
