"""Tapered exponential schedules: a step decay with weight decay, as phases of exponential growth without it."""

from __future__ import annotations

from lrscope.errors import ScheduleError
from lrscope.schedules.base import Schedule
from lrscope.schedules.checks import MAX_VALUE, number, short, whole
from lrscope.schedules.combine import Join
from lrscope.schedules.exponential import exponential_rate
from lrscope.schedules.ramps import Exponential
from lrscope.schedules.shapes import Constant, Piecewise


def texp(
    schedule: Piecewise | Constant, *, base_lr: float, weight_decay: float, momentum: float = 0.0, steps: int
) -> Schedule:
    r"""TEXP: the growth of each phase frozen at its limit, the drops of the step decay kept.

    With :math:`\eta_I` the rate of phase I, which begins at step :math:`T_I`, and :math:`\alpha_I` its
    :func:`exponential_rate`:

    .. math::
        \tilde\eta_0 = \frac{\eta_0}{\alpha_0}, \qquad
        \tilde\eta_t = \tilde\eta_{t-1}\, \alpha_I^{-2} \;\text{inside phase I}, \qquad
        \tilde\eta_{T_I} = \tilde\eta_{T_I - 1}\, \frac{\eta_I / \eta_{I-1}}{\alpha_I\, \alpha_{I-1}}

    The values are factors on ``base_lr``, built of :class:`Exponential`. It is the paper's curve and a good
    approximation: the same run only if the momentum buffer starts at
    :math:`-\theta_0 (1 - \alpha_0) / (\alpha_0 \eta_0)` and is corrected at each drop.
    :func:`exponential_equivalent` is exact as it stands, for any schedule, and can be rebased.

    Args:
        schedule: Factors on ``base_lr``, all greater than 0; a Constant has one phase.
        base_lr: The optimizer's learning rate.
        weight_decay: L2 coefficient of the original run.
        momentum: In [0, 1).
        steps: Updates in the run.

    Raises:
        ScheduleError: Another shape, a phase above the bound of :func:`exponential_rate`, or a value beyond 1e30.

    Example:
        >>> epoch = 391
        >>> s = texp(Piecewise((1.0, 0.1, 0.01), (80 * epoch, 120 * epoch)), base_lr=0.1, weight_decay=5e-4,
        ...          momentum=0.9, steps=300 * epoch)
        >>> [round(s((e + 1) * epoch) / s(e * epoch), 4) for e in (0, 80, 120)]  # growth per epoch
        [1.4812, 1.0399, 1.0039]

    References:
        Li, Arora, An Exponential Learning Rate Schedule for Deep Learning, 2019, arXiv 1910.07454: TEXP.
    """
    return _tapered("texp", schedule, base_lr, weight_decay, momentum, steps, drop=True)


def texp_minus(
    schedule: Piecewise | Constant, *, base_lr: float, weight_decay: float, momentum: float = 0.0, steps: int
) -> Schedule:
    r"""TEXP--: :func:`texp` without the drops; only the growth changes at a switch.

    .. math:: \tilde\eta_{T_I} = \tilde\eta_{T_I - 1} / (\alpha_I\, \alpha_{I-1})

    Since :math:`\alpha_I` knows only the product of rate and weight decay, this is a constant learning rate whose
    *weight decay* is divided at the switches (up to the correction of the buffer there). The effective rate
    follows slowly, over about :math:`1 / (\eta\lambda)` updates. Arguments, errors and source as for
    :func:`texp`.

    Example:
        >>> s = texp_minus(Piecewise((1.0, 0.1), (50,)), base_lr=0.1, weight_decay=0.01, momentum=0.9, steps=100)
        >>> s(50) > s(49) > 1.0  # no drop
        True
    """
    return _tapered("texp_minus", schedule, base_lr, weight_decay, momentum, steps, drop=False)


def _tapered(
    owner: str, schedule: object, base_lr: float, weight_decay: float, momentum: float, steps: int, *, drop: bool
) -> Schedule:
    if not isinstance(schedule, Piecewise | Constant):
        raise ScheduleError(
            f"{owner}: schedule must be a Piecewise or a Constant, whose phases have one rate each, got "
            f"{short(schedule)}; exponential_equivalent translates any schedule"
        )
    steps = whole(owner, "steps", steps, at_least=1)
    base_lr = number(owner, "base_lr", base_lr, above=0)
    levels, boundaries = (
        (schedule.levels, schedule.boundaries) if isinstance(schedule, Piecewise) else ((schedule.value,), ())
    )
    starts = [0, *(b for b in boundaries if b < steps)]
    levels = [number(owner, "the value of a phase", level, above=0) for level in levels[: len(starts)]]
    alphas = [exponential_rate(base_lr * level, weight_decay, momentum) for level in levels]

    parts: list[Schedule] = []
    value = levels[0] / alphas[0]
    for i, (first, after) in enumerate(zip(starts, [*starts[1:], steps], strict=True)):
        if i:
            ratio = levels[i] / levels[i - 1] if drop else 1.0
            value *= ratio / (alphas[i] * alphas[i - 1])
        count = after - first
        parts.append(Exponential(value, _grown(owner, value, alphas[i], count, first), count))
        value = _grown(owner, value, alphas[i], count - 1, first)
    return parts[0] if len(parts) == 1 else Join(tuple(parts))


def _grown(owner: str, value: float, alpha: float, count: int, first: int) -> float:
    """``value * alpha**(-2 * count)``, as long as that is a number that a schedule may have."""
    try:
        end = value * alpha ** (-2 * count)
    except OverflowError:
        end = float("inf")
    if not end <= MAX_VALUE:
        raise ScheduleError(
            f"{owner}: the phase that begins at step {first} grows beyond 1e30; exponential_equivalent can be rebased"
        )
    return end
