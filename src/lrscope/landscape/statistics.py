"""BatchNorm statistics of a network that nobody trained, recomputed from data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


class Statistics:
    """The running statistics inside of a model: which there are, and how they are taken anew.

    They are the mean over batches of each batch's mean and (unbiased) variance, weighted by examples: what BatchNorm
    gathers with a cumulative average, independent of any earlier value.

    Attributes:
        names: Of the buffers that are recomputed.
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers: list[Any] = [m for m in model.modules() if _keeps_statistics(m)]
        by_id = {id(b): name for name, b in model.named_buffers()}
        self.names = tuple(
            by_id[id(buffer)]
            for m in self._layers
            for buffer in (m.running_mean, m.running_var)
            if id(buffer) in by_id
        )
        self._model = model

    def __bool__(self) -> bool:
        return bool(self._layers)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """These layers, and no others, compute with the batch's statistics and gather them."""
        before = [(m, m.training, m.momentum) for m in self._layers]
        try:
            for m, _, _ in before:
                m.training = True
            yield
        finally:
            for m, training, momentum in before:
                m.training, m.momentum = training, momentum

    def weigh(self, share: float) -> None:
        """The next batch counts ``share`` of all so far, itself included: 1 for the first, which forgets the rest."""
        for m in self._layers:
            m.momentum = share

    def now(self) -> dict[str, Tensor]:
        """The buffers as a forward pass has left them; call it while they are held."""
        held = dict(self._model.named_buffers())
        return {name: held[name] for name in self.names}


def _keeps_statistics(module: nn.Module) -> bool:
    """By what it has, not by its class: other libraries bring BatchNorms of their own."""
    stores = getattr(module, "_buffers", {})
    has = all(isinstance(stores.get(name), Tensor) for name in ("running_mean", "running_var"))
    return has and hasattr(module, "momentum")
