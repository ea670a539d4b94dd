"""Schedules built from schedules: one after another, and pointwise products and sums."""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from lrscope.errors import ScheduleError
from lrscope.schedules.base import FloatArray, Schedule, set_field
from lrscope.schedules.checks import MAX_STEPS, check_nesting, several, short
from lrscope.schedules.ramps import Linear
from lrscope.schedules.shapes import Constant


def _parts(owner: str, name: str, value: object) -> tuple[Schedule, ...]:
    parts = several(owner, name, value)
    for i, part in enumerate(parts):
        if not isinstance(part, Schedule):
            raise ScheduleError(f"{owner}: part {i} must be a Schedule, got {short(part)}")
    if len(parts) < 2:
        raise ScheduleError(f"{owner}: needs two or more parts, got {len(parts)}; one alone is the schedule itself")
    return parts


@dataclass(frozen=True, repr=False)
class Join(Schedule, kind="join"):
    r"""One schedule after another; each sees its own step 0. Written ``a.then(b)``.

    .. math:: s(t) = s_i(t - T_i), \quad T_i = \sum_{j<i} \mathrm{num\_steps}_j,
        \quad i = \max\{\, j : T_j \le t \,\}

    A Join among the parts is replaced by its own parts, so ``then`` is associative and nesting changes nothing.

    Args:
        parts: Two or more; all but the last have a length.

    Example:
        >>> (Linear(0.0, 1.0, 2).then(Linear(1.0, 0.0, 2))).values(5)
        array([0. , 0.5, 1. , 0.5, 0. ])
    """

    parts: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        flat: list[Schedule] = []
        for part in _parts("Join", "parts", self.parts):
            flat.extend(part.parts if isinstance(part, Join) else [part])
        for i, part in enumerate(flat[:-1]):
            if part.num_steps is None:
                raise ScheduleError(
                    f"Join: part {i} ({short(part)}) never ends, so part {i + 1} is unreachable; give it `steps=`"
                )
        if sum(part.num_steps or 0 for part in flat) > MAX_STEPS:
            raise ScheduleError("Join: the parts together have more than 2**53 steps; shorten them")
        set_field(self, "parts", tuple(flat))
        check_nesting(self)

    @functools.cached_property
    def starts(self) -> tuple[int, ...]:
        """The step at which each part begins."""
        return tuple(itertools.accumulate((p.num_steps or 0 for p in self.parts[:-1]), initial=0))

    @property
    def num_steps(self) -> int | None:
        last = self.parts[-1].num_steps
        return None if last is None else self.starts[-1] + last

    def _at(self, t: FloatArray) -> FloatArray:
        starts = self.starts
        which = np.searchsorted(starts[1:], t, side="right")
        out = np.empty_like(t)
        for i in np.unique(which):
            here = which == i
            out[here] = self.parts[i]._at(t[here] - starts[i])
        return out

    def __repr__(self) -> str:
        first = f"({self.parts[0]!r})" if isinstance(self.parts[0], Product | Sum) else repr(self.parts[0])
        return first + "".join(f".then({part!r})" for part in self.parts[1:])


@dataclass(frozen=True, repr=False)
class Product(Schedule, kind="product"):
    r"""The product of the values at every step. Written ``a * b`` or ``0.5 * a``.

    .. math:: s(t) = s_1(t)\, s_2(t) \cdots s_n(t), \quad \text{multiplied from left to right}

    A result too large for float64 is its largest number, about 1.8e308, with the sign of the result.

    It is as long as its longest factor, since a factor that has ended still holds its end value:
    ``warmup(500) * Cosine(1, 0, 10_000)`` has 10 000 steps. A number, or a Constant without length, has no
    length of its own; any other factor that never ends makes a product that never ends.

    Args:
        factors: Two or more.

    Example:
        >>> (0.5 * Linear(0.0, 1.0, 2)).values(4)
        array([0.  , 0.25, 0.5 , 0.5 ])
    """

    factors: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        set_field(self, "factors", _left_opened(Product, "factors", self.factors))
        check_nesting(self)

    @property
    def num_steps(self) -> int | None:
        return _longest(self.factors)

    def _at(self, t: FloatArray) -> FloatArray:
        return _reduced(operator.mul, (f._at(t) for f in self.factors))

    def __repr__(self) -> str:
        return " * ".join(f"({f!r})" if isinstance(f, Product | Sum) else repr(f) for f in self.factors)


