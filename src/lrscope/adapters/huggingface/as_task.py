"""A task from an existing Trainer: what it would train, as lrscope measures and plans it."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lrscope.adapters.huggingface.extra import require_trainer
from lrscope.adapters.huggingface.loaders import evaluation, num_updates, train_updates, updates_per_epoch
from lrscope.errors import TaskError
from lrscope.objective import num_examples
from lrscope.tasks import Task

if TYPE_CHECKING:
    from transformers import Trainer


def task(trainer: Trainer, *, num_processes: int = 1, name: str | None = None) -> Task:
    """The training that ``trainer`` is set up for, as a :class:`~lrscope.Task`.

    - **Model.** ``build(seed)`` calls the Trainer's ``model_init``. Without one it copies the Trainer's model as it
      stands now, so seeds differ in the order of the data and in dropout, and a pretrained start is kept. To let
      seeds also differ in a new head, or in everything, give the Trainer a ``model_init``.
    - **One batch is one update.** It holds all micro-batches of an update, ``gradient_accumulation_steps`` times
      ``num_processes``; the loss is the sum that the Trainer's backward passes add up to, by its own
      ``compute_loss``. The learning rates found are therefore those of the whole batch. All micro-batches are in
      memory at once.
    - **Evaluation.** Every evaluation set of the Trainer, one after another; without one the training loss judges.
    - **No trace.** No optimizer or scheduler is made, the Trainer, its loaders and the random states stay as they
      were.

    Not part of the task, since they belong to the Trainer's loop: clipping of gradients (``max_grad_norm``, 1.0
    unless set to 0), NEFTune noise, the scaling of losses under ``fp16``.

    Args:
        trainer: A ``transformers.Trainer`` or a subclass of it, before or after training.
        num_processes: Processes of the run that is planned; measuring itself is done in one.
        name: Shown on every screen; the model's class unless given.

    Raises:
        TaskError: The Trainer has no training data, or is spread over processes or devices.
        TypeError: ``trainer`` is something else.
        MissingExtraError: transformers is not installed.

    Example:
        >>> plan = lrs.plan(lrs.adapters.huggingface.task(trainer), optimizer="adamw")  # doctest: +SKIP
    """
    _check(trainer, num_processes)
    per_epoch = updates_per_epoch(trainer, num_processes)
    return Task(
        build=_builder(trainer),
        loss_fn=_loss_fn(trainer),
        train=train_updates(trainer, num_processes),
        evaluate=evaluation(trainer),
        name=type(trainer.model).__name__ if name is None else name,
        count=lambda batch: sum(num_examples(part) for part in batch),
        steps=num_updates(trainer, per_epoch),
        device=str(trainer.args.device),
    )


def _builder(trainer: Any) -> Any:
    if trainer.model_init is not None:
        return lambda seed: trainer.call_model_init()  # noqa: ARG005  (the task seeds the generators)
    start = copy.deepcopy(trainer.model)  # the Trainer may train its own on
    return lambda seed: copy.deepcopy(start)  # noqa: ARG005


def _loss_fn(trainer: Any) -> Any:
    def loss_fn(model: nn.Module, batch: list[Any]) -> Tensor:
        parts, num_items = trainer.get_batch_samples(iter(batch), len(batch), trainer.args.device)
        with trainer.accelerator.autocast():
            losses = [
                trainer.compute_loss(model, trainer._prepare_inputs(dict(part)), num_items_in_batch=num_items)
                for part in parts
            ]
        total = torch.stack(losses).sum()
        return total if is_scaled(trainer, num_items) else total / len(parts)

    return loss_fn


def is_scaled(trainer: Any, num_items: Any) -> bool:
    """Whether the losses are shares of the whole update's mean, rather than means of their micro-batches."""
    said = getattr(trainer, "loss_is_scaled_for_ga", None)
    if said is not None:
        return said
    return trainer.compute_loss_func is not None or (trainer.model_accepts_loss_kwargs and num_items is not None)


def _check(trainer: Any, num_processes: int) -> None:
    require_trainer(trainer)
    if isinstance(num_processes, bool) or not isinstance(num_processes, int) or num_processes < 1:
        raise TaskError(f"num_processes: expected a positive integer, got {num_processes!r}")
    if trainer.train_dataset is None:
        raise TaskError("trainer: it has no train_dataset, so there is nothing to train on; give it one")
    if trainer.args.world_size > 1:
        raise TaskError(
            f"trainer: it runs in {trainer.args.world_size} processes, but measuring is done in one; start the "
            f"script without a launcher and say num_processes={trainer.args.world_size}"
        )
    if trainer.is_model_parallel or trainer.args.n_gpu > 1:
        raise TaskError(
            "trainer: its model is spread over several devices, and copies of it cannot be; show one device "
            "(CUDA_VISIBLE_DEVICES=0), and say num_processes= how many the run will have"
        )
