"""What a trainer's step does besides computing its loss, taken back."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

_OF_MODULES = ("_parameters", "_buffers", "_modules")


@contextmanager
def unchanged(*owners: Any) -> Iterator[None]:
    """Whatever a block sets, appends or counts on ``owners`` is afterwards as it was.

    Steps note things on the way: running metrics, counts of tokens, lists for the end of the epoch. The attributes
    come back, the same objects with the same contents: numbers, tensors, and lists, dicts, sets and deques, nested as
    they may be. Not looked into: other objects, and tensors inside lists and dicts, which steps append and do not
    change. Parameters and buffers of modules are left to :class:`~lrscope.Objective`.
    """
    attributes = [(owner, dict(vars(owner))) for owner in owners]
    contents: dict[int, tuple[Any, Any]] = {}
    tensors: list[tuple[Tensor, Tensor, int]] = []
    for _, own in attributes:
        for name, value in own.items():
            if name in _OF_MODULES:
                continue
            if isinstance(value, Tensor) and not value.is_inference():
                tensors.append((value, value.detach().clone(), value._version))
            _remember(value, contents)
    try:
        yield
    finally:
        for container, before in contents.values():
            if not _same(container, before):
                container.clear()
                (container.extend if isinstance(container, list | deque) else container.update)(before)
        for tensor, before, version in tensors:
            if tensor._version != version:
                with torch.no_grad():
                    tensor.copy_(before)
        for owner, own in attributes:
            vars(owner).clear()
            vars(owner).update(own)


def _remember(value: Any, contents: dict[int, tuple[Any, Any]]) -> None:
    """Note what containers hold, each once."""
    if not isinstance(value, list | dict | set | deque | tuple) or id(value) in contents:
        return
    if not isinstance(value, tuple):
        contents[id(value)] = (value, dict(value) if isinstance(value, dict) else list(value))
    for part in value.values() if isinstance(value, dict) else value:
        _remember(part, contents)


def _same(container: Any, before: Any) -> bool:
    """Whether it holds the very same objects in the same order: then it is not touched."""
    now, then = ([*c, *c.values()] if isinstance(c, dict) else list(c) for c in (container, before))
    return len(now) == len(then) and all(a is b for a, b in zip(now, then, strict=True))
