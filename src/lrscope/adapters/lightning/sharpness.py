"""A callback that measures how the Trainer's learning rate stands to what curvature allows."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lrscope.adapters.lightning.as_task import takes_index
from lrscope.adapters.measuring import Measuring
from lrscope.adapters.unchanged import unchanged
from lrscope.errors import LrscopeWarning, TaskError
from lrscope.isolation import isolated_rng
from lrscope.objective import Objective
from lrscope.records import Event
from lrscope.stability.gauge import BUDGET, Every, check_options

LossFn = Callable[[nn.Module, Any], Tensor]


class SharpnessCallback:
    """A Lightning callback that logs sharpness and headroom of the live model while a Trainer trains it.

    - **What is measured** is the loss of ``training_step``, on batches that stay the same for the whole run, on the
      model as it is trained: in the Trainer's precision, compiled, in DistributedDataParallel; then every process
      measures its own batches and the readings are those over all of them. Dropout is off, ``batch_idx`` is 1.
    - **Logged** to every logger, at the steps that Lightning counts: ``curvature/lambda_max`` (for Adam that of the
      preconditioned Hessian), ``curvature/residual``, ``curvature/stable_lr`` and ``curvature/headroom``, the
      learning rate divided by ``stable_lr``. Readings are made before the first micro-batch of an update, so once
      per update at most.
    - **No trace.** Without a cap, a run ends bit for bit as it would without the callback: parameters, gradients,
      random states, loaders, the gradient scaler, running metrics. While measuring, ``self.log``, ``self.log_dict``
      and ``self.print`` do nothing, and what the step sets, appends or counts on the module is taken back.
    - **Resume.** Its state, the batches included, travels in Lightning's checkpoints: about 56 vectors as long as all
      parameters together, but at most 1 GiB.

    Args:
        batches: What is measured, as the training loader gives it; on several processes, those of this one. By
            default the first batch that is trained on.
        loss_fn: ``loss_fn(module, batch)`` -> mean loss over the batch, instead of ``training_step``; manual
            optimization, where that makes updates, needs it.
        every: Updates between readings, or ``"auto"``: at the pace that the readings ask for, within ``budget``.
        budget: With ``"auto"``, gradients of the measured batches per update that readings may cost, on average. A
            reading takes about ten, the first one more; ``None``: no limit.
        alarm: Readings in a row with headroom above 1 after which to warn, once; ``None``: never.
        cap: Headroom that the learning rate is kept at; ``None``: the learning rate is left alone. Schedulers and
            monitors see the schedule's own rate, ``lr_used`` is that of the update; see
            :class:`~lrscope.stability.cap.Cap`.

    Attributes:
        events: What happened: a cap that acts, an alarm, a reading that was not possible.

    Raises:
        ValueError: A number is out of range.
        TaskError: At the start of training: several optimizers, or manual optimization without ``loss_fn``.
        MeasurementError: At the first batch: the optimizer does not hold every trainable parameter; or an alarm or a
            cap for an optimizer whose threshold is not known.

    Example:
        .. code-block:: python

            from lightning.pytorch import Trainer
            from lrscope.adapters.lightning import SharpnessCallback

            Trainer(callbacks=[SharpnessCallback()], max_steps=10_000)
    """

    def __init__(
        self,
        batches: Iterable[Any] | None = None,
        *,
        loss_fn: LossFn | None = None,
        every: Every = "auto",
        budget: float | None = BUDGET,
        alarm: int | None = None,
        cap: float | None = None,
    ) -> None:
        check_options(every, budget, alarm, cap)
        self.loss_fn = loss_fn
        self.options: dict[str, Any] = {"every": every, "budget": budget, "alarm": alarm, "cap": cap}
        self.events: list[Event] = []
        self._given = None if batches is None else list(batches)
        self._captured: list[Any] | None = None  # the first batch, of every process, for the checkpoint
        self._measuring: Measuring | None = None
        self._measured_at = -1  # update that was last asked about
        self._saved: Mapping[str, Any] | None = None

    # -- Lightning's hooks, in the order in which they come ------------------------------------------------------

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._saved = state_dict  # there is no optimizer yet

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if self._measuring is not None:  # fit was called once more on the same trainer
            self._saved = self.state_dict()
            self._measuring.gauge.close()
            self._measuring = None
        optimizers = [o for o in trainer.optimizers if o.param_groups]
        if len(optimizers) != 1:
            raise TaskError(
                f"SharpnessCallback: {len(optimizers)} optimizers, and the limit is that of one update of all "
                "parameters; watch each of them in training_step with lrs.Watch(objective, optimizer)"
            )
        if self.loss_fn is None and not pl_module.automatic_optimization:
            raise TaskError(
                "SharpnessCallback: in manual optimization training_step makes updates and is no loss; give "
                "loss_fn= a function of module and batch"
            )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        measuring = self._measuring or self._begin(trainer, pl_module, batch)
        if trainer.global_step == self._measured_at:  # a further micro-batch of the same update
            return
        self._measured_at = trainer.global_step
        metrics = measuring.step(trainer.global_step)
        if metrics:
            for logger in trainer.loggers:  # at the step of Lightning's own logs of this batch
                logger.log_metrics(metrics, step=trainer.fit_loop.epoch_loop._batches_that_stepped)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
        if self._measuring is not None:
            self._measuring.end()

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data, for ``torch.load(weights_only=True)``."""
        if self._measuring is None:
            return dict(self._saved or {})
        return {
            "gauge": self._measuring.state_dict(),
            "batches": self._captured,
            "measured_at": self._measured_at,
        }

    # -- ------------------------------------------------------------------------------------------------------------

    def _begin(self, trainer: Any, module: Any, batch: Any) -> Measuring:
        saved, self._saved = self._saved, None
        if saved and self._given is None and not _holds_batches(saved, trainer):
            warnings.warn(
                "SharpnessCallback: the checkpoint does not hold the batch that was measured (it is of another "
                "number of processes, or the batch is not plain data), so readings, alarm and cap begin anew on the "
                "next one; to go on, give SharpnessCallback(batches=[...])",
                LrscopeWarning,
                stacklevel=2,
            )
            saved = None
        model = trainer.strategy.model

        def loss_fn(_: nn.Module, batch: Any) -> Tensor:
            return self._loss(trainer, module, batch)

        batches = self._batches(trainer, module, batch, saved)
        objective = Objective(model if isinstance(model, nn.Module) else module, loss_fn, batches)
        measuring = Measuring(objective, trainer.optimizers[0], self.options)
        if saved:
            measuring.load_state_dict(saved["gauge"])
            self._measured_at = saved["measured_at"]
        self._measuring, self.events = measuring, measuring.events
        return measuring

    def _batches(self, trainer: Any, module: Any, batch: Any, saved: Mapping[str, Any] | None) -> list[Any]:
        if self._given is not None:
            with isolated_rng():
                return [_ready(trainer, module, given) for given in self._given]
        if saved:
            self._captured = list(saved["batches"])
            return [trainer.strategy.batch_to_device(self._captured[trainer.global_rank])]
        batch = copy.deepcopy(batch)  # the step may change it
        self._captured = _of_all_processes(trainer, batch)
        return [batch]

    def _loss(self, trainer: Any, module: Any, batch: Any) -> Tensor:
        loss = training_loss(trainer, module, batch, self.loss_fn)
        if loss is None:
            raise TaskError(
                "SharpnessCallback: training_step returned no loss for the batch that is measured; give batches= for "
                "which it does, or loss_fn="
            )
        return loss


