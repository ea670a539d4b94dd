"""Loss and metrics of one batch from a single forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class OneForward:
    """While entered, a model asked again for the same inputs returns its last output: call :meth:`forget` in between.

    A task's loss and each of its metrics call the model on their own, mostly on the same tensors. For a model of our
    own only, since its ``forward`` is replaced meanwhile. An output that was edited in place is computed anew.

    Attributes:
        calls: Forward passes that were really made since :meth:`forget`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._last: tuple[list[Any], Any, list[int]] | None = None
        self.calls = 0

    def __enter__(self) -> OneForward:
        self._forward = self._model.forward
        self._own = "forward" in vars(self._model)
        self._model.forward = self._remembering
        return self

    def __exit__(self, *_: object) -> None:
        self.forget()
        if self._own:
            self._model.forward = self._forward
        else:
            del self._model.forward

    def forget(self) -> None:
        self._last, self.calls = None, 0

    def _remembering(self, *args: Any, **kwargs: Any) -> Any:
        asked = pytree.tree_leaves((args, sorted(kwargs), kwargs))
        if self._last is not None:
            before, output, versions = self._last
            if _same(asked, before) and versions == _versions(output):
                return output
        output = self._forward(*args, **kwargs)
        self.calls += 1
        self._last = asked, output, _versions(output)
        return output


def _same(asked: list[Any], before: list[Any]) -> bool:
    if len(asked) != len(before):
        return False
    pairs = zip(asked, before, strict=True)
    return all(
        x is y or (not isinstance(x, Tensor) and type(x) is type(y) and _plain(x) and x == y) for x, y in pairs
    )


def _plain(x: Any) -> bool:
    return isinstance(x, (int, float, str, bool, type(None), torch.dtype, torch.device))


def _versions(output: Any) -> list[int]:
    return [x._version for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
