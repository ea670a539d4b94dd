"""The schedule that does the work of weight decay, exactly, where a loss does not see the size of the weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lrscope.errors import ScheduleError
from lrscope.schedules.base import FloatArray, Schedule, set_field
from lrscope.schedules.checks import MAX_VALUE, did_you_mean, number, short, whole
from lrscope.schedules.shapes import Constant

Rule = Literal["torch", "velocity", "decoupled"]

_OWNER = "exponential_equivalent"
_MOST_STEPS = 10_000_000  # the recurrence is a table: a second and 150 MB per million steps
DEFAULT_MAX_SCALE = 2.0**20


@dataclass(frozen=True)
class Recurrence:
    r"""The numbers behind a translation, shape ``(steps + 1,)``; entry t is of the state before update t.

    Attributes:
        lr: Learning rate of the run without weight decay, :math:`\tilde\eta_t`, after the rebases so far.
        momentum: Its momentum :math:`\tilde\gamma_t`.
        a: The factor :math:`a_t` by which weight decay shrinks the weights in update t; in (0, 1].
        p: Weight decay's part of the update's buffer, in units of the weights.
        q: The part that was in the buffer before: :math:`q_{t-1}`, 0 at first.
        scale: c_t after the rebases so far, at least 1 and less than ``max_scale``.
        level: How often the run was rebased before update t.
        log_scale: The logarithm of c_t as if it had never been rebased.
    """

    lr: FloatArray
    momentum: FloatArray
    a: FloatArray
    p: FloatArray
    q: FloatArray
    scale: FloatArray
    level: NDArray[np.int64]
    log_scale: FloatArray


@dataclass(frozen=True)
class StateMap:
    r"""Between the states of the two runs: weights and momentum buffer of one tensor, number or array.

    .. math:: \tilde\theta = \text{scale} \cdot \theta, \qquad
        \tilde b = \mathrm{buffer\_scale} \cdot (b - \text{shift} \cdot \theta)

    where the tilde marks the run without weight decay.

    Example:
        >>> here = StateMap(scale=2.0, buffer_scale=0.5, shift=0.1)
        >>> here.forward(1.0, 0.3)
        (2.0, 0.09999999999999999)
        >>> here.backward(*here.forward(1.0, 0.3))
        (1.0, 0.3)
    """

    scale: float
    buffer_scale: float
    shift: float

    def forward(self, theta: Any, buffer: Any) -> tuple[Any, Any]:
        """From the run with weight decay to the one without."""
        return self.scale * theta, self.buffer_scale * (buffer - self.shift * theta)

    def backward(self, theta: Any, buffer: Any) -> tuple[Any, Any]:
        """From the run without weight decay to the one with it."""
        original = theta / self.scale
        return original, buffer / self.buffer_scale + self.shift * original


@dataclass(frozen=True, repr=False)
class ExponentialEquivalent(Schedule, kind="exponential_equivalent"):
    r"""The learning rate without weight decay that visits the same functions as ``schedule`` with it.

    For weights whose size the loss does not see (:math:`L(c\theta) = L(\theta)` for every batch), weight decay
    only turns the effective learning rate up, and a growing learning rate does the same. With
    :math:`\tilde\theta_t = c_t\theta_t` both runs are the same run, step by step, when

    .. math::
        p_t &= \lambda_t + \gamma_t q_{t-1}, \quad a_t = 1 - \eta_t p_t, \quad q_t = p_t / a_t,
            \quad c_{t+1} = c_t / a_t, \quad q_{-1} = 0, \; c_0 = 1 \\
        \tilde\eta_t &= \eta_t c_t^2 / a_t, \qquad \tilde\gamma_t = \gamma_t, \qquad \tilde\lambda_t = 0

    for the update of ``torch.optim.SGD``, :math:`b \leftarrow \gamma b + g + \lambda\theta`,
    :math:`\theta \leftarrow \theta - \eta b`. This holds for any schedule of the learning rate (0 included), of
    the weight decay and of the momentum, from any momentum buffer that both runs start with.

    The value is :math:`\tilde\eta_t / \mathrm{base\_lr}`, a factor on the group's own rate as everywhere. Build it
    with :func:`exponential_equivalent`, which explains the arguments.

    - It is defined at whole steps: to stretch or compress, do it to ``schedule`` and translate that.
    - From ``steps`` on the end value is held, as by every schedule, and the runs are no longer the same.
    - Building costs one pass over the steps, about a microsecond and 150 bytes each, for up to ten million.
    """

    schedule: Schedule
    base_lr: float
    weight_decay: float | Schedule
    momentum: float | Schedule
    steps: int
    rule: Rule = "torch"
    max_scale: float | None = DEFAULT_MAX_SCALE

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, Schedule):
            raise ScheduleError(
                f"{_OWNER}: schedule must be a Schedule of factors on base_lr, got {short(self.schedule)}"
            )
        set_field(self, "base_lr", number(_OWNER, "base_lr", self.base_lr, above=0))
        for name in ("weight_decay", "momentum"):
            value = getattr(self, name)
            if not isinstance(value, Schedule):
                set_field(self, name, number(_OWNER, name, value))
        set_field(self, "steps", whole(_OWNER, "steps", self.steps, at_least=1))
        if self.steps > _MOST_STEPS:
            raise ScheduleError(f"{_OWNER}: steps must be at most {_MOST_STEPS:,}, got {self.steps:,}")
        if not isinstance(self.rule, str) or self.rule not in get_args(Rule):
            raise ScheduleError(
                f"{_OWNER}: unknown rule {short(self.rule)}; {did_you_mean(self.rule, get_args(Rule))}"
            )
        if self.max_scale is not None:
            set_field(self, "max_scale", number(_OWNER, "max_scale", self.max_scale, above=1.01))
        table = _recur(self)
        set_field(self, "_table", table)
        set_field(self, "_factors", table.lr / self.base_lr)

    @property
    def num_steps(self) -> int:
        return self.steps

    @property
    def recurrence(self) -> Recurrence:
        """The numbers behind the values, at steps ``0 ... steps``."""
        return self._table  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def rebases(self) -> dict[int, float]:
        r"""The steps at which the run is rebased, and by how much: before update ``t`` with ``rebases[t] = R``,

        .. math:: \tilde\theta \leftarrow \tilde\theta / R, \qquad \tilde b \leftarrow R\, \tilde b

        (a velocity is divided instead). The values from t on are already divided by :math:`R^2`.
        """
        level = self.recurrence.level
        at = np.flatnonzero(np.diff(level)) + 1
        return {int(t): float(self.max_scale or 1.0) ** int(level[t] - level[t - 1]) for t in at}

    def state_map(self, step: int) -> StateMap:
        """Between the states of the two runs after ``step`` updates (and the rebase that is due there)."""
        step = whole(_OWNER, "step", step)
        if step > self.steps:
            raise ScheduleError(
                f"{_OWNER}: step must be at most steps={self.steps}, where the runs stop being the same, got {step}"
            )
        table = self.recurrence
        scale = float(table.scale[step])
        before = float(table.a[step - 1]) if step else 1.0
        if self.rule == "torch":
            return StateMap(scale, 1.0 / scale, float(table.q[step]))
        if self.rule == "velocity":
            return StateMap(scale, scale * before, -float(table.q[step]))
        return StateMap(scale, 1.0 / (scale * before), 0.0)

    def momentum_schedule(self) -> Schedule:
        r"""Factors on the momentum that the run without weight decay needs, for the key ``"momentum"``.

        Constant(1) for the rule ``"torch"``, whose momentum (also a scheduled one) stays as it is; otherwise
        :math:`\tilde\gamma_t / \gamma`. Keeping the momentum there is another run.
        """
        return Constant(1.0) if self.rule == "torch" or self.momentum == 0 else EquivalentMomentum(self)

    def _at(self, t: FloatArray) -> FloatArray:
        return _entries(self._factors, t)  # pyright: ignore[reportAttributeAccessIssue]

    def __reduce__(self) -> tuple[Any, ...]:
        # The table is rebuilt where it is needed, so a pickle is as small as the schedule.
        return type(self), tuple(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True, repr=False)
class EquivalentMomentum(Schedule, kind="equivalent_momentum"):
    r"""The momentum that goes with an :class:`ExponentialEquivalent`, as a factor on the original momentum.

    .. math:: \tilde\gamma_t / \gamma = 1 / (a_t a_{t-1}) \;\text{(velocity)}, \qquad
        a_{t-1} \;\text{(decoupled)}, \qquad a_{-1} = 1

    Args:
        of: A translation with the rule ``"velocity"`` or ``"decoupled"``, and momentum.
    """

    of: ExponentialEquivalent

    def __post_init__(self) -> None:
        if not isinstance(self.of, ExponentialEquivalent):
            raise ScheduleError(f"EquivalentMomentum: of must be an ExponentialEquivalent, got {short(self.of)}")
        if self.of.rule == "torch" or self.of.momentum == 0:
            raise ScheduleError(
                f"EquivalentMomentum: of must change the momentum, which rule 'torch' and momentum 0 do not, got "
                f"{short(self.of)}"
            )
        a = self.of.recurrence.a
        before = np.concatenate([[1.0], a[:-1]])
        set_field(self, "_factors", before if self.of.rule == "decoupled" else 1.0 / (a * before))

    @property
    def num_steps(self) -> int:
        return self.of.steps

    def _at(self, t: FloatArray) -> FloatArray:
        return _entries(self._factors, t)  # pyright: ignore[reportAttributeAccessIssue]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.of,)


def exponential_equivalent(
    schedule: Schedule,
    *,
    base_lr: float,
    weight_decay: float | Schedule,
    momentum: float | Schedule = 0.0,
    steps: int | None = None,
    rule: Rule = "torch",
    max_scale: float | None = DEFAULT_MAX_SCALE,
    nesterov: bool = False,
    dampening: float = 0.0,
) -> ExponentialEquivalent:
    r"""Translate a schedule with weight decay into the one without it that trains the same functions.

    Exact for parameters whose size the loss does not see, such as weights in front of a normalisation; train
    all others as before, with the original schedule and weight decay. The formulas are those of
    :class:`ExponentialEquivalent`. With a constant rate :math:`\eta` the learning rate soon grows by
    :math:`\alpha^{-2}` per update, :math:`\alpha` of :func:`exponential_rate`.

    The other rules of SGD, with a the shrinking of :class:`ExponentialEquivalent`:

    .. math::
        \text{velocity:}\quad & v \leftarrow \gamma v - \eta(g + \lambda\theta), \;
            \theta \leftarrow \theta + v, \quad a_t = 1 - \eta_t\lambda_t - \gamma(1/a_{t-1} - 1), \quad
            \tilde\gamma_t = \gamma / (a_t a_{t-1}) \\
        \text{decoupled:}\quad & b \leftarrow \gamma b + g, \;
            \theta \leftarrow (1 - \eta\lambda)\theta - \eta b, \quad a_t = 1 - \eta_t\lambda_t, \quad
            \tilde\gamma_t = \gamma a_{t-1}

    Args:
        schedule: Factors on ``base_lr``; 0 or more.
        base_lr: The optimizer's learning rate, greater than 0.
        weight_decay: :math:`\lambda`, 0 or more; a Schedule gives :math:`\lambda_t` itself, not a factor.
        momentum: :math:`\gamma` in [0, 1); a Schedule gives :math:`\gamma_t` itself, with the rule ``"torch"``.
        steps: Updates in the run; the schedule's own length unless given, and needed if it never ends.
        rule: The update of the original run: ``"torch"``, ``"velocity"`` or ``"decoupled"`` weight decay. For the
            last two the momentum changes as well: :meth:`ExponentialEquivalent.momentum_schedule`.
        max_scale: The weights grow; where they would pass this multiple of the original ones, they are divided by
            it, the buffer multiplied, and the rate divided by its square, which changes no function. The default,
            a power of two, rounds nothing. ``None`` never rebases: the paper's curve, refused beyond 1e30.
        nesterov, dampening: Only to be refused, with what to do instead.

    Raises:
        ScheduleError: An argument is not of its range; a rate, decay or momentum is negative at some step; no
            rescaling exists (:math:`a_t \le 0`), as happens when :math:`\eta\lambda` stays above
            :math:`(1-\sqrt\gamma)^2`; or a value passes 1e30.

    Example:
        >>> from lrscope.schedules import Constant
        >>> s = exponential_equivalent(Constant(1.0), base_lr=0.1, weight_decay=5e-4, momentum=0.9, steps=1000)
        >>> [round(s(t), 4) for t in (0, 1, 999)]
        [1.0001, 1.0002, 2.7052]
        >>> round(s(999) / s(998), 6), round(exponential_rate(0.1, 5e-4, 0.9) ** -2, 6)
        (1.001005, 1.001005)

    References:
        Li, Arora, An Exponential Learning Rate Schedule for Deep Learning, 2019, arXiv 1910.07454, whose main
        theorem is the case of a constant rate; the recurrence for any schedule is derived in ``docs/exponential.md``.
    """
    if nesterov:
        raise ScheduleError(
            f"{_OWNER}: nesterov=True has no exact equivalent of the same form: its look-ahead would need two "
            "momentum coefficients that change separately; train the original with nesterov=False"
        )
    if number(_OWNER, "dampening", dampening) != 0:
        raise ScheduleError(
            f"{_OWNER}: dampening must be 0, got {short(dampening)}; a learning rate times (1 - dampening), without "
            "dampening, is the same run but for the weight of the first gradient"
        )
    if steps is None and isinstance(schedule, Schedule):
        steps = schedule.num_steps
        if steps is None:
            raise ScheduleError(f"{_OWNER}: {short(schedule)} never ends; say how many updates: steps=...")
    return ExponentialEquivalent(schedule, base_lr, weight_decay, momentum, steps, rule, max_scale)  # pyright: ignore


def exponential_rate(lr: float, weight_decay: float, momentum: float = 0.0) -> float:
    r"""The factor alpha by which a constant rate and weight decay shrink the weights, once settled.

    .. math:: \alpha = \tfrac12 \left(1 + \gamma - \eta\lambda
        + \sqrt{(1 + \gamma - \eta\lambda)^2 - 4\gamma}\right)

    the larger root of :math:`x^2 - (1 + \gamma - \eta\lambda)x + \gamma`: the limit of :math:`a_t` in
    :class:`ExponentialEquivalent`. The equivalent learning rate grows by :math:`\alpha^{-2}` per update.

    Args:
        lr: The learning rate, 0 or more.
        weight_decay: L2 coefficient, 0 or more.
        momentum: In [0, 1).

    Raises:
        ScheduleError: ``lr * weight_decay`` is above :math:`(1 - \sqrt\gamma)^2`: the roots are not real.

    Example:
        >>> exponential_rate(0.1, 5e-4, momentum=0.9) ** (-2 * 391)  # growth per epoch of 391 updates
        1.48123...

    References:
        Li, Arora, An Exponential Learning Rate Schedule for Deep Learning, 2019, arXiv 1910.07454.
    """
    owner = "exponential_rate"
    eta, lam, gamma = (
        number(owner, name, value)
        for name, value in (("lr", lr), ("weight_decay", weight_decay), ("momentum", momentum))
    )
    if min(eta, lam) < 0 or not 0 <= gamma < 1:
        raise ScheduleError(
            f"{owner}: lr and weight_decay must be 0 or more and momentum in [0, 1), got {eta:g}, {lam:g}, {gamma:g}"
        )
    bound = most_decay(gamma)
    if eta * lam > bound or eta * lam >= 1:
        raise ScheduleError(
            f"{owner}: lr * weight_decay must be at most (1 - sqrt(momentum))**2 = {bound:.6g} (and less than 1), "
            f"got {eta * lam:.6g}; lower one of them"
        )
    # (1 + gamma - e)^2 - 4 gamma, without its cancellation for small e
    root = math.sqrt(max((1 - gamma) ** 2 - eta * lam * (2 * (1 + gamma) - eta * lam), 0.0))
    return (1 + gamma - eta * lam + root) / 2


def most_decay(momentum: float) -> float:
    r"""The largest :math:`\eta\lambda` that a constant schedule can keep: :math:`(1 - \sqrt\gamma)^2`."""
    return (1.0 - math.sqrt(momentum)) ** 2


def _entries(table: FloatArray, t: FloatArray) -> FloatArray:
    if (t != np.floor(t)).any():
        raise ScheduleError(
            f"{_OWNER}: has values at whole steps only, not at {float(t[t != np.floor(t)][0]):g}; stretch the "
            "original schedule and translate that"
        )
    return table[np.minimum(t, len(table) - 1).astype(np.intp)]


def _recur(s: ExponentialEquivalent) -> Recurrence:
    """The recurrence of ``ExponentialEquivalent``, for all rules; sequential: each step needs the one before."""
    eta = s.base_lr * _all(s, "schedule", s.schedule)
    lam, gamma = _all(s, "weight_decay", s.weight_decay), _all(s, "momentum", s.momentum)
    if gamma.max() >= 1:
        raise ScheduleError(f"{_OWNER}: momentum must be in [0, 1), got {gamma.max():g} at step {gamma.argmax()}")
    if s.rule != "torch" and isinstance(s.momentum, Schedule):
        raise ScheduleError(
            f"{_OWNER}: momentum must be a number with rule={s.rule!r}, got {short(s.momentum)}; a scheduled one is "
            "translated with rule='torch'"
        )
    # A velocity carries the learning rate in the buffer; decoupled decay never enters the buffer.
    rate = np.ones_like(eta) if s.rule == "velocity" else eta
    pull = eta * lam if s.rule == "velocity" else lam
    carried = np.zeros_like(gamma) if s.rule == "decoupled" else gamma
    most = s.max_scale or math.inf
    columns = np.fromiter(_walk(rate, pull, carried, most), np.dtype((np.float64, 5)), len(eta)).T
    a, p, q, scale, level = (np.ascontiguousarray(column) for column in columns)
    failed = np.flatnonzero(~(a > 0.0))
    if failed.size:
        t = int(failed[0])
        raise ScheduleError(_no_rescaling(s, t, float(eta[t] * lam[t]), float(gamma[t])))
    with np.errstate(over="ignore", invalid="ignore"):
        lr = eta * scale * scale / a
        before = np.concatenate([[1.0], a[:-1]])
        momentum = {"torch": gamma.copy(), "velocity": gamma / (a * before), "decoupled": gamma * before}[s.rule]
    high = np.flatnonzero(~(lr <= MAX_VALUE * min(s.base_lr, 1.0)))
    if high.size:
        raise ScheduleError(
            f"{_OWNER}: step {high[0]}: the learning rate passes 1e30; let the run be rebased (max_scale=2.0**20)"
        )
    log_scale = np.log(scale) + (math.log(most) if s.max_scale else 0.0) * level
    table = Recurrence(lr, momentum, a, p, q, scale, level.astype(np.int64), log_scale)
    for f in fields(table):
        getattr(table, f.name).setflags(write=False)  # shared with every caller
    return table


def _walk(
    rate: FloatArray, pull: FloatArray, carried: FloatArray, most: float
) -> Iterator[tuple[float, float, float, float, int]]:
    """a, p, q, scale and level before each update; from the first a that is not positive on, only that."""
    q, c, level = 0.0, 1.0, 0
    # Views hand out plain floats one by one: much faster than array scalars, and no list of millions.
    for r, w, g in zip(*(np.ascontiguousarray(x).data for x in (rate, pull, carried)), strict=True):
        p = w + g * q
        a = 1.0 - r * p
        yield a, p, q, c, level
        if a > 0.0:
            q = p / a
            c /= a
            while c >= most:
                c /= most
                level += 1


def _all(s: ExponentialEquivalent, name: str, value: float | Schedule) -> FloatArray:
    """``value`` at steps ``0 ... steps``, refused where it is negative."""
    values = (value if isinstance(value, Schedule) else Constant(value)).values(s.steps + 1)
    if values.min() < 0:
        t = int(np.flatnonzero(values < 0)[0])
        raise ScheduleError(f"{_OWNER}: {name} must be 0 or more, got {values[t]:g} at step {t}")
    return values


def _no_rescaling(s: ExponentialEquivalent, t: int, strength: float, gamma: float) -> str:
    name, bound = ("1", 1.0) if s.rule == "decoupled" else ("(1 - sqrt(momentum))**2", most_decay(gamma))
    return (
        f"{_OWNER}: step {t}: weight decay takes the whole weight away, so no positive rescaling exists; "
        f"lr * weight_decay is {strength:.6g} there and can stay at most {name} = {bound:.6g}; lower one of them"
    )
