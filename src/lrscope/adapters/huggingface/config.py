"""Hugging Face's learning-rate schedulers, read from a configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lrscope.adapters.unread import warn_of_unread
from lrscope.errors import ScheduleError
from lrscope.schedules import (
    Constant,
    Cosine,
    CosineWave,
    InverseSqrt,
    Linear,
    Polynomial,
    Schedule,
    Sqrt,
    WarmRestarts,
    nonzero_warmup,
    warmup,
)
from lrscope.schedules.checks import did_you_mean, number, short, whole


def schedule_from_config(config: Any, steps: int | None = None) -> Schedule:
    r"""The schedule that a Hugging Face Trainer would run, as factors on each group's learning rate.

    Reads ``lr_scheduler_type``, ``lr_scheduler_kwargs``, ``warmup_steps`` (updates, or below 1 a share of the run),
    ``warmup_ratio`` of older versions, ``learning_rate`` and ``max_steps``. Values equal Hugging Face's factors at
    every step, past the end too, within the rounding of float64, with one exception: from 22 cycles on,
    ``cosine_with_restarts`` there can miss a restart by its own rounding and run one update at 0; here it restarts.

    What Hugging Face does is kept, also where another choice may serve better: a warmup starts with an update at
    0, cosines climb again past the end of the run, and ``min_lr`` and ``lr_end`` are divided by ``learning_rate``, so
    a group with a rate of its own ends at that share of its own rate.

    Args:
        config: ``TrainingArguments``, or a dict with (some of) its fields, as in its JSON. Other keys are ignored,
            with a warning for those that seem to mean one of these (``num_warmup_steps``, ``scheduler``).
        steps: Optimizer updates in the whole run; ``max_steps`` of the configuration unless given.

    Raises:
        ScheduleError: An unknown type or argument, a number of steps or a rate that is needed and not known, or a
            scheduler that listens to a metric and so has no values before the run (``reduce_lr_on_plateau``,
            ``greedy``).

    Example:
        >>> schedule_from_config({"lr_scheduler_type": "cosine", "warmup_steps": 0.1}, steps=1000)
        Linear(0.0, 1.0, 100).then(CosineWave(1.0, 0.0, 1800.0))

    References:
        transformers 5.23, ``optimization.py``.
    """
    fields = _fields(config)
    name = fields.get("lr_scheduler_type", "linear")
    name = getattr(name, "value", name)
    if isinstance(name, str) and name in _LISTENING:
        raise ScheduleError(
            f"lr_scheduler_type: {name!r} follows a metric of the run, so it has no values before it; run it in the "
            "Trainer, or choose a schedule"
        )
    if not isinstance(name, str) or name not in _READERS:
        raise ScheduleError(f"lr_scheduler_type: unknown {short(name)}; {did_you_mean(name, _READERS)}")
    read, allowed = _READERS[name]
    options = _options(fields.get("lr_scheduler_kwargs"))
    for key in options:
        if key not in allowed:
            raise ScheduleError(f"lr_scheduler_kwargs: {name} has no {short(key)}; {did_you_mean(key, allowed)}")
    total = _steps(fields, steps)
    return read(_Config(name, total, _warmup_steps(fields, total, name), fields.get("learning_rate"), options))


@dataclass(frozen=True)
class _Config:
    """What the readers below ask for; a missing number of steps or rate is an error only where it is needed."""

    name: str
    total: int | None
    warmup: int
    rate: Any
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        if self.total is None:
            raise ScheduleError(
                f"steps: {self.name} needs the number of optimizer updates and max_steps is not set; give steps="
            )
        return self.total

    @property
    def after_warmup(self) -> int:
        """Steps that remain; never less than 1, as there."""
        return max(1, self.steps - self.warmup)

    def get(self, key: str, default: float, *, above: float | None = None) -> float:
        return number("lr_scheduler_kwargs", key, self.options.get(key, default), above=above)

    def whole(self, key: str) -> int | None:
        value = self.options.get(key)
        return None if value is None else whole("lr_scheduler_kwargs", key, value)

    def share(self, key: str, value: Any) -> float:
        """A learning rate as a factor on the one that the optimizer was made with."""
        if self.rate is None:
            raise ScheduleError(f"learning_rate: needed to turn {key} into a factor; add it to the configuration")
        return number("lr_scheduler_kwargs", key, value) / number("config", "learning_rate", self.rate, above=0)

    def floor(self) -> float:
        rate, share = self.options.get("min_lr"), self.options.get("min_lr_rate")
        if (rate is None) == (share is None):
            raise ScheduleError(f"lr_scheduler_kwargs: {self.name} needs exactly one of min_lr and min_lr_rate")
        return _floor("min_lr_rate", share) if rate is None else _floor("min_lr", self.share("min_lr", rate))

    def wave(self, low: float, steps: int, num_cycles: float) -> Schedule:
        return CosineWave(1.0, low, steps / num_cycles)

    def rise(self, following: Schedule) -> Schedule:
        return warmup(self.warmup).then(following) if self.warmup else following


def _linear(c: _Config) -> Schedule:
    return c.rise(Linear(1.0, 0.0, max(c.steps - c.warmup, 0)))


def _cosine(c: _Config) -> Schedule:
    return c.rise(c.wave(0.0, c.after_warmup, c.get("num_cycles", 0.5, above=0)))


def _cosine_with_restarts(c: _Config) -> Schedule:
    length, cycles = c.after_warmup, c.get("num_cycles", 1, above=0)
    return c.rise(WarmRestarts(1.0, 0.0, length / cycles, steps=length).then(0.0))


def _polynomial(c: _Config) -> Schedule:
    end = c.share("lr_end", c.options.get("lr_end", 1e-7))
    if end >= 1:
        raise ScheduleError(f"lr_scheduler_kwargs: lr_end must be below learning_rate, got {end:g} times it")
    return c.rise(Polynomial(1.0, end, max(c.steps - c.warmup, 0), c.get("power", 1.0)))


def _constant(c: _Config) -> Schedule:
    return c.rise(Constant(1.0))


def _inverse_sqrt(c: _Config) -> Schedule:
    timescale = c.whole("timescale")
    return c.rise(InverseSqrt(1.0, (c.warmup or 10_000) if timescale is None else timescale))


def _cosine_with_min_lr(c: _Config) -> Schedule:
    return c.rise(c.wave(c.floor(), c.after_warmup, c.get("num_cycles", 0.5, above=0)))


def _cosine_warmup_with_min_lr(c: _Config) -> Schedule:
    wave = c.wave(c.floor(), c.after_warmup, c.get("num_cycles", 0.5, above=0))
    if c.warmup == 0:
        return wave.after(1)
    if c.options.get("warmup_lr_rate") is None:
        return nonzero_warmup(c.warmup).then(wave)
    start = c.get("warmup_lr_rate", 0.0)
    if c.warmup == 1:
        return Constant(start, 1).then(wave.after(1))
    return Linear(start, 1.0, c.warmup - 1).then(wave)


def _warmup_stable_decay(c: _Config) -> Schedule:
    decay, stable = c.whole("num_decay_steps"), c.whole("num_stable_steps")
    if decay is None:
        raise ScheduleError("lr_scheduler_kwargs: warmup_stable_decay needs num_decay_steps")
    flat = c.steps - c.warmup - decay if stable is None else stable
    low = _floor("min_lr_ratio", c.options.get("min_lr_ratio", 0.0))
    cycles = c.get("num_cycles", 0.5, above=0)
    rises: dict[str, Callable[[], Schedule]] = {
        "linear": lambda: Linear(low, 1.0, c.warmup),
        "cosine": lambda: Cosine(low, 1.0, c.warmup),
        "1-sqrt": lambda: Polynomial(low, 1.0, c.warmup, power=0.5),
    }
    falls: dict[str, Callable[[], Schedule]] = {
        "linear": lambda: Linear(1.0, low, decay),
        "cosine": lambda: (
            Cosine(1.0, low, decay) if cycles == 0.5 else c.wave(low, max(decay, 1), cycles).first(decay).then(low)
        ),
        "1-sqrt": lambda: Sqrt(1.0, low, decay),
    }
    rise = _choice("warmup_type", c.options.get("warmup_type", "linear"), rises)
    fall = _choice("decay_type", c.options.get("decay_type", "cosine"), falls)
    # Where warmup and decay overlap, the decay has already begun when the warmup ends.
    down = Constant(1.0, flat).then(fall) if flat > 0 else fall.after(-flat) if flat < 0 else fall
    return rise.then(down) if c.warmup else down


_FLOOR = ("num_cycles", "min_lr", "min_lr_rate")
_READERS: dict[str, tuple[Callable[[_Config], Schedule], tuple[str, ...]]] = {
    "linear": (_linear, ()),
    "cosine": (_cosine, ("num_cycles",)),
    "cosine_with_restarts": (_cosine_with_restarts, ("num_cycles",)),
    "polynomial": (_polynomial, ("lr_end", "power")),
    "constant": (_constant, ()),
    "constant_with_warmup": (_constant, ()),
    "inverse_sqrt": (_inverse_sqrt, ("timescale",)),
    "cosine_with_min_lr": (_cosine_with_min_lr, _FLOOR),
    "cosine_warmup_with_min_lr": (_cosine_warmup_with_min_lr, (*_FLOOR, "warmup_lr_rate")),
    "warmup_stable_decay": (
        _warmup_stable_decay,
        ("num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"),
    ),
}
_LISTENING = ("reduce_lr_on_plateau", "greedy")
_FIELDS = ("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "warmup_ratio", "learning_rate", "max_steps")


def _fields(config: Any) -> dict[str, Any]:
    if isinstance(config, Mapping):
        found = {key: config[key] for key in _FIELDS if key in config}
    else:
        found = {key: getattr(config, key) for key in _FIELDS if hasattr(config, key)}
    if not found:
        raise ScheduleError(
            f"config: expected TrainingArguments or a dict of their fields, got {short(config)}; it may have: "
            f"{', '.join(_FIELDS)}"
        )
    warn_of_unread(
        config if isinstance(config, Mapping) else getattr(config, "__dict__", ()), _FIELDS, ("warmup", "sched")
    )
    return found


def _options(given: Any) -> dict[str, Any]:
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise ScheduleError(f"lr_scheduler_kwargs: {short(given)} is not JSON ({error})") from None
    if not isinstance(given or {}, Mapping):
        raise ScheduleError(f"lr_scheduler_kwargs: expected a dict or its JSON, got {short(given)}")
    return dict(given or {})


def _steps(fields: Mapping[str, Any], steps: int | None) -> int | None:
    own = fields.get("max_steps", -1)
    own = None if own is None or own <= 0 else whole("config", "max_steps", own)
    if steps is None:
        return own
    steps = whole("schedule_from_config", "steps", steps, at_least=1)
    if own not in (None, steps):
        raise ScheduleError(f"steps: got {steps}, but max_steps of the configuration is {own}; give one of them")
    return steps


def _warmup_steps(fields: Mapping[str, Any], total: int | None, name: str) -> int:
    if name == "constant":  # there, too, it has no warmup
        return 0
    given = number("config", "warmup_steps", fields.get("warmup_steps") or 0)
    ratio = number("config", "warmup_ratio", fields.get("warmup_ratio") or 0)
    for key, value in (("warmup_steps", given), ("warmup_ratio", ratio)):
        if value < 0:
            raise ScheduleError(f"config: {key} must be 0 or more, got {value:g}")
    if ratio > 1:
        raise ScheduleError(
            f"config: warmup_ratio is a share of the run and at most 1, got {ratio:g}; for a number of "
            "updates, give warmup_steps"
        )
    if given >= 1:
        return int(given)
    share = given or ratio
    if share and total is None:
        raise ScheduleError(f"steps: a warmup of {share:g} of the run needs the number of updates; give steps=")
    return math.ceil((total or 0) * share)


def _floor(key: str, value: Any) -> float:
    low = number("lr_scheduler_kwargs", key, value)
    if low < 0:
        raise ScheduleError(f"lr_scheduler_kwargs: {key} must be 0 or more, got {low:g}")
    return low


def _choice(key: str, value: Any, shapes: Mapping[str, Callable[[], Schedule]]) -> Schedule:
    if value not in shapes:
        raise ScheduleError(f"lr_scheduler_kwargs: unknown {key} {short(value)}; {did_you_mean(value, shapes)}")
    return shapes[value]()
