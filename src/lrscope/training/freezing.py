"""Layers that stay as they are for the first steps of a run."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

Frozen = Mapping[str, int]
"""Pattern of parameter or module names -> the step at which they start to train."""


class Freezing:
    """Holds parameters of ``model`` until their step comes.

    A held parameter has no gradient (``None``, not zero), so the optimizer passes over it: no weight decay, and no
    momentum that would push it on the day it is released.

    Args:
        frozen: As :func:`lrscope.train` takes it.
        model: Whose parameters.

    Raises:
        ValueError: A pattern that matches nothing, a step that is no positive integer, or nothing left to train.
    """

    def __init__(self, frozen: Frozen, model: nn.Module) -> None:
        check(frozen)
        # A tied weight goes by each of its names: a held head holds it, though the embedding named it first.
        trained = {name: p for name, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
        until: dict[nn.Parameter, int] = {}
        for pattern, step in frozen.items():
            found = [p for name, p in trained.items() if _matches(name, pattern)]
            if not found:
                raise ValueError(f"frozen: {pattern!r} matches no trainable parameter{_near(pattern, list(trained))}")
            until |= {p: max(step, until.get(p, 0)) for p in found}
        if set(trained.values()) == until.keys():
            raise ValueError(
                f"frozen: {', '.join(map(repr, frozen))} hold every trainable parameter, so nothing would train "
                f"before step {min(until.values())}; leave some out"
            )
        self.held = list(until.items())

    def __call__(self, step: int) -> None:
        """Drop the gradients of what is still held in update ``step``."""
        for p, until in self.held:
            if step < until:
                p.grad = None


def check(frozen: Any) -> None:
    """Refuse what cannot say which layers are held, and how long, before any work."""
    if not isinstance(frozen, Mapping) or not frozen:
        raise ValueError(
            f"frozen: expected a dict such as {{'head.*': 200}}, got {frozen!r}; leave it out to train all"
        )
    for pattern, step in frozen.items():
        if not isinstance(pattern, str) or not pattern:
            raise ValueError(f"frozen: expected patterns of parameter names such as 'head.*', got {pattern!r}")
        if not isinstance(step, int) or isinstance(step, bool) or step < 1:
            raise ValueError(f"frozen: {pattern!r} must be held for a positive number of steps, got {step!r}")


def _matches(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def _near(pattern: str, names: list[str]) -> str:
    modules = {".".join(name.split(".")[:k]) for name in names for k in range(1, name.count(".") + 1)}
    close = get_close_matches(pattern.removesuffix(".*"), [*sorted(modules), *names], n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else f"; there are {', '.join(names[:4])}, …"
