"""What the Trainer tells about its run: where it resumes, when it updates, what it logs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from lrscope.adapters.telling import tell, warn_of_length
from lrscope.errors import ScheduleError
from lrscope.optimizers.lanes import name_of

if TYPE_CHECKING:
    from lrscope.adapters.huggingface.schedule import Setup


class ScheduleCallback(TrainerCallback):
    """Checks a resumed schedule, announces it, and adds every driven value to the Trainer's logs."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.used: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        skipped = check_resumed(self.setup, state.global_step) if state.global_step else 0
        scheduler, length = self.setup.scheduler, self.setup.length
        if state.is_world_process_zero and scheduler is not None:
            note = f"; resumed at update {state.global_step:,}" if state.global_step else ""
            note += f", of which {skipped:,} were skipped" if skipped else ""
            tell(scheduler, length, note)
            if length is not None:
                warn_of_length(scheduler, length.steps)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        assert self.setup.scheduler is not None
        self.used = self.setup.scheduler.driven_values()  # the scheduler moves on before the Trainer logs

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
