"""Schedules for optax."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from lrscope.errors import MissingExtraError, ScheduleError
from lrscope.schedules import Schedule
from lrscope.schedules.checks import short, whole


def to_optax(schedule: Schedule, *, steps: int | None = None, base: float = 1.0) -> Callable[[Any], Any]:
    """A schedule that optax can trace: ``count -> value``, for ``optax.adamw(learning_rate=...)``.

    A :class:`~lrscope.schedules.Schedule` is itself a callable of the step, which is enough outside of ``jax.jit``.
    Inside, and in ``optax.join_schedules``, which asks every part for every count, also for negative ones, the
    values are looked up in an array. They are computed in float64 and rounded once, to JAX's default float; a step
    past the end has the end value.

    Args:
        schedule: What is run.
        steps: How many steps to tabulate; the schedule's own length unless given, and needed if it never ends.
        base: The learning rate that the schedule's factors are of.

    Returns:
        A function of an integer count (a scalar or any array of counts) that can be jitted, vmapped and scanned. It
        holds ``steps + 1`` numbers on the device.

    Raises:
        ScheduleError: It never ends and ``steps`` is missing.
        MissingExtraError: JAX is not installed.

    Example:
        >>> from lrscope.schedules import Cosine, warmup
        >>> rate = to_optax(warmup(500).then(Cosine(1.0, 0.0, 9_500)), base=3e-4)  # doctest: +SKIP
        >>> optimizer = optax.adamw(rate)  # doctest: +SKIP
    """
    if not isinstance(schedule, Schedule):
        raise ScheduleError(f"to_optax: schedule must be a Schedule, got {short(schedule)}")
    last = schedule.num_steps if steps is None else whole("to_optax", "steps", steps)
    if last is None:
        raise ScheduleError(f"to_optax: {short(schedule)} never ends; say how many values: steps=")
    try:
        import jax.numpy as jnp  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(f"to_optax: JAX cannot be imported ({error}); pip install jax optax") from error
    values = jnp.asarray(base * schedule.values(last + 1), dtype=jnp.zeros(()).dtype)

    def value(count: Any) -> Any:
        count = jnp.asarray(count)
        if not np.issubdtype(count.dtype, np.integer):
            raise TypeError(f"count: expected a whole number of finished updates, got {count.dtype}")
        return values[jnp.clip(count, 0, last)]

    return value
