"""What the Trainer tells about its run: where it resumes, when it updates, what it logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from lrscope.adapters.huggingface.as_task import is_scaled
from lrscope.adapters.resuming import used_values
from lrscope.adapters.telling import listens, listens_to_updates, warn_of_silence
from lrscope.adapters.unchanged import unchanged
from lrscope.objective import Objective

if TYPE_CHECKING:
    from lrscope.adapters.huggingface.schedule import Setup


class ScheduleCallback(TrainerCallback):
    """Has a resumed schedule checked and announced, and adds every driven value to the Trainer's logs."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.used: dict[str, float] = {}
        self._parts: list[tuple[Any, Any, Any]] = []  # micro-batches of the coming update: inputs, number, loss
        self._listening = False
        self._own: Any = None  # the Trainer's training_step, while ours is in its place

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        guard = self.setup.guard
        if guard is None:  # another create_scheduler was put in the place of ours
            return
        guard.begin()
        if str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
            warn_of_silence(
                guard.scheduler, "the Trainer never evaluates (eval_strategy='no'); say how often it should"
            )

        if listens_to_updates(guard.scheduler):
            self._listen()

    def _listen(self) -> None:
        """Hear each micro-batch and its loss: the Trainer tells them to nobody."""
        self._stop_listening()  # to an earlier train() that did not come to its end
        trainer = self.setup.trainer
        step = trainer.training_step

        def step_and_note(model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            kept = dict(inputs)  # steps take entries out
            loss = step(model, inputs, num_items_in_batch)
            self._parts.append((kept, num_items_in_batch, loss))
            return loss

        trainer.training_step, self._listening = step_and_note, True
        self._own = step

    def _stop_listening(self) -> None:
        if self._listening:
            trainer, self._listening = self.setup.trainer, False
            del trainer.training_step
            if trainer.training_step != self._own:  # there was another one in its place
                trainer.training_step = self._own
        self._parts = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        parts, self._parts = self._parts, []
        if parts and self.setup.guard is not None:
            trainer = self.setup.trainer
            loss = float(trainer.accelerator.reduce(sum(loss for *_, loss in parts), "mean"))
            self.setup.guard.scheduler.observe(loss=loss, measure_on=lambda: self._objective(parts))

    def _objective(self, parts: list[tuple[Any, Any, Any]]) -> Objective:
        """The loss of the coming update, its micro-batches together."""
        trainer = self.setup.trainer

        def loss_fn(model: Any, parts: list[tuple[Any, Any, Any]]) -> Any:
            with unchanged(trainer), trainer.compute_loss_context_manager():
                losses = [
                    trainer.compute_loss(model, trainer._prepare_inputs(dict(inputs)), num_items_in_batch=num_items)
                    for inputs, num_items, _ in parts
                ]
            return sum(losses) / (1 if is_scaled(trainer, parts[0][1]) else len(losses))

        return Objective(trainer.model_wrapped, loss_fn, [parts], count=len)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        self._stop_listening()

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self.setup.guard is not None:
            self.used = used_values(self.setup.guard.scheduler)  # it moves on before the Trainer logs

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        guard = self.setup.guard
        if metrics and guard is not None and self.setup.trainer.is_in_train and listens(guard.scheduler):
            seen: dict[str, Any] = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
            guard.scheduler.observe(**seen)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ARG002
        if logs is not None and "learning_rate" in logs and self.used:
            first = next((self.used[name] for name in self.used if name.startswith("lr/")), logs["learning_rate"])
            for row in (logs, state.log_history[-1]):
                row.update(self.used, learning_rate=first)
