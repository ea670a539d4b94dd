"""The batches that programs of replicas are fed."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lrscope.objective import Batch
from lrscope.tasks import BatchStream, Task
from lrscope.training.program import CannotBatch


@dataclass(frozen=True)
class Drawn:
    """A batch, the tensors it holds, and what of it is fixed in a trace: everything but their values."""

    batch: Batch
    tensors: list[Tensor]
    kind: Hashable

    @classmethod
    def of(cls, batch: Batch) -> Drawn:
        leaves, spec = pytree.tree_flatten(batch)
        shapes = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves)
        return cls(batch, [x for x in leaves if isinstance(x, Tensor)], (shapes, spec))


Draw = Mapping[int, Drawn]
"""The batches of one step, by seed."""


@dataclass
class Feed:
    """Batches for the replicas that still run, by their seeds."""

    task: Task
    streams: dict[int, BatchStream]

    @classmethod
    def of(cls, task: Task, seeds: Iterable[int]) -> Feed:
        return cls(task, {seed: BatchStream(task.train, seed) for seed in seeds})

    def block(self, count: int, seeds: Iterable[int]) -> Iterator[Draw]:
        """The next ``count`` batches of each of ``seeds``, made when they are asked for."""
        wanted = list(dict.fromkeys(seeds))
        for _ in range(count):
            yield {seed: Drawn.of(self.task.to_device(next(self.streams[seed]))) for seed in wanted}

    def next(self, seeds: Sequence[int]) -> tuple[Batch, Any]:
        """One batch for all of ``seeds``, shared if there is one stream, and which of its leaves are stacked."""
        (draw,) = self.block(1, seeds)
        return joined(draw, seeds, shared=len(self.streams) == 1)


def kind_of(batch: Batch, dims: Any) -> Hashable:
    """What of a joined batch is fixed in a trace."""
    return Drawn.of(batch).kind, str(dims)


def joined(draw: Draw, seeds: Sequence[int], *, shared: bool) -> tuple[Batch, Any]:
    """One batch for a replica of each of ``seeds``, and which of its leaves are stacked, for ``vmap``.

    Raises:
        CannotBatch: Structures or shapes differ.
    """
    return (draw[seeds[0]].batch, None) if shared else stack_batches([draw[seed].batch for seed in seeds])


def stack_batches(batches: Sequence[Batch]) -> tuple[Batch, Any]:
    """One batch with a leading replica dimension, and which of its leaves have it, for ``vmap``.

    Raises:
        CannotBatch: Structures or shapes differ.
    """
    flat = [pytree.tree_flatten(batch) for batch in batches]
    leaves, spec = flat[0]
    if any(other != spec for _, other in flat):
        raise CannotBatch("batches of different seeds differ in structure, so they cannot be stacked")
    stacked, dims = [], []
    for i, leaf in enumerate(leaves):
        column = [each[i] for each, _ in flat]
        if isinstance(leaf, Tensor):
            shapes = {tuple(t.shape) for t in column}
            if len(shapes) > 1:
                raise CannotBatch(
                    f"batches of different seeds have shapes {sorted(shapes)}, so they cannot be stacked"
                )
            stacked.append(torch.stack(column))
            dims.append(0)
        elif isinstance(leaf, (int, float, str, bool, type(None))) and all(x == leaf for x in column):
            stacked.append(leaf)
            dims.append(None)
        else:
            raise CannotBatch(f"batches hold a {type(leaf).__name__}, which cannot be stacked over seeds")
    return pytree.tree_unflatten(stacked, spec), pytree.tree_unflatten(dims, spec)
