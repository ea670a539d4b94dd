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

    On a CPU what a step goes through again and again should stay in a core's cache, as far as that is possible: what
    the forward pass keeps, and its gradients. Parameters and what the optimizer remembers of them come by once.
    Elsewhere as many as fit into some gigabytes.
    """
    size = theta.numel() * theta.element_size()
    each = 5 * size + 2 * kept  # theta, gradient and up to three tensors of optimizer state
    if theta.device.type != "cpu":
        return max(1, min(256, (4 * 2**30) // each))
    if captured:  # measured on perceptrons of 5k and 85k parameters, two CNNs and a GPT, 2 MiB of second-level cache
        return max(1, min(32, 8 * 2**20 // (size + 2 * kept)))
    return max(4 if each <= 2**28 else 1, min(32, 16 * 2**20 // each))


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
