"""Which cells share one program of replicas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from lrscope.isolation import isolated_rng, mode_of
from lrscope.tasks import Task
from lrscope.training.cell import Cell
from lrscope.training.feed import Feed
from lrscope.training.program import CannotBatch, Program, Traits


def default_chunk(theta: Tensor, kept: int = 0, *, captured: bool = False) -> int:
    """Replicas per program for parameters like ``theta``, ``(P,)``, whose forward pass keeps so many bytes.

    On a CPU what a program works on should stay in a core's cache, as far as that is possible: a captured program
    spends little on each call, so it may be small. Elsewhere as many as fit into some gigabytes.
    """
    # theta, gradient and up to three tensors of optimizer state; what is kept, and its gradients.
    each = 5 * theta.numel() * theta.element_size() + 2 * kept
    if theta.device.type != "cpu":
        return max(1, min(256, (4 * 2**30) // each))
    # 5 MiB by measurement, with 2 MiB of second-level cache: one CNN of 22k parameters, two perceptrons of 85k.
    room, fewest = (5 * 2**20, 1) if captured else (16 * 2**20, 4 if each <= 2**28 else 1)
    return max(fewest, min(32, room // each))


def seeds_mix(task: Task, cells: Sequence[Cell], traits: Traits) -> bool:
    """Whether one program may hold replicas of different seeds, found by a gradient of two.

    A model with dropout must not: its draws would depend on the company it runs in. And some losses cannot take a
    stacked batch (``F.one_hot`` looks at its values) though they can take a shared one.
    """
    if traits.draws:
        return False
    seeds = list(dict.fromkeys(c.seed for c in cells))[:2]
    if len(seeds) == 1:
        return True
    program = Program(task, seeds, traits)
    try:
        with isolated_rng(seeds[0]), mode_of(program.model, training=True):
            program.gradients(*Feed.of(task, seeds).next(seeds))
    except CannotBatch:
        return False
    return True


def chunks(cells: Sequence[Cell], size: int, *, by_seed: bool) -> Iterator[list[int]]:
    """Indices of ``cells`` in groups of at most ``size`` and alike; equal seeds, which share batches, together."""
    groups: dict[int, list[int]] = {}
    for i, cell in enumerate(cells):
        groups.setdefault(cell.seed, []).append(i)
    together = groups.values() if by_seed else [[i for group in groups.values() for i in group]]
    for group in together:
        count = -(-len(group) // size)
        for part in np.array_split(np.asarray(group), count):
            yield part.tolist()
