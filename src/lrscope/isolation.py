"""Leave no trace: random states and module modes come back as they were, also after an error."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn


@dataclass
class RandomState:
    """A snapshot of every generator that data code or a model may draw from.

    Python's, NumPy's and torch's global generators, those of the CUDA devices in use, and ``generators``.
    """

    generators: tuple[torch.Generator, ...] = ()
    _python: Any = field(default=None, repr=False)
    _numpy: Any = field(default=None, repr=False)
    _torch: Any = field(default=None, repr=False)
    _cuda: list[torch.Tensor] = field(default_factory=list, repr=False)
    _own: list[torch.Tensor] = field(default_factory=list, repr=False)

    @classmethod
    def take(cls, generators: Iterable[torch.Generator] = ()) -> RandomState:
        state = cls(tuple(generators))
        state._python = random.getstate()
        state._numpy = np.random.get_state()
        state._torch = torch.get_rng_state()
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state._cuda = torch.cuda.get_rng_state_all()
        state._own = [g.get_state() for g in state.generators]
        return state

    def restore(self) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda:
            torch.cuda.set_rng_state_all(self._cuda)
        for generator, own in zip(self.generators, self._own, strict=True):
            generator.set_state(own)


def seed_everything(seed: int, generators: Iterable[torch.Generator] = ()) -> None:
    """Seed Python, NumPy, torch and ``generators``; call it only inside :func:`isolated_rng`."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed would queue calls for every absent accelerator: two milliseconds, and memory, each time.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
    for generator in generators:
        generator.manual_seed(seed)


@contextmanager
def isolated_rng(seed: int | None = None, generators: Iterable[torch.Generator] = ()) -> Iterator[None]:
    """Run a block whose random draws leave no trace, from ``seed`` when one is given."""
    generators = tuple(generators)
    before = RandomState.take(generators)
    try:
        if seed is not None:
            seed_everything(seed, generators)
        yield
    finally:
        before.restore()


def generators_of(loader: Any) -> list[torch.Generator]:
    """Generators that a ``DataLoader`` (or anything shaped like one) draws from on its own account."""
    sampler, batch_sampler = getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)
    owners = [loader, sampler, batch_sampler, getattr(batch_sampler, "sampler", None)]
    found = {id(g): g for o in owners if isinstance(g := getattr(o, "generator", None), torch.Generator)}
    return list(found.values())


_DROPOUT = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)


@contextmanager
def mode_of(model: nn.Module, *, training: bool, dropout: bool = True) -> Iterator[None]:
    """Put ``model`` into train or eval mode for a block; every module gets its own flag back afterwards.

    With ``dropout=False`` the dropout layers stay in eval mode, whatever ``training`` says.
    """
    before = [(module, module.training) for module in model.modules()]
    try:
        # Flags are set directly: model.train() may be overridden by the user with side effects of its own.
        for module, _ in before:
            module.training = training and (dropout or not isinstance(module, _DROPOUT))
        yield
    finally:
        for module, training_before in before:
            module.training = training_before
