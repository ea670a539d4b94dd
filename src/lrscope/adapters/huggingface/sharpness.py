"""A callback that measures how the Trainer's learning rate stands to what curvature allows."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrscope.adapters.huggingface.extra import require_trainer
from lrscope.adapters.huggingface.loaders import undisturbed
from lrscope.adapters.measuring import Measuring
from lrscope.adapters.unchanged import unchanged
from lrscope.errors import LrscopeWarning, TaskError
from lrscope.isolation import isolated_rng
from lrscope.objective import Objective
from lrscope.records import Event
from lrscope.stability.gauge import BUDGET, Every, check_options

FILE = "sharpness.pt"
"""The callback's state, in each of the Trainer's checkpoints."""


class SharpnessCallback:
    """Logs sharpness and headroom of the live model while a Trainer trains it.

    - **What is measured** is the Trainer's own loss (``compute_loss``) of a few micro-batches that stay the same, on
      the model as it is trained: compiled, under autocast, in DistributedDataParallel; then every process measures
      its own batches and the readings are those over all of them. Dropout is off.
    - **Logged** by ``trainer.log``, so to every reporter and to ``log_history``: ``curvature/lambda_max`` (for Adam
      that of the preconditioned Hessian), ``curvature/residual``, ``curvature/stable_lr`` and
      ``curvature/headroom``, the learning rate divided by ``stable_lr``. Once per update at most, however many
      micro-batches it has; ``step`` counts finished updates, as everywhere in the Trainer.
    - **No trace.** Without a cap, a run ends bit for bit as it would without the callback: parameters, gradients,
      random states, the loader, the gradient scaler and what ``compute_loss`` notes on the Trainer.
    - **Resume.** Its state lies in the Trainer's checkpoints as ``sharpness.pt``, about 56 vectors as long as all
      parameters together, but at most 1 GiB.

    Args:
        trainer: A ``transformers.Trainer`` or a subclass of it.
        batches: Micro-batches as the Trainer's collator makes them; on several processes, those of this one. By
            default the first ones of its training loader, in the order that its seed gives.
        num_batches: How many of these.
        loss_fn: ``loss_fn(model, batch)`` -> mean loss over the batch; the Trainer's ``compute_loss`` by default.
        every: Updates between readings, or ``"auto"``: at the pace that the readings ask for, within ``budget``.
        budget: With ``"auto"``, gradients of the measured batches per update that readings may cost, on average. A
            reading takes about ten, the first one more; ``None``: no limit.
        alarm: Readings in a row with headroom above 1 after which to warn, once; ``None``: never.
        cap: Headroom that the learning rate is kept at; ``None``: the learning rate is left alone. ``learning_rate``
            in the logs stays the schedule's, ``lr_used`` is that of the update; see
            :class:`~lrscope.stability.cap.Cap`.

    Attributes:
        events: What happened: a cap that acts, an alarm, a reading that was not possible.

    Raises:
        MissingExtraError: transformers is not installed.
        TypeError: ``trainer`` is something else.
        ValueError: A number is out of range.
        TaskError: The training data are a stream, which may be readable only once; or DeepSpeed holds the model.
        MeasurementError: At the start of training: the optimizer does not hold every trainable parameter; or an
            alarm or a cap for an optimizer whose threshold is not known.

    Example:
        >>> trainer.add_callback(SharpnessCallback(trainer))                     # doctest: +SKIP
        >>> trainer.train()                                                      # doctest: +SKIP
        lrscope: watched 1,000 updates: the learning rate 0.0003 now uses 41% of what curvature allows (0.00073); ...
    """

    def __init__(
        self,
        trainer: Any,
        batches: Iterable[Any] | None = None,
        *,
        num_batches: int = 1,
        loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
        every: Every = "auto",
        budget: float | None = BUDGET,
        alarm: int | None = None,
        cap: float | None = None,
    ) -> None:
        require_trainer(trainer)
        check_options(every, budget, alarm, cap)
        if isinstance(num_batches, bool) or not isinstance(num_batches, int) or num_batches < 1:
            raise ValueError(f"num_batches: expected a positive number of micro-batches, got {num_batches!r}")
        if trainer.is_deepspeed_enabled:
            raise TaskError(
                "trainer: DeepSpeed holds parameters and makes updates itself, so there is no loss as a function of "
                "them to measure; run without it, with DDP or fully_shard"
            )
        if batches is None and not hasattr(trainer.train_dataset, "__len__"):
            raise TaskError(
                f"trainer: its training data ({type(trainer.train_dataset).__name__}) have no length, so they may be "
                "readable only once; give SharpnessCallback(trainer, batches=[...]) what the collator makes"
            )
        self.trainer = trainer
        self.num_batches, self.loss_fn = num_batches, loss_fn
        self.options: dict[str, Any] = {"every": every, "budget": budget, "alarm": alarm, "cap": cap}
        self.events: list[Event] = []
        self._given = None if batches is None else list(batches)
        self._measuring: Measuring | None = None
        self._checkpoint: str | None = None
        self._listen()

    def _listen(self) -> None:
        """Hear which checkpoint is resumed from: the Trainer tells it to nobody else."""
        trainer = self.trainer
        load = trainer._load_optimizer_and_scheduler

        def load_and_note(checkpoint: Any) -> Any:
            self._checkpoint = checkpoint
            return load(checkpoint)

        trainer._load_optimizer_and_scheduler = load_and_note

    # -- the Trainer's hooks -------------------------------------------------------------------------------------

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self._measuring is not None:  # train() was called once more
            self._measuring.gauge.close()
        trainer = self.trainer
        batches = self._first_batches() if self._given is None else self._given
        with isolated_rng():
            batches = [trainer._prepare_inputs(dict(b) if hasattr(b, "items") else b) for b in batches]
        objective = Objective(trainer.model_wrapped, self._loss, batches)
        measuring = self._measuring = Measuring(objective, trainer.optimizer, self.options)
        self.events = measuring.events
        if state.global_step:
            self._resume(measuring, state.global_step)
        self._checkpoint = None

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self._measuring is not None:
            metrics = self._measuring.step(state.global_step)
            if metrics:
                self.trainer.log(metrics)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self._measuring is None or not args.should_save or args.save_only_model:
            return
        folder = self._folder(state.global_step)
        if folder.is_dir():
            saved = {"step": state.global_step, "state": self._measuring.state_dict()}
            torch.save(saved, folder / f"{FILE}.part")
            os.replace(folder / f"{FILE}.part", folder / FILE)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        if self._measuring is not None:
            self._measuring.end()

    # -- ------------------------------------------------------------------------------------------------------------

    def _first_batches(self) -> list[Any]:
        """Of the run's data order, dealt out to the processes; no loader or sampler of the run is touched."""
        trainer, args = self.trainer, self.trainer.args
        seed = args.seed if args.data_seed is None else args.data_seed
        with undisturbed(trainer, plain=True), isolated_rng(seed):
            loader = trainer.get_train_dataloader()
            mine = islice(loader, args.process_index, None, args.world_size)
            batches = list(islice(mine, self.num_batches))
        if not batches:
            raise TaskError(
                f"trainer: its training loader has no batch for process {args.process_index} of {args.world_size}; "
                "give SharpnessCallback(trainer, batches=[...])"
            )
        return batches

    def _loss(self, model: nn.Module, batch: Any) -> Tensor:
        if self.loss_fn is not None:
            return self.loss_fn(model, batch)
        trainer = self.trainer
        with unchanged(trainer), trainer.compute_loss_context_manager():
            return trainer.compute_loss(model, dict(batch))  # compute_loss takes the labels out

    def _folder(self, step: int) -> Path:
        run = self.trainer._get_output_dir(trial=getattr(self.trainer, "_trial", None))
        return Path(run, f"checkpoint-{step}")

    def _resume(self, measuring: Measuring, step: int) -> None:
        file = (Path(self._checkpoint) if self._checkpoint else self._folder(step)) / FILE
        objective = measuring.gauge.objective
        device = objective.point().device
        # All processes go on from it or none: they must decide alike what to measure when.
        if objective.ranks.add(float(file.is_file()), device) < objective.ranks.size:
            warnings.warn(
                f"SharpnessCallback: {file} is not there (on every process), so readings, alarm and cap begin "
                f"anew at update {step}",
                LrscopeWarning,
                stacklevel=2,
            )
            return
        measuring.load_state_dict(torch.load(file, map_location=device, weights_only=True)["state"])