@dataclass(frozen=True, repr=False)
class Sum(Schedule, kind="sum"):
    r"""The sum of the values at every step. Written ``a + b`` or ``a + 0.1``.

    .. math:: s(t) = s_1(t) + s_2(t) + \cdots + s_n(t), \quad \text{added from left to right}

    As long as its longest term, and never infinite, with the rules of :class:`Product`.

    Args:
        terms: Two or more.

    Example:
        >>> (0.1 + 0.9 * Linear(1.0, 0.0, 2)).values(3)
        array([1.  , 0.55, 0.1 ])
    """

    terms: tuple[Schedule, ...]

    def __post_init__(self) -> None:
        set_field(self, "terms", _left_opened(Sum, "terms", self.terms))
        check_nesting(self)

    @property
    def num_steps(self) -> int | None:
        return _longest(self.terms)

    def _at(self, t: FloatArray) -> FloatArray:
        return _reduced(operator.add, (s._at(t) for s in self.terms))

    def __repr__(self) -> str:
        first, *rest = (f"({s!r})" if isinstance(s, Sum) else repr(s) for s in self.terms)
        return " + ".join((first, *rest))


def _left_opened(cls: type[Product | Sum], name: str, value: object) -> tuple[Schedule, ...]:
    """The parts, a leftmost one of the same class replaced by its own parts.

    Only the left one is opened: so the order of the operations, and every bit, stays as written.
    """
    first, *rest = _parts(cls.__name__, name, value)
    return (*(getattr(first, name) if isinstance(first, cls) else (first,)), *rest)


_LARGEST = np.finfo(np.float64).max


def _reduced(combine: Callable[[FloatArray, FloatArray], FloatArray], values: Iterable[FloatArray]) -> FloatArray:
    """The values combined from left to right; no infinity, which a factor of 0 would turn into NaN."""
    with np.errstate(over="ignore"):
        return functools.reduce(lambda a, b: np.minimum(np.maximum(combine(a, b), -_LARGEST), _LARGEST), values)


def _longest(parts: tuple[Schedule, ...]) -> int | None:
    lengths = [part.num_steps for part in parts if not _is_number(part)]
    finite = [n for n in lengths if n is not None]
    return max(finite) if finite and len(finite) == len(lengths) else None


def _is_number(schedule: Schedule) -> bool:
    """Whether the schedule is one value for ever, whatever it is built from."""
    if isinstance(schedule, Product):
        return all(_is_number(f) for f in schedule.factors)
    if isinstance(schedule, Sum):
        return all(_is_number(s) for s in schedule.terms)
    return isinstance(schedule, Constant) and schedule.steps is None


def warmup(steps: int, start: float = 0.0) -> Linear:
    """From ``start`` to 1 in ``steps`` steps: ``Linear(start, 1.0, steps)``.

    Update k (from 0) runs at k/W of the peak for W = ``steps``, as in optax, timm and transformers: the first
    update has factor 0 and so does nothing unless ``start`` says otherwise. :func:`nonzero_warmup` wastes none.

    Example:
        >>> warmup(4).values(6)
        array([0.  , 0.25, 0.5 , 0.75, 1.  , 1.  ])
        >>> warmup(3, start=1/3).values(4).round(2)  # PyTorch's LinearLR
        array([0.33, 0.56, 0.78, 1.  ])
    """
    return Linear(start, 1.0, steps)


def nonzero_warmup(steps: int) -> Linear:
    """A warmup whose first update already moves: update k (from 0) runs at (k+1)/W of the peak, W = ``steps``.

    It is ``Linear(1/W, 1.0, W - 1)``: the peak is reached by the W-th update, which is step 0 of whatever
    follows. So it is one step shorter than ``warmup(W)``. ``steps=0`` is no warmup. Plans use this one.

    Example:
        >>> nonzero_warmup(4).values(6)
        array([0.25, 0.5 , 0.75, 1.  , 1.  , 1.  ])
    """
    if not isinstance(steps, bool) and steps == 0:
        return Linear(1.0, 1.0, 0)
    checked = Linear(0.0, 1.0, steps).steps
    return Linear(1.0 / checked, 1.0, checked - 1)
