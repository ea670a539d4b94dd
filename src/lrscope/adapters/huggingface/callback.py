"""What the Trainer tells about its run: where it resumes, when it updates, what it logs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import TrainerCallback

from lrscope.errors import LrscopeWarning, ScheduleError
from lrscope.optimizers.announce import announce
from lrscope.schedules import Schedule

if TYPE_CHECKING:
    from lrscope.adapters.huggingface.schedule import Setup


class ScheduleCallback(TrainerCallback):
    """Checks a resumed schedule, announces it, and adds every driven value to the Trainer's logs."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.used: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        skipped = check_resumed(self.setup, state.global_step) if state.global_step else 0
        if state.is_world_process_zero:
            tell(self.setup, state.global_step, skipped)
            warn_of_length(self.setup)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self.used = driven_values(self.setup.scheduler)  # the scheduler moves on before the Trainer logs

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if metrics and self.setup.scheduler is not None and self.setup.trainer.is_in_train:
            self.setup.scheduler.observe(**{k: v for k, v in metrics.items() if isinstance(v, int | float)})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if logs is not None and "learning_rate" in logs:
            logs.update(self.used)
            state.log_history[-1].update(self.used)


def check_resumed(setup: Setup, global_step: int) -> int:
    """The number of updates that were skipped so far, if the run may go on as it is.

    Raises:
        ScheduleError: Checkpoint and schedule disagree.
    """
    scheduler = setup.scheduler
    assert scheduler is not None
    step, rates = scheduler.last_epoch, [float(lr) for lr in scheduler.get_last_lr()]
    if not scheduler.restored and step != global_step:
        raise ScheduleError(
            f"resume: the checkpoint at update {global_step} holds no optimizer and scheduler, so the schedule would "
            f"be at step {step} again; save them (save_only_model=False), or say set_schedule(..., last_epoch="
            f"{global_step - 1}) to go on at step {global_step}"
        )
    if step > global_step:
        raise ScheduleError(f"resume: the schedule in the checkpoint is at step {step}, the Trainer at {global_step}")
    groups = zip(scheduler.optimizer.param_groups, setup.bases, scheduler.base_lrs, rates, strict=True)
    for i, (group, base, stored_base, rate) in enumerate(groups):
        expected = rate if base == stored_base or not stored_base else rate / stored_base * base
        stored = setup.stored[i] if scheduler.restored and setup.replan is None else rate
        # With replan= the jump was asked for, and told. A Tensor learning rate is stored in float32.
        if base != stored_base or not math.isclose(expected, stored, rel_tol=1e-6):
            raise ScheduleError(
                f"resume: group {name_of(group, i)} has learning rate {stored!r} in the checkpoint of update "
                f"{global_step}, this run gives it {expected!r} (base {base:g}, in the checkpoint {stored_base:g}); "
                "put back what changed, or change the plan on purpose by set_schedule(..., replan=)"
            )
    return global_step - step


def driven_values(scheduler: Any) -> dict[str, float]:
    """What the update just made has used, by the names it is logged under; nothing is read from a device."""
    row = {}
    for i, (group, lr) in enumerate(zip(scheduler.optimizer.param_groups, scheduler.get_last_lr(), strict=False)):
        for key, value in {"lr": lr, **{key: group.get(key) for key in scheduler.schedules if key != "lr"}}.items():
            for j, number in enumerate(several := value if isinstance(value, tuple | list) else (value,)):
                if not isinstance(number, Tensor | None):
                    suffix = f"/{j}" if len(several) > 1 else ""
                    row[f"{key}/{name_of(group, i)}{suffix}"] = float(number)
    return row


def tell(setup: Setup, global_step: int, skipped: int) -> None:
    """Say what will run, and where it goes on."""
    scheduler, length = setup.scheduler, setup.length
    assert scheduler is not None
    run = f"; {length.steps:,} updates" if length else ""
    run += f", {length.steps_per_epoch:,} an epoch" if length and length.steps_per_epoch else ""
    run += f"; resumed at update {global_step:,}" if global_step else ""
    run += f", of which {skipped:,} were skipped" if skipped else ""
    for place, drives in {None: scheduler.schedules, **scheduler.groups}.items():
        of = "" if place is None else f" of group {place}"
        for key, drive in drives.items():
            bases = dict.fromkeys(g.get(f"initial_{key}") for g in scheduler.optimizer.param_groups)
            by = " and ".join(f"{base:g}" for base in bases if isinstance(base, float)) or "its base"
            announce(f"lrscope: {key}{of} = {by if not of else 'its base'} × {text_of(drive)}{run}")


def warn_of_length(setup: Setup) -> None:
    """Say where a schedule with a length of its own does not fit the run."""
    assert setup.scheduler is not None
    assert setup.length is not None
    updates = setup.length.steps
    for key, drive in setup.scheduler.schedules.items():
        if not isinstance(drive, Schedule) or drive.num_steps in (None, updates):
            continue
        if drive.num_steps > updates:
            what = f"has {drive.num_steps} steps, so this run of {updates} updates does not come to its end"
        elif drive(drive.num_steps) == 0:
            what = f"is 0 from step {drive.num_steps} on, so the last {updates - drive.num_steps} updates use 0"
        else:
            continue
        warnings.warn(f"the schedule of {key} {what}; .stretch({updates}) fits it to the run", LrscopeWarning, 2)


def text_of(drive: Any) -> str:
    if isinstance(drive, str):
        return f"that of {drive}"
    try:
        return f"({drive.to_text()})"
    except (AttributeError, ScheduleError):  # it listens, or is a shape of the user's own
        return repr(drive)


def name_of(group: Mapping[str, Any], index: int) -> str:
    return str(group.get("name", index))
