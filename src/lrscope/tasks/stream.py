"""An endless stream of batches whose order depends on a seed alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from lrscope.errors import TaskError
from lrscope.isolation import RandomState, generators_of, isolated_rng
from lrscope.objective import Batch


class BatchStream:
    """Epoch after epoch of ``source``, shuffled by ``seed``, leaving ``source`` and all generators as found.

    The draws of the loader (shuffling, augmentation) come from a random state of the stream's own, which is put in
    place only while the loader works; neither the model nor the user's code sees it. The same seed therefore gives
    the same batches, whatever is trained on them.

    Args:
        source: Batches that can be iterated again and again. A ``DataLoader``'s own generators and a distributed
            sampler's epoch are driven by the stream and put back.
        seed: Decides the order.

    Raises:
        TaskError: An epoch holds no batch.
    """

    def __init__(self, source: Iterable[Batch], seed: int = 0) -> None:
        self.source = source
        self.seed = seed
        self.epoch_index = 0
        self.index = 0  # batches already taken from this epoch
        self._epoch: Iterator[Batch] | None = None

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._epoch is None:
            self._epoch = self.epoch()
        batch = next(self._epoch, _END)
        if batch is _END:
            if self.index == 0:
                raise TaskError(
                    "train: an epoch holds no batch (an exhausted generator, or fewer examples than one batch with "
                    "drop_last=True); give batches that can be iterated again and again"
                )
            self.epoch_index, self.index = self.epoch_index + 1, 0
            self._epoch = None
            return next(self)
        self.index += 1
        return batch

    def epoch(self) -> Iterator[Batch]:
        """The batches of the current epoch, from its start."""
        generators, samplers = generators_of(self.source), _epoch_samplers(self.source)
        seed = int(np.random.SeedSequence([self.seed, self.epoch_index]).generate_state(1)[0])
        outside_epochs = [sampler.epoch for sampler in samplers]
        try:
            with isolated_rng(seed, generators):
                for sampler in samplers:
                    sampler.set_epoch(seed)
                batches = iter(self.source)
                batch = next(batches, _END)
                inside = RandomState.take(generators)
        finally:
            for sampler, epoch in zip(samplers, outside_epochs, strict=True):
                sampler.set_epoch(epoch)
        # Loaders that draw only when an epoch starts say so, and are spared the exchange at every batch.
        draws_later = not getattr(self.source, "draws_only_at_start", False)
        while batch is not _END:
            yield batch
            if not draws_later:
                batch = next(batches, _END)
                continue
            outside = RandomState.take(generators)
            try:
                inside.restore()
                batch = next(batches, _END)
                inside = RandomState.take(generators)
            finally:
                outside.restore()

    def state_dict(self) -> dict[str, int]:
        return {"seed": self.seed, "epoch": self.epoch_index, "index": self.index}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a stored position; the batches before it are drawn and thrown away."""
        self.seed, self.epoch_index, self.index = state["seed"], state["epoch"], 0
        self._epoch = self.epoch()
        for _ in range(state["index"]):
            next(self)


_END: Any = object()


def _epoch_samplers(source: Any) -> list[Any]:
    samplers = [getattr(source, "sampler", None), getattr(getattr(source, "batch_sampler", None), "sampler", None)]
    return list({id(s): s for s in samplers if hasattr(s, "set_epoch") and hasattr(s, "epoch")}.values())
