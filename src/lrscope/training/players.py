"""How calls are made over and over, at little more than what the kernels themselves cost.

Python holds one lock for all threads. Between two kernels of twenty microseconds, lanes would spend longer waiting
for it than computing. So the calls are said in TorchScript, whose interpreter needs no lock: several lanes then scale
with the cores, and a call costs 0.4 instead of 1.2 microseconds. Where it cannot say them, Python makes them.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lrscope.training.kernels import Call, Given, tensors

Play = Callable[[Sequence[Sequence[Tensor]]], None]
"""Makes the calls once for each of the lists of tensors it is given."""


def player(calls: Sequence[Call]) -> Play:
    """A function that makes ``calls`` in their order, many times."""
    try:
        return scripted(calls)
    except (Unsaid, RuntimeError, AttributeError):  # the last: a torch without TorchScript
        return looped(calls)


def looped(calls: Sequence[Call]) -> Play:
    """Calls made by Python."""
    # An overload's own __call__ is a detour of one microsecond.
    bound = [(getattr(c.op, "_op", c.op), c.args, c.kwargs, c.copied, _needs_given(c)) for c in calls]

    def play(given: Sequence[Sequence[Tensor]]) -> None:
        with _undifferentiated():
            for now in given:
                for function, args, kwargs, copied, needs in bound:
                    if needs:
                        args, kwargs = _filled((args, kwargs), now)
                    found = function(*args, **kwargs)
                    if copied:
                        results = tensors(found)
                        for place, out in copied:
                            out.copy_(results[place])

    return play


@contextmanager
def _undifferentiated() -> Iterator[None]:
    with torch.no_grad(), torch._C._AutoDispatchBelowAutograd():
        yield


def _needs_given(call: Call) -> bool:
    return any(isinstance(x, Given) for x in pytree.tree_leaves((call.args, call.kwargs)))


def _filled(args: Any, now: Sequence[Tensor]) -> Any:
    return pytree.tree_map(lambda x: now[x.index] if isinstance(x, Given) else x, args)


def scripted(calls: Sequence[Call]) -> Play:
    """Calls made by TorchScript's interpreter.

    Raises:
        Unsaid: TorchScript has no words for an argument.
        RuntimeError: Nor for an operation.
    """
    script = _Script()
    for call in calls:
        script.add(call)
    held, play, again = script.tensors, _compiled(script.text), looped(calls)

    def run(given: Sequence[Sequence[Tensor]]) -> None:
        try:
            with _undifferentiated():
                play(held, given)
        except RuntimeError:
            again(given)  # which raises the kernel's own error, without the script around it
            raise

    return run


class Unsaid(Exception):  # noqa: N818 - it reads as the sentence it is
    """Something that cannot be written down as TorchScript."""


@lru_cache(maxsize=64)
def _compiled(text: str) -> Callable[[Any, Any], None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated; without it Python makes the calls
        return torch.jit.CompilationUnit(text).play


class _Script:
    """The text of a function of the tensors that calls are about."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self._places: dict[int, int] = {}
        self._lines: list[str] = []

    @property
    def text(self) -> str:
        body = "".join(f"        {line}\n" for line in self._lines or ["pass"])
        return f"def play(t: List[Tensor], given: List[List[Tensor]]) -> None:\n    for g in given:\n{body}"

    def add(self, call: Call) -> None:
        schema = call.op._schema
        types = {a.name: str(a.type) for a in schema.arguments}
        said = [self._said(value, kind) for value, kind in zip(call.args, types.values(), strict=False)]
        said += [f"{name}={self._said(value, types[name])}" for name, value in call.kwargs.items()]
        called = f"torch.ops.{schema.name.replace('::', '.')}({', '.join(said)})"
        if not call.copied:
            self._lines.append(called)
            return
        kinds = [str(r.type) for r in schema.returns]
        if kinds != ["List[Tensor]"] and set(kinds) != {"Tensor"}:
            raise Unsaid(f"{schema.name} returns {', '.join(kinds)}")
        result = f"r{len(self._lines)}"
        self._lines.append(f"{result} = {called}")
        for place, out in call.copied:
            value = result if kinds == ["Tensor"] else f"{result}[{place}]"
            self._lines.append(f"{self._said(out)}.copy_({value})")

    def _said(self, value: Any, kind: str = "") -> str:
        if isinstance(value, Tensor):
            place = self._places.setdefault(id(value), len(self.tensors))
            if place == len(self.tensors):
                self.tensors.append(value)
            return f"t[{place}]"
        if isinstance(value, Given):
            return f"g[{value.index}]"
        if isinstance(value, float) and not math.isfinite(value):
            return f"float('{value}')"
        if value is None or isinstance(value, (bool, int, float, str)):
            return repr(value)
        if isinstance(value, (torch.dtype, torch.layout, torch.memory_format)):
            return str(value)
        if isinstance(value, torch.device):
            return f"torch.device('{value}')"
        element = re.search(r"List\[(Optional\[\w+\]|\w+)\]", kind)
        if isinstance(value, (list, tuple)) and element is not None:
            return f"torch.jit.annotate({element[0]}, [{', '.join(map(self._said, value))}])"
        raise Unsaid(f"{value!r} as {kind}")
