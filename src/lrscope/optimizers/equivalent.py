"""Train without weight decay what would be trained with it: the exponential equivalent, run."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.optimizers.clock import innermost
from lrscope.optimizers.lanes import Group, plain
from lrscope.optimizers.scheduled import ScheduledLR
from lrscope.schedules import Constant, ExponentialEquivalent, FeedbackSchedule, Schedule, exponential_equivalent
from lrscope.schedules.checks import did_you_mean, short, whole
from lrscope.schedules.exponential import DEFAULT_MAX_SCALE, StateMap


class EquivalentLR(ScheduledLR):
    r"""Runs scale-invariant groups of ``torch.optim.SGD`` without weight decay, to the same functions.

    Give it the optimizer and the schedule of the run *with* weight decay. The groups named ``invariant`` get weight
    decay 0 and the growing learning rate of :func:`lrscope.schedules.exponential_equivalent`; all others keep their
    rate, schedule and weight decay. Everything else is as with :class:`ScheduledLR`: call :meth:`step` after
    ``optimizer.step()``, save and load ``state_dict()``.

    The weights of those groups grow. Where they pass ``max_scale`` times what they would be, the update ends with
    dividing them by it, multiplying their momentum buffers, and a rate divided by its square; no function changes.
    This happens inside ``optimizer.step()``, so weights, buffers and step of a checkpoint always fit together.

    The class believes what it is told about the groups; :func:`lrscope.stability.equivalent_lr` measures it.

    Args:
        optimizer: With the learning rate, momentum and weight decay of the original run, before its first update.
        schedule: As for :class:`ScheduledLR`; of its keys ``"lr"``, ``"weight_decay"`` and ``"momentum"`` are
            translated.
        invariant: The groups whose size the loss does not see, by ``"name"`` or index.
        steps: Updates in the run; the schedule's own length unless given, and needed if it never ends.
        max_scale: As for :func:`~lrscope.schedules.exponential_equivalent`.

    Raises:
        ScheduleError: Another optimizer than SGD, a group that does not exist, or no exact equivalent (Nesterov
            momentum, dampening, too much weight decay, a schedule that listens).

    Example:
        >>> import torch
        >>> from lrscope.schedules import Constant
        >>> conv, head = torch.nn.Linear(4, 4), torch.nn.Linear(4, 2)
        >>> optimizer = torch.optim.SGD([
        ...     {"params": conv.parameters(), "name": "conv"}, {"params": head.parameters(), "name": "head"}
        ... ], lr=0.1, momentum=0.9, weight_decay=0.01)
        >>> scheduler = EquivalentLR(optimizer, Constant(1.0), invariant=["conv"], steps=100)
        >>> [(round(group["lr"], 4), group["weight_decay"]) for group in optimizer.param_groups]
        [(0.1001, 0.0), (0.1, 0.01)]

    References:
        Li, Arora, An Exponential Learning Rate Schedule for Deep Learning, 2019, arXiv 1910.07454.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        schedule: Schedule | Mapping[str, Schedule | str],
        *,
        invariant: Sequence[str | int],
        steps: int | None = None,
        max_scale: float | None = DEFAULT_MAX_SCALE,
    ) -> None:
        inner = innermost(optimizer)
        if not isinstance(inner, torch.optim.SGD):
            raise ScheduleError(
                f"optimizer: must be a torch.optim.SGD, got {type(inner).__name__}; only its update is translated"
            )
        drives = dict(schedule) if isinstance(schedule, Mapping) else {"lr": schedule}
        if not isinstance(drives.get("lr"), Schedule):
            raise ScheduleError(f"schedule: needs a Schedule for 'lr', got {short(drives.get('lr'))}")
        self.equivalents = {
            name: _equivalent(group, name, drives, steps, max_scale)
            for name, group in _named_groups(inner, invariant).items()
        }
        own = {name: {"lr": e, "weight_decay": Constant(0.0)} for name, e in self.equivalents.items()}
        super().__init__(optimizer, drives, groups=own)
        self.drives.remedy = "take original_weights() from the old run, and start a new EquivalentLR from them"
        self._watch()

    @property
    def updates(self) -> int:
        """Updates performed so far, also those that :meth:`step` has not taken yet."""
        return self._performed()

    def state_map(self, name: str | int) -> StateMap:
        """How weights and momentum buffer of a group now lie to those of the run with weight decay."""
        if name not in self.equivalents:
            raise ScheduleError(
                f"name: {short(name)} is not converted; {did_you_mean(name, map(str, self.equivalents))}"
            )
        found = self.equivalents[name]
        return found.state_map(min(self.updates, found.steps))

    @torch.no_grad()
    def original_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Copies of the model's parameters, by name, as they are in the run with weight decay."""
        groups = _named_groups(innermost(self.optimizer), list(self.equivalents))
        scale = {id(p): self.state_map(name).scale for name, group in groups.items() for p in group["params"]}
        return {name: p.detach() / scale.get(id(p), 1.0) for name, p in model.named_parameters()}

    def step(self, epoch: int | None = None) -> None:
        """Go to the updates performed so far. A jump to another step would need other weights, and is refused."""
        if epoch is not None and whole("EquivalentLR.step", "epoch", epoch) != self.updates:
            raise ScheduleError(
                f"EquivalentLR.step: epoch must be {self.updates}, the updates performed, got {epoch}; the weights "
                "belong to their step. To start from a checkpoint load its state_dict"
            )
        super().step(epoch)

    def load_state_dict(self, state_dict: dict[str, Any], *, replan: str | None = None) -> None:
        """Continue from a saved state. The weights and the optimizer's buffers are those saved with it.

        Raises:
            ScheduleError: As for :class:`ScheduledLR`; and ``replan`` is refused, as by :meth:`replan`.
        """
        if replan is not None:
            self.replan()
        super().load_state_dict(state_dict)
        self._reached = self.updates

    def replan(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: the weights have grown by the schedule that would be left."""
        raise ScheduleError(
            "replan: a translated schedule cannot be changed on the way, since the weights have grown by it; start "
            "from original_weights() with the new one"
        )

    def _watch(self) -> None:
        """After every update that the clock has counted, rebase where it is due."""
        self._reached, self._said = self.updates, False
        self._due = {name: found.rebases for name, found in self.equivalents.items()}
        me = weakref.ref(self)

        def post_hook(*_: Any) -> None:
            run = me()
            if run is not None and run.updates > run._reached:
                run._updated()

        # Registered after the clock's own hook, so it is called when the update has been counted.
        handle = innermost(self.optimizer).register_step_post_hook(post_hook)
        weakref.finalize(self, handle.remove)

    @torch.no_grad()
    def _updated(self) -> None:
        self._reached = self.updates
        optimizer = innermost(self.optimizer)
        due = {name: at[self._reached] for name, at in self._due.items() if self._reached in at}
        for name, group in _named_groups(optimizer, list(due)).items() if due else ():
            for p in group["params"]:
                p.div_(due[name])
                buffer = optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None
                if buffer is not None:
                    buffer.mul_(due[name])
        end = min(found.steps for found in self.equivalents.values())
        if self._reached > end and not self._said:
            self._said = True
            warnings.warn(
                f"EquivalentLR: update {self._reached} is past steps={end}, for which the schedule was translated: "
                "the learning rate is held, and the run is no longer that with weight decay",
                LrscopeWarning,
                stacklevel=3,
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._watch()


def _named_groups(optimizer: Optimizer, names: Sequence[str | int]) -> dict[str | int, Group]:
    """The groups of these names or indices."""
    if isinstance(names, str | bytes) or not isinstance(names, Sequence) or not names:
        raise ScheduleError(
            f"invariant: must be a list of one or more groups, by name or index, got {short(names)}; "
            "lrscope.stability.scale_invariance finds them"
        )
    known: dict[str | int, Group] = dict(enumerate(optimizer.param_groups))
    known |= {group["name"]: group for group in optimizer.param_groups if "name" in group}
    found: dict[str | int, Group] = {}
    for name in names:
        if isinstance(name, bool) or name not in known:
            raise ScheduleError(f"invariant: no group is {short(name)}; {did_you_mean(name, map(str, known))}")
        if any(group is known[name] for group in found.values()):
            raise ScheduleError(f"invariant: {short(name)} is named twice")
        found[name] = known[name]
    return found


def _equivalent(
    group: Group,
    name: str | int,
    drives: Mapping[str, Schedule | str],
    steps: int | None,
    max_scale: float | None,
) -> ExponentialEquivalent:
    """The translation of one group, from its own values and the schedules on them."""
    lr = drives["lr"]
    values: dict[str, float | Schedule] = {}
    for key in ("weight_decay", "momentum"):
        base, drive = _own(group, key), drives.get(key)
        drive = drives.get(drive) if isinstance(drive, str) else drive
        if isinstance(drive, FeedbackSchedule):
            raise ScheduleError(
                f"schedule: {key} listens ({type(drive).__name__}), so it cannot be translated before the run; "
                "give a Schedule, or use ScheduledLR"
            )
        values[key] = base * drive if isinstance(drive, Schedule) else base
    try:
        return exponential_equivalent(
            lr,  # pyright: ignore[reportArgumentType]
            base_lr=_own(group, "lr"),
            weight_decay=values["weight_decay"],
            momentum=values["momentum"],
            steps=steps,
            max_scale=max_scale,
            nesterov=group["nesterov"],
            dampening=group["dampening"],
        )
    except ScheduleError as error:
        raise ScheduleError(f"group {name}: {error}") from None


def _own(group: Group, key: str) -> float:
    """The group's value before any schedule; weight decay is 0 by now where the group was converted before."""
    return plain(group.get(f"initial_{key}", group[key]))
