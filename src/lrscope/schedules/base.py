"""A schedule: a number as a function of the step."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lrscope.errors import ScheduleError
from lrscope.schedules.checks import number, short, whole

if TYPE_CHECKING:
    from lrscope.schedules.combine import Join, Product, Sum
    from lrscope.schedules.operations import After, Clip, First, Repeat, Reverse, Stretch

FloatArray = NDArray[np.float64]

_KINDS: dict[str, type[Schedule]] = {}


class Schedule(ABC):
    """A number as a function of the step, known in closed form.

    ``schedule(t)`` is the value for the update that follows ``t`` finished updates, so ``schedule(0)`` is used
    for the first one. A schedule of ``num_steps`` steps has its own values at ``0 ... num_steps - 1`` and holds
    its end value from ``num_steps`` on; ``num_steps is None`` means that it never ends.

    Schedules are values: frozen, printable (the ``repr`` evaluates back), comparable, hashable, picklable. A new
    shape is a frozen dataclass that writes ``num_steps`` and ``_at``; ``kind="name"`` in its class line lets it
    go through :meth:`to_spec`.

    Example:
        >>> from lrscope.schedules import Linear
        >>> s = Linear(1.0, 0.0, 4)
        >>> [s(t) for t in (0, 1, 4, 100)]
        [1.0, 0.75, 0.0, 0.0]
        >>> s.values()
        array([1.  , 0.75, 0.5 , 0.25])
    """

    kind: ClassVar[str] = ""

    def __init_subclass__(cls, *, kind: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.kind = kind
        if kind:
            known = _KINDS.setdefault(kind, cls)
            if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ScheduleError(f"{cls.__name__}: kind {kind!r} already belongs to {known.__qualname__}")
            _KINDS[kind] = cls

    @property
    @abstractmethod
    def num_steps(self) -> int | None:
        """Steps until the end value is held; ``None``: it never ends."""

    @abstractmethod
    def _at(self, t: FloatArray) -> FloatArray:
        """Values at the steps ``t`` from 0 on, float64, shape ``(n,)``.

        They are whole numbers but for a schedule that is stretched, which also asks between the steps.
        """

    def __call__(self, step: int) -> float:
        """The value at ``step``, a whole number from 0 on."""
        step = whole(type(self).__name__, "step", step)
        # The array formula also serves one step, so a scalar and a table entry are the same bits.
        return float(self._checked(np.array([step], dtype=np.float64))[0])

    def values(self, num_steps: int | None = None) -> FloatArray:
        """Values at steps ``0 ... num_steps - 1``, float64, shape ``(num_steps,)``.

        Args:
            num_steps: How many; the schedule's own length unless given, and needed if it never ends.
        """
        count = self.num_steps if num_steps is None else whole(type(self).__name__, "num_steps", num_steps)
        if count is None:
            raise ScheduleError(f"{short(self)} never ends; say how many values: .values(num_steps=...)")
        return self._checked(np.arange(count, dtype=np.float64))

    def _checked(self, t: FloatArray) -> FloatArray:
        """The values at ``t``; a shape of the user's own may forget that it is asked for many."""
        found = self._at(t)
        if not isinstance(found, np.ndarray) or found.shape != t.shape:
            raise ScheduleError(
                f"{type(self).__name__}._at: must return one value for each of its steps, an array of shape "
                f"{t.shape}, got {short(found)} ({type(found).__name__})"
            )
        return found

    def then(self, following: Schedule | float) -> Join:
        """Join: this schedule, and after its ``num_steps`` the ``following`` one, which sees its own step 0.

        A number stands for ``Constant(number)``. Wrapping changes nothing:
        ``a.then(b).then(c) == a.then(b.then(c))``.
        """
        from lrscope.schedules.combine import Join

        return Join((self, _as_schedule(following, "then")))

    def __mul__(self, other: Schedule | float) -> Product:
        from lrscope.schedules.combine import Product

        return Product((self, _as_schedule(other, "*")))

    def __rmul__(self, other: float) -> Product:
        return _as_schedule(other, "*") * self

    def __add__(self, other: Schedule | float) -> Sum:
        from lrscope.schedules.combine import Sum

        return Sum((self, _as_schedule(other, "+")))

    def __radd__(self, other: float) -> Sum:
        return _as_schedule(other, "+") + self

    def __neg__(self) -> Product:
        return -1.0 * self

    def __sub__(self, other: Schedule | float) -> Sum:
        return self + (-other if isinstance(other, Schedule) else -number("-", "what is subtracted", other))

    def __rsub__(self, other: float) -> Sum:
        return other + -self

    def __truediv__(self, other: float) -> Product:
        divisor = number("/", "the divisor", other)
        if divisor == 0:
            raise ScheduleError("/: the divisor must not be 0")
        return self * (1.0 / divisor)

    def clip(self, low: float | None = None, high: float | None = None) -> Clip:
        """The schedule, never below ``low`` and never above ``high``."""
        from lrscope.schedules.operations import Clip

        return Clip(self, low, high)

    def first(self, steps: int) -> First:
        """The first ``steps`` steps of this schedule."""
        from lrscope.schedules.operations import First

        return First(self, steps)

    def after(self, steps: int) -> After:
        """What remains of this schedule after ``steps`` steps."""
        from lrscope.schedules.operations import After

        return After(self, steps)

    def shift(self, steps: int) -> Schedule:
        """The schedule ``steps`` later, its first value held until then; a negative number: that much earlier."""
        from lrscope.schedules.operations import shift

        return shift(self, steps)

    def stretch(self, steps: int) -> Stretch:
        """The schedule, slower or faster, so that it takes ``steps`` steps."""
        from lrscope.schedules.operations import Stretch

        # Stretched twice is stretched once: it rounds once, and going back is exact.
        inner = self.schedule if isinstance(self, Stretch) and self.steps else self
        return Stretch(inner, steps)

    def repeat(self, times: int | None = None) -> Repeat:
        """The schedule again and again; for ever, unless ``times`` is given."""
        from lrscope.schedules.operations import Repeat

        return Repeat(self, times)

    def reverse(self) -> Reverse:
        """The schedule backwards: it starts at its end value and ends at its first one."""
        from lrscope.schedules.operations import Reverse

        return Reverse(self)

    def with_end(self, end: str) -> Schedule:
        """The schedule with another value past its end.

        Args:
            end: ``"hold"`` the end value (what every schedule does), ``"zero"``, ``"repeat"`` from the start, or
                ``"error"``: asking for a step past the end raises.
        """
        from lrscope.schedules.operations import with_end

        return with_end(self, end)

    def cool_down(self, at: int, steps: int, shape: str = "sqrt", end: float = 0.0) -> Join:
        """The schedule until step ``at``, then from its value there to ``end`` in ``steps`` steps.

        Args:
            at: The step at which the cooldown begins, for example that of a checkpoint.
            steps: Length of the cooldown.
            shape: ``"linear"``, ``"cosine"``, ``"sqrt"`` (the "1 - sqrt" cooldown) or ``"exponential"``.
            end: Where it ends; greater than 0 for an exponential one.

        Raises:
            ScheduleError: The schedule already has the value ``end`` at step ``at``.
        """
        from lrscope.schedules.recipes import cooldown

        down = cooldown(self(at), steps, shape, end)
        if down.start == down.end:
            raise ScheduleError(
                f"cool_down: {short(self)} is already {end:g} at step {at}, so there is nothing to cool down; "
                "give an earlier at="
            )
        return self.first(at).then(down)

    @functools.cached_property
    def nesting(self) -> int:
        """How deep the schedules inside this one are nested; 0: there is none."""
        inner = [v for value in vars(self).values() for v in (value if isinstance(value, tuple) else (value,))]
        return max((1 + v.nesting for v in inner if isinstance(v, Schedule)), default=0)

    def to_spec(self) -> dict[str, Any]:
        """Plain data (JSON-able) from which :func:`from_spec` builds an equal schedule."""
        from lrscope.schedules.spec import to_spec

        return to_spec(self)

    def to_text(self) -> str:
        """Text from which :func:`parse` (without a horizon) builds an equal schedule."""
        from lrscope.schedules.write import to_text

        return to_text(self)

    def __repr__(self) -> str:
        items = [(f.default, getattr(self, f.name)) for f in fields(self)]  # pyright: ignore[reportArgumentType]
        while items and items[-1][0] is not MISSING and items[-1][0] == items[-1][1]:
            items.pop()
        return f"{type(self).__name__}({', '.join(repr(value) for _, value in items)})"


def kinds() -> Mapping[str, type[Schedule]]:
    """Every shape that can be named in a specification, by its name."""
    return _KINDS


def set_field(schedule: Schedule, name: str, value: Any) -> None:
    """Store a checked argument while a frozen schedule is being built."""
    object.__setattr__(schedule, name, value)


def _as_schedule(value: Any, where: str) -> Schedule:
    if isinstance(value, Schedule):
        return value
    from lrscope.schedules.shapes import Constant

    try:
        return Constant(value)
    except ScheduleError:
        raise ScheduleError(f"{where}: needs a Schedule or a finite number, got {short(value)}") from None
