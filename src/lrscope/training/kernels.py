"""How one operation of a trace writes its results into given memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

_aten = torch.ops.aten


@dataclass(frozen=True)
class Given:
    """Stands for a tensor that each step is given anew."""

    index: int


@dataclass(frozen=True)
class Call:
    """An operation on tensors that stay where they are, or are given.

    Attributes:
        op: What is called.
        args, kwargs: With what, the memory it writes into among them.
        copied: Results without such memory, by their place, and where they are copied to.
    """

    op: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    copied: tuple[tuple[int, Tensor], ...] = ()

    @classmethod
    def copy(cls, target: Tensor | Given, source: Tensor | Given) -> Call:
        return cls(_aten.copy_.default, (target, source))


Variant = tuple[Any, list[str], set[str]]
"""An overload that writes into given tensors, the names of these, and arguments it does not take."""


class Unplayable(Exception):  # noqa: N818 - it reads as the sentence it is
    """A traced step that cannot be played; the message says what is in the way."""


def tensors(values: Any) -> list[Tensor]:
    return [v for v in pytree.tree_leaves(values) if isinstance(v, Tensor)]


def out_variants(op: Any) -> Iterator[Variant]:
    """Overloads of ``op`` that write into given tensors, but for those that torch generated from a copy."""
    wanted = [(a.name, str(a.type)) for a in op._schema.arguments]
    # Where the result lies says already of which kind it is.
    kinds = {"dtype", "layout", "device", "pin_memory", "memory_format"}
    for name in op.overloadpacket.overloads():
        variant = getattr(op.overloadpacket, name)
        outs = [a.name for a in variant._schema.arguments if a.is_out]
        takes = [(a.name, str(a.type)) for a in variant._schema.arguments if not a.is_out]
        dropped = {n for n, _ in wanted if n in kinds} - {n for n, _ in takes}
        if outs and torch.Tag.generated not in variant.tags and takes == [a for a in wanted if a[0] not in dropped]:
            yield variant, outs, dropped


def gives(variant: Variant, args: Any, kwargs: Any, results: list[Tensor], outs: list[Tensor]) -> bool:
    """Whether a variant, given memory laid out as ``outs``, writes ``results`` there; a few in torch do not."""
    op, names, dropped = variant
    if len(names) != len(outs):
        return False
    trial = [torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device=t.device) for t in outs]
    where = [(t.data_ptr(), t.shape, t.stride()) for t in trial]
    kept = {k: v for k, v in kwargs.items() if k not in dropped}
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("error")
            op(*args, **kept, **dict(zip(names, trial, strict=True)))
    except (RuntimeError, Warning):
        return False
    same = all(torch.equal(t.nan_to_num(), r.nan_to_num()) for t, r in zip(trial, results, strict=True))
    return same and where == [(t.data_ptr(), t.shape, t.stride()) for t in trial]


def _zeros(out: Tensor, *_: Any, **__: Any) -> list[Call]:
    return [Call(_aten.zero_.default, (out,))]


def _copy(out: Tensor, source: Tensor, *_: Any, **__: Any) -> list[Call]:
    return [Call.copy(out, source)]


def _scale(out: Tensor, source: Tensor, factor: Any) -> list[Call]:
    # Not the variant of that name: torch generated it, and it makes a tensor of its own first.
    wide = torch.promote_types(out.dtype, torch.float32) if out.is_floating_point() else out.dtype
    return [Call(_aten.mul.out, (source, torch.tensor(factor, dtype=wide, device=out.device)), {"out": out})]


def _pad(out: Tensor, source: Tensor, widths: Sequence[int], value: float = 0.0) -> list[Call]:
    inner, part = out, source
    for i in range(0, len(widths), 2):
        dim = out.ndim - 1 - i // 2
        before, after = widths[i], widths[i + 1]  # negative: cut off, as in the gradient of padding
        part = part.narrow(dim, max(0, -before), source.shape[dim] + min(0, before) + min(0, after))
        inner = inner.narrow(dim, max(0, before), part.shape[dim])
    filled = [] if inner.shape == out.shape else [Call(_aten.fill_.Scalar, (out, value))]
    return [*filled, Call.copy(inner, part)]


WRITERS: dict[Any, Callable[..., list[Call]]] = {
    _aten.clone.default: _copy,
    _aten._to_copy.default: _copy,
    _aten.new_zeros.default: _zeros,
    _aten.zeros_like.default: _zeros,
    _aten.zeros.default: _zeros,
    _aten.mul.Scalar: _scale,
    _aten.constant_pad_nd.default: _pad,
}
"""How operations write into given memory for which torch has only a copy."""
