"""The calls of a function as a list, found without changing what it works on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lrscope.training.kernels import Call, Given, Unplayable, tensors


def recorded(function: Callable[..., Any], given: Sequence[Tensor], first: int = 0) -> list[Call]:
    """The calls that ``function(*given)`` makes on tensors that stay, without writing into any of them.

    Args:
        function: Shapes and plain Python alone decide which calls it makes.
        given: Stand for tensors that each step is given anew.
        first: Place of the first of these among all that a step is given.

    Raises:
        Unplayable: It takes views of what it is given.
    """
    recorder = _Recorder({id(t): Given(first + i) for i, t in enumerate(given)})
    with torch.no_grad(), recorder:
        function(*given)
    return recorder.calls


class _Recorder(TorchDispatchMode):
    def __init__(self, given: dict[int, Given]) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._given = given

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, schema = kwargs or {}, func._schema
        said, named = pytree.tree_map(lambda x: self._given.get(id(x), x), (args, kwargs))
        if schema.is_mutable:
            self.calls.append(Call(func, said, named))
            filled = {**dict(zip((a.name for a in schema.arguments), args, strict=False)), **kwargs}
            written = [filled[a.name] for a in schema.arguments if a.is_write]
            return tuple(written) if len(written) > 1 else written[0]
        results = func(*args, **kwargs)
        if all(r.alias_info is None for r in schema.returns):
            self.calls.append(Call(func, said, named, tuple(enumerate(tensors(results)))))
        elif any(isinstance(x, Given) for x in pytree.tree_leaves((said, named))):
            raise Unplayable(f"{func} takes a view of what changes from step to step")
        return results
