"""Batches of tensors that already lie in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from lrscope.errors import TaskError


class Batches:
    """Batches of in-memory tensors; every ``iter()`` starts a new epoch in a new order.

    What is drawn from torch's global generator (one permutation, one seed for augmentation) is drawn when the epoch
    starts, so a :class:`~lrscope.tasks.BatchStream` need not exchange random states at every batch. For small
    examples this is many times faster than a ``DataLoader``.

    Args:
        tensors: One tensor (batches are tensors), several (batches are tuples), or one mapping (batches are dicts);
            all with the same leading dimension, the examples.
        batch_size: Examples in a batch.
        shuffle: A new order each epoch.
        drop_last: Leave out a last batch that is not full.
        augment: ``augment(batch, generator)`` returns the batch to use; its draws must come from ``generator``,
            which is the epoch's own.

    Raises:
        TaskError: No tensors, leading dimensions that differ, or a batch size that yields no batch.

    Example:
        >>> [batch.tolist() for batch in Batches(torch.arange(5), batch_size=2)]
        [[0, 1], [2, 3], [4]]
    """

    draws_only_at_start = True

    def __init__(
        self,
        *tensors: Tensor | Mapping[str, Tensor],
        batch_size: int,
        shuffle: bool = False,
        drop_last: bool = False,
        augment: Callable[[Any, torch.Generator], Any] | None = None,
    ) -> None:
        data: Any = dict(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], Mapping) else tensors
        self.num_examples = _leading(data)
        self.data = data[0] if isinstance(data, tuple) and len(data) == 1 else data
        if not isinstance(batch_size, int) or batch_size < 1:
            raise TaskError(f"Batches(batch_size=): expected a positive integer, got {batch_size!r}")
        if drop_last and batch_size > self.num_examples:
            raise TaskError(
                f"Batches(batch_size=): {batch_size} exceeds the {self.num_examples} examples: with drop_last=True "
                "no batch is left; use a smaller batch_size or drop_last=False"
            )
        self.batch_size, self.shuffle, self.drop_last, self.augment = batch_size, shuffle, drop_last, augment

    def __len__(self) -> int:
        full, rest = divmod(self.num_examples, self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[Any]:
        # Not a generator function: draws must be made here, at iter(), and not at the first next().
        order = torch.randperm(self.num_examples) if self.shuffle else torch.arange(self.num_examples)
        generator = None
        if self.augment is not None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        return (self._batch(where, generator) for where in order.split(self.batch_size)[: len(self)])

    def _batch(self, where: Tensor, generator: torch.Generator | None) -> Any:
        if isinstance(self.data, Tensor):
            batch = self.data.index_select(0, where)
        elif isinstance(self.data, dict):
            batch = {name: tensor.index_select(0, where) for name, tensor in self.data.items()}
        else:
            batch = tuple(tensor.index_select(0, where) for tensor in self.data)
        return batch if self.augment is None or generator is None else self.augment(batch, generator)


def _leading(data: dict[str, Tensor] | tuple[Any, ...]) -> int:
    named = data if isinstance(data, dict) else {str(i): t for i, t in enumerate(data)}
    if not named:
        raise TaskError("Batches: got no tensors; give at least one, for example Batches(x, y, batch_size=64)")
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor) or tensor.ndim == 0:
            came = "a tensor without dimensions" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TaskError(f"Batches: {name} is {came}; expected a tensor whose first dimension is the example")
    sizes = {name: tensor.shape[0] for name, tensor in named.items()}
    if len(set(sizes.values())) > 1:
        found = ", ".join(f"{name}: {size}" for name, size in sizes.items())
        raise TaskError(f"Batches: tensors must hold the same number of examples; got {found}")
    if not next(iter(sizes.values())):
        raise TaskError("Batches: got tensors with no example in them")
    return next(iter(sizes.values()))
