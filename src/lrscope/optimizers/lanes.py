"""Which value of which group follows which schedule."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.optim import SGD, Optimizer

from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.optimizers.clock import innermost
from lrscope.schedules.checks import did_you_mean, short
from lrscope.schedules.feedback import FeedbackSchedule, State

Group = dict[str, Any]

_ENTRIES = {"beta1": ("betas", 0), "beta2": ("betas", 1)}
"""Keys that are an entry of another one."""
_DEAF = 1000  # updates without an observation: more than between two evaluations of any usual run
_DEAF_AT_UPDATES = 10  # for those that are to hear each update


@dataclass
class Lane:
    """Groups that follow one schedule with one key and one clock.

    Attributes:
        read: The factor at a step of this lane's own clock.
        start: The step of the scheduler at which that clock is 0.
        key: The key in the group.
        entry: Which entry of a tuple; ``None`` for the whole value.
        members: Group, base value and floor.
    """

    read: Callable[[int], float]
    start: int
    key: str
    entry: int | None
    members: list[tuple[Group, Any, float]]

    def factor(self, step: int) -> float:
        return self.read(step - self.start if step > self.start else 0)

    def write(self, step: int) -> None:
        factor = self.read(step - self.start if step > self.start else 0)
        key, entry = self.key, self.entry
        for group, base, floor in self.members:
            if type(group[key]) is float:  # by far the most frequent, so it comes first and without a call
                value = base * factor
                group[key] = value if value > floor else floor
            else:
                group[key] = _scaled(group[key], base, factor, floor, entry)


class Listener:
    """Reads a :class:`FeedbackSchedule`, whose state it holds, and says if it never hears anything."""

    def __init__(self, schedule: FeedbackSchedule) -> None:
        self.schedule = schedule
        self.state: State = schedule.init()
        self.heard = False

    def __call__(self, step: int) -> float:
        deaf = _DEAF_AT_UPDATES if self.schedule.every_update else _DEAF
        if step >= deaf and not self.heard and self.schedule.listens_to:
            self.heard = True  # said once
            warnings.warn(
                f"{type(self.schedule).__name__}: nothing was observed in {step} updates, so it stays where it is; "
                "report what it listens to: scheduler.observe(loss=...)",
                LrscopeWarning,
                stacklevel=5,
            )
        return self.schedule.value(self.state, step)


def forget_momentum(optimizer: Optimizer, lane: Lane) -> None:
    """Drop the momentum buffers of groups of SGD whose momentum is 0: nothing would keep them up to date."""
    if isinstance(innermost(optimizer), SGD):
        for group, _, _ in lane.members:
            if type(group["momentum"]) is float and group["momentum"] == 0.0:
                for p in group["params"]:
                    if p in optimizer.state:
                        optimizer.state[p].pop("momentum_buffer", None)


def name_of(group: Mapping[str, Any], index: int) -> str:
    """What a group is called in logs and messages: its ``name``, or its place among the groups."""
    return str(group.get("name", index))


def group_rates(optimizer: Optimizer) -> dict[str, float]:
    """The learning rates of several groups, as ``lr/<group>``; empty for one group. Reads Tensor rates."""
    groups = optimizer.param_groups
    return {f"lr/{name_of(g, i)}": float(g["lr"]) for i, g in enumerate(groups)} if len(groups) > 1 else {}


def place_of(group: Mapping[str, Any], index: int, key: str) -> tuple[str, int | None]:
    """The key in the group, and the entry of its tuple, that ``key`` stands for.

    ``"beta1"`` and ``"beta2"`` are entries of ``betas``; ``"momentum"`` is beta1 where a group has no momentum.
    """
    name = "beta1" if key == "momentum" and key not in group and "betas" in group else key
    real, entry = _ENTRIES.get(name, (name, None))
    if real not in group:
        usable = [k for k, value in group.items() if is_number(value) and not k.startswith("initial_")]
        usable += [k for k, (of, _) in _ENTRIES.items() if of in group]
        raise ScheduleError(f"schedule: parameter group {index} has no {short(key)}; {did_you_mean(key, usable)}")
    if not is_number(group[real]):
        raise ScheduleError(
            f"schedule: {short(key)} of parameter group {index} is {short(group[real])}, not a number to be scaled"
        )
    return real, entry


def base_of(group: Group, key: str, real: str, entry: int | None, known: Any) -> Any:
    """The group's own value of ``key``, kept in the group as ``initial_<key>`` and read once.

    It is a plain number, also for a Tensor learning rate, so no step has to ask a device for it. ``known`` is what
    it was in a group that comes back without it, having been saved without a scheduler.
    """
    name = f"initial_{key}"
    if name not in group:
        value = group[real] if entry is None else group[real][entry]
        group[name] = plain(value) if known is None else known
    elif not _is_plain(group[name]):
        group[name] = plain(group[name])
    return group[name]


def own_tensors(optimizer: Optimizer, key: str) -> None:
    """Give each group its own Tensor: torch lets groups share the one in ``defaults``, which would be filled too."""
    seen = {id(optimizer.defaults.get(key))}
    for group in optimizer.param_groups:
        if isinstance(group.get(key), Tensor):
            if id(group[key]) in seen:
                group[key] = group[key].clone()
            seen.add(id(group[key]))


def floor_of(floor: Any, base: Any, where: str) -> float:
    """A floor in the units of the learning rate: absolute, or as a share of the group's own rate."""
    if floor is None:
        return -math.inf
    if isinstance(floor, str) and floor.strip().endswith("%"):
        try:
            share = float(floor.strip()[:-1])
        except ValueError:
            share = math.nan
        if 0 <= share <= 100:
            return base * share / 100
    elif isinstance(floor, int | float) and not isinstance(floor, bool) and 0 <= floor < math.inf:
        return float(floor)
    raise ScheduleError(
        f"floor: {where} must be a learning rate such as 1e-6, or a share of the group's own such as '10%', "
        f"got {short(floor)}"
    )


def is_number(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(is_number(v) for v in value)
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, int | float) and not isinstance(value, bool)


def plain(value: Any) -> Any:
    """``value`` without Tensors: a number, or a tuple of numbers."""
    return tuple(plain(v) for v in value) if isinstance(value, tuple | list) else float(value)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple | list) else not isinstance(value, Tensor)


def _scaled(current: Any, base: Any, factor: float, floor: float, entry: int | None) -> Any:
    """``base * factor``, in the place of ``current`` where that is a Tensor."""
    if entry is not None:
        new = _scaled(current[entry], base, factor, floor, None)
        return type(current)(new if i == entry else v for i, v in enumerate(current))
    if isinstance(current, tuple | list):
        bases = base if isinstance(base, tuple | list) else [base] * len(current)
        return tuple(_scaled(c, b, factor, floor, None) for c, b in zip(current, bases, strict=True))
    value = max(base * factor, floor)
    return current.fill_(value) if isinstance(current, Tensor) else value
