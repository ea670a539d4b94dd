"""A torch learning-rate scheduler that runs lrscope schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lrscope.errors import ScheduleError
from lrscope.schedules import Schedule
from lrscope.schedules.checks import did_you_mean, short, whole

_VERSION = 1


class ScheduledLR(LRScheduler):
    r"""Drives the values of an optimizer's groups by schedules: a torch ``LRScheduler``.

    .. math:: \text{group}[key] = \text{base}_{key} \cdot s_{key}(t)

    where t counts the calls of :meth:`step` and base is the group's own value when it was first seen; it is kept
    in the group as ``initial_<key>``, as torch keeps ``initial_lr``. Every value is computed from t alone: an
    edit of ``group["lr"]`` by hand lasts until the next step and leaks no further, and there is no rounding that
    adds up.

    - Building changes the groups to the values at t, and their bases never: a second build changes nothing.
    - The state is ``{"version", "step", "spec"}``, plain data for ``torch.load(weights_only=True)``. Loading it
      writes the values at its step, whether the optimizer's state is loaded before or after.
    - A Tensor learning rate is filled in place. No step reads a value back from a device.
    - A group added later takes its own value as base. It joins at the next :meth:`step`, or at once by
      :meth:`write`.

    Args:
        optimizer: The optimizer; its groups' ``lr`` are the peaks if the schedule's largest factor is 1.
        schedule: Factors on ``lr``, or a dict from group keys (``"lr"``, ``"weight_decay"``, ``"momentum"``,
            ``"betas"``, ...) to schedules. The factor on a tuple such as ``betas`` is for each entry.
        last_epoch: One less than the step to start at, as in torch; -1 starts at step 0.

    Example:
        >>> import torch
        >>> from lrscope.schedules import Cosine, warmup
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> scheduler = ScheduledLR(optimizer, warmup(2).then(Cosine(1.0, 0.0, 4)))
        >>> for _ in range(3):
        ...     print(optimizer.param_groups[0]["lr"])
        ...     optimizer.step()
        ...     scheduler.step()
        0.0
        0.05
        0.1
    """

    def __init__(
        self, optimizer: Optimizer, schedule: Schedule | Mapping[str, Schedule], last_epoch: int = -1
    ) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer: must be a torch Optimizer, got {type(optimizer).__name__}")
        self.schedules = _by_key(schedule)
        for key in self.schedules:
            for i, group in enumerate(optimizer.param_groups):
                _check_key(group, i, key)
        self._bases: dict[str, list[Any]] = {key: [] for key in self.schedules}
        self._find_bases(optimizer)
        super().__init__(optimizer, whole("ScheduledLR", "last_epoch", last_epoch, at_least=-1))

    def _find_bases(self, optimizer: Optimizer) -> None:
        """Read each group's own value of each key, once; loading an optimizer's state replaces the groups.

        Bases are plain numbers, also for Tensor learning rates, so no step has to ask a device for them.
        """
        groups = optimizer.param_groups
        for key, bases in self._bases.items():
            _part_tensors(optimizer, key)
            for i, group in enumerate(groups):
                name = f"initial_{key}"
                if name not in group:
                    # A known group that comes back without its base was saved without a scheduler.
                    group[name] = bases[i] if i < len(bases) else _plain(group[key])
                elif not _is_plain(group[name]):
                    group[name] = _plain(group[name])
            bases[:] = [group[f"initial_{key}"] for group in groups]

    def factors(self) -> dict[str, float]:
        """The schedules' values at the current step, by group key."""
        return {key: schedule(self.last_epoch) for key, schedule in self.schedules.items()}

    def write(self) -> None:
        """Write the values of the current step to every group; needed only to let a new group join at once."""
        groups = self.optimizer.param_groups
        self._find_bases(self.optimizer)
        for key, factor in self.factors().items():
            for group, base in zip(groups, self._bases[key], strict=True):
                group[key] = _scaled(group[key], base, factor)
        self.base_lrs = [group.get("initial_lr", group["lr"]) for group in groups]
        self._last_lr = self.get_lr()

    def step(self, epoch: int | None = None) -> None:
        """Go to the next step, after ``optimizer.step()``; ``epoch`` goes to that step instead."""
        self.last_epoch = self.last_epoch + 1 if epoch is None else whole("ScheduledLR.step", "epoch", epoch)
        self._step_count += 1
        self.write()

    def get_lr(self) -> list[float | Tensor]:
        """The learning rates of the current step, computed anew."""
        if "lr" not in self.schedules:
            return [_copy(group["lr"]) for group in self.optimizer.param_groups]
        factor = self.schedules["lr"](self.last_epoch)
        return [base * factor for base in self._bases["lr"]]

    def get_last_lr(self) -> list[float | Tensor]:
        """The learning rates last written, one per group: plain numbers, so nothing is aliased or synchronised."""
        return [_copy(lr) for lr in self._last_lr]

    def state_dict(self) -> dict[str, Any]:
        """Plain data: the state's version, the step, and the specification of every schedule."""
        return {"version": _VERSION, "step": self.last_epoch, "spec": self._spec()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state and write its values to the groups.

        Raises:
            ScheduleError: The state is not one of ScheduledLR, or of another schedule than this one.
        """
        if not isinstance(state_dict, Mapping) or set(state_dict) != {"version", "step", "spec"}:
            raise ScheduleError(
                f"state_dict: must be a ScheduledLR state with version, step and spec, got {short(state_dict)}; "
                "to continue from another scheduler's checkpoint, build ScheduledLR(..., last_epoch=step - 1)"
            )
        if state_dict["version"] != _VERSION:
            raise ScheduleError(
                f"state_dict: version {short(state_dict['version'])} is not readable, only version {_VERSION}; "
                "load it with the lrscope that saved it"
            )
        if state_dict["spec"] != self._spec():
            raise ScheduleError(
                f"state_dict: was saved with schedule {state_dict['spec']}, this scheduler runs {self._spec()}; "
                "build it with the saved one (schedules.from_spec), or start the new one with last_epoch="
            )
        self.last_epoch = whole("state_dict", "step", state_dict["step"])
        self._step_count = self.last_epoch + 1
        self.write()

    def _spec(self) -> dict[str, Any]:
        return {key: schedule.to_spec() for key, schedule in self.schedules.items()}


def _by_key(schedule: Any) -> dict[str, Schedule]:
    by_key = dict(schedule) if isinstance(schedule, Mapping) else {"lr": schedule}
    for key, value in by_key.items():
        if not isinstance(value, Schedule):
            raise ScheduleError(
                f"schedule: must be a Schedule, or a dict from group keys to Schedules; got {short(value)} for "
                f"{short(key)}; text is read by lrscope.schedules.parse, a number is Constant(number)"
            )
    if not by_key:
        raise ScheduleError("schedule: the dict is empty; give at least {'lr': schedule}")
    return by_key


def _check_key(group: Mapping[str, Any], index: int, key: str) -> None:
    if key not in group:
        usable = [name for name, value in group.items() if _is_number(value) and not name.startswith("initial_")]
        raise ScheduleError(f"schedule: parameter group {index} has no {short(key)}; {did_you_mean(key, usable)}")
    if not _is_number(group[key]):
        raise ScheduleError(
            f"schedule: {short(key)} of parameter group {index} is {short(group[key])}, not a number to be scaled"
        )


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return bool(value) and all(_is_number(v) for v in value)
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_plain(value: Any) -> bool:
    return all(map(_is_plain, value)) if isinstance(value, tuple | list) else not isinstance(value, Tensor)


def _plain(value: Any) -> Any:
    """``value`` without Tensors: a number, or a tuple of numbers."""
    return tuple(_plain(v) for v in value) if isinstance(value, tuple | list) else float(value)


def _part_tensors(optimizer: Optimizer, key: str) -> None:
    """Give each group its own Tensor: torch lets groups share the one in ``defaults``, which would be filled too."""
    seen = {id(optimizer.defaults.get(key))}
    for group in optimizer.param_groups:
        if isinstance(group[key], Tensor):
            if id(group[key]) in seen:
                group[key] = group[key].clone()
            seen.add(id(group[key]))


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _scaled(current: Any, base: Any, factor: float) -> Any:
    """``base * factor``, in the place of ``current`` where that is a Tensor."""
    if isinstance(base, tuple | list):
        return tuple(_scaled(c, b, factor) for c, b in zip(current, base, strict=True))
    return current.fill_(base * factor) if isinstance(current, Tensor) else base * factor
