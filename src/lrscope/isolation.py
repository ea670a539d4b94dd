"""Leave no trace: random states and module modes come back as they were, also after an error."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


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
_WITH_DROPOUT = (nn.MultiheadAttention, nn.RNNBase)
"""Layers with dropout inside; cuDNN differentiates recurrent ones in train mode only, hence by their rate."""

_RATES: dict[Any, tuple[str, int]] = {
    **{
        function: ("p", 1)
        for home, names in (
            (F, "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout"),
            (torch, "dropout dropout_ feature_dropout feature_dropout_ alpha_dropout alpha_dropout_"),
            (torch, "feature_alpha_dropout feature_alpha_dropout_ native_dropout"),
        )
        for name in names.split()
        if (function := getattr(home, name, None)) is not None
    },
    F.scaled_dot_product_attention: ("dropout_p", 4),
    F.multi_head_attention_forward: ("dropout_p", 10),
}
"""Functions that drop, with the name and the position of their rate."""

_BACKWARD = {torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward}
_GRADIENT = {"gradient": "grad_tensors"}
"""What ``Tensor.backward`` calls otherwise than ``torch.autograd.backward``."""


class _NoDropout(TorchFunctionMode):
    """Calls of dropout, and of attention with dropout, are made with a rate of 0, whoever makes them."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _BACKWARD:
            return self._through(func, *args, **kwargs)
        if func in _RATES:
            name, place = _RATES[func]
            if len(args) > place:
                args = (*args[:place], 0.0, *args[place + 1 :])
            else:
                kwargs = {**kwargs, name: 0.0}
        return func(*args, **kwargs)

    def _through(self, func: Any, *args: Any, **kwargs: Any) -> Any:
        """A backward pass with the mode on, for activation checkpointing runs parts of the model again in there.

        torch switches a mode off while it handles a call, and these calls ask for one again and again.
        """
        if func is torch.Tensor.backward:
            func, kwargs = torch.autograd.backward, {_GRADIENT.get(k, k): v for k, v in kwargs.items()}
        before = torch.autograd.has_torch_function  # type: ignore[attr-defined]
        torch.autograd.has_torch_function = lambda _: False  # type: ignore[attr-defined]
        try:
            with self:
                return func(*args, **kwargs)
        finally:
            torch.autograd.has_torch_function = before  # type: ignore[attr-defined]


def without_dropout(model: nn.Module) -> AbstractContextManager[Any]:
    """Calls to torch's dropout and attention functions drop nothing in the block, also in backward passes.

    Masks that a model makes by itself (stochastic depth, ``bernoulli_``) are still drawn. Each call is watched, which
    takes some microseconds; a model made of torch's own layers, for which :func:`mode_of` is enough, goes without.
    """
    own = all(type(m).__module__.startswith(("torch.nn.", "torch._dynamo.")) for m in model.modules())
    return nullcontext() if own else _NoDropout()


@contextmanager
def mode_of(model: nn.Module, *, training: bool, dropout: bool = True) -> Iterator[None]:
    """Put ``model`` into train or eval mode for a block; every module gets its own flag back afterwards.

    With ``dropout=False`` torch's layers drop nothing, whatever ``training`` says: dropout layers stay in eval mode,
    the rates of attention and recurrent layers are 0. Other modules need :func:`without_dropout`.
    """
    before = [(module, module.training) for module in model.modules()]
    rates = [] if dropout else [(m, m.dropout) for m, _ in before if isinstance(m, _WITH_DROPOUT)]
    try:
        # Flags are set directly: model.train() may be overridden by the user with side effects of its own.
        for module, _ in before:
            module.training = training and (dropout or not isinstance(module, _DROPOUT))
        for module, _ in rates:
            module.dropout = 0.0
        yield
    finally:
        for module, training_before in before:
            module.training = training_before
        for module, rate in rates:
            module.dropout = rate
