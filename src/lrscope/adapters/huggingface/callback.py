"""What the Trainer tells about its run: where it resumes, when it updates, what it logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from lrscope.adapters.resuming import used_values
from lrscope.adapters.telling import listens, warn_of_silence

if TYPE_CHECKING:
    from lrscope.adapters.huggingface.schedule import Setup


class ScheduleCallback(TrainerCallback):
    """Has a resumed schedule checked and announced, and adds every driven value to the Trainer's logs."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.used: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        guard = self.setup.guard
        if guard is None:  # another create_scheduler was put in the place of ours
            return
        guard.begin()
        if str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
            warn_of_silence(
                guard.scheduler, "the Trainer never evaluates (eval_strategy='no'); say how often it should"
            )

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self.setup.guard is not None:
            self.used = used_values(self.setup.guard.scheduler)  # it moves on before the Trainer logs

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        guard = self.setup.guard
        if metrics and guard is not None and self.setup.trainer.is_in_train and listens(guard.scheduler):
            guard.scheduler.observe(**{k: v for k, v in metrics.items() if isinstance(v, int | float)})

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if logs is not None and "learning_rate" in logs and self.used:
            first = next((self.used[name] for name in self.used if name.startswith("lr/")), logs["learning_rate"])
            for row in (logs, state.log_history[-1]):
                row.update(self.used, learning_rate=first)