def training_loss(
    trainer: Any, module: Any, batch: Any, loss_fn: Callable[[nn.Module, Any], Tensor] | None = None
) -> Tensor | None:
    """The loss of ``training_step``, or of ``loss_fn`` instead, without the trace of a step."""
    parts = list(module.modules())
    with unchanged(*parts), trainer.precision_plugin.train_step_context():
        for part in parts:
            if hasattr(part, "training_step"):
                for quiet in ("log", "log_dict", "print"):
                    vars(part)[quiet] = _nothing
        if loss_fn is not None:
            return loss_fn(module, batch)
        step = module.training_step
        out = step(batch, 1) if takes_index(step) else step(batch)
    return out.get("loss") if isinstance(out, Mapping) else out


def _holds_batches(saved: Mapping[str, Any], trainer: Any) -> bool:
    return saved["batches"] is not None and len(saved["batches"]) == trainer.world_size


def _nothing(*_: Any, **__: Any) -> None:
    """Instead of ``self.log`` while measuring."""


def _ready(trainer: Any, module: Any, batch: Any) -> Any:
    """A batch of the user's on its way to ``training_step``, as Lightning sends it."""
    batch = trainer.precision_plugin.convert_input(copy.deepcopy(batch))
    return trainer.strategy.batch_to_device(module._on_before_batch_transfer(batch, dataloader_idx=0))


def _of_all_processes(trainer: Any, batch: Any) -> list[Any] | None:
    """The batch of every process, on the CPU; ``None`` where a checkpoint could not hold it as plain data."""
    file = io.BytesIO()
    torch.save(batch, file)
    file.seek(0)
    try:
        mine = torch.load(file, map_location="cpu", weights_only=True)
        plain = True
    except Exception:  # whatever unpickling refuses
        mine, plain = None, False
    found = [mine]
    if trainer.world_size > 1:
        found = [None] * trainer.world_size
        torch.distributed.all_gather_object(found, mine)
        plain = all(part is not None for part in found)
    return found if plain else None
