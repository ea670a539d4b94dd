"""A task: what is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lrscope.errors import TaskError
from lrscope.isolation import isolated_rng
from lrscope.objective import Batch, LossFn, Objective, num_examples

RESERVED = frozenset(
    ("step", "loss", "lr", "eval_loss", "sharpness", "sharpness_residual", "stable_lr", "headroom", "event", "end")
)
"""Names with a meaning of their own in the record of a run; no metric may take one."""


@dataclass(frozen=True)
class Task:
    """What is trained: a model, a loss, batches to train on and batches to judge by.

    Args:
        build: ``build(seed)`` makes a fresh model; the same seed gives the same parameters. It is called with
            the global generators seeded by ``seed``, so a builder may ignore its argument.
        loss_fn: ``loss_fn(model, batch)`` -> mean loss over the batch, shape ``()``.
        train: Training batches that can be iterated again and again: a ``DataLoader``, a list, or any object
            whose ``iter()`` starts a new epoch. Batches may be tensors, tuples, dicts, or any nest of them.
        evaluate: Batches of the evaluation set; ``None`` if there is none (the training loss then judges).
        metrics: ``name -> fn(model, batch)``, a mean over the batch, shape ``()``; weighted by examples. Not under a
            name that a run's record uses itself, such as ``loss`` or ``lr``.
        name: Shown on every screen.
        count: Number of examples in a batch.
        steps: Updates of one ordinary full run; what the command line uses when ``--steps`` is not given.
        device: Where the model and the batches are moved.
        eval_loss_fn: What is reported as ``eval_loss``, if not ``loss_fn``: for a task whose training follows another
            loss than its own, such as a teacher's (:func:`lrscope.tasks.distill`).

    Raises:
        TaskError: A field has the wrong type, ``train`` can be read only once, or a metric has a reserved name.
    """

    build: Callable[[int], nn.Module]
    loss_fn: LossFn
    train: Iterable[Batch]
    evaluate: Iterable[Batch] | None = None
    metrics: Mapping[str, Callable[[nn.Module, Batch], Tensor]] = field(default_factory=dict)
    name: str = "task"
    count: Callable[[Batch], int] = num_examples
    steps: int | None = None
    device: str = "cpu"
    eval_loss_fn: LossFn | None = None

    def __post_init__(self) -> None:
        for what in ("build", "loss_fn", "count"):
            if not callable(getattr(self, what)):
                raise TaskError(f"Task({what}=): expected a function, got {type(getattr(self, what)).__name__}")
        if self.eval_loss_fn is not None and not callable(self.eval_loss_fn):
            raise TaskError(f"Task(eval_loss_fn=): expected a function, got {type(self.eval_loss_fn).__name__}")
        if isinstance(self.build, nn.Module):
            raise TaskError(
                "Task(build=): got a model, but every run needs a fresh one; give a function of the seed, "
                "for example build=lambda seed: MyModel()"
            )
        for what in ("train", "evaluate"):
            batches = getattr(self, what)
            if batches is None and what == "evaluate":
                continue
            if not isinstance(batches, Iterable):
                raise TaskError(f"Task({what}=): expected batches to iterate over, got {type(batches).__name__}")
            # Not by calling iter(): a DataLoader would draw from its generator, or start its workers.
            if isinstance(batches, Iterator):
                raise TaskError(
                    f"Task({what}=): got a one-shot iterator ({type(batches).__name__}), which is empty after one "
                    "epoch; give a DataLoader, a list, or an object whose __iter__ starts a new epoch"
                )
        if not isinstance(self.metrics, Mapping):
            raise TaskError(
                f"Task(metrics=): expected a dict from names to fn(model, batch), got {type(self.metrics).__name__}"
            )
        for metric, fn in self.metrics.items():
            if not isinstance(metric, str) or metric in RESERVED:
                raise TaskError(
                    f"Task(metrics=): {metric!r} cannot name a metric; give any text but "
                    f"{', '.join(sorted(RESERVED))}, which mean something else in the record of a run"
                )
            if not callable(fn):
                raise TaskError(f"Task(metrics=): {metric!r} is a {type(fn).__name__}, expected fn(model, batch)")
        if not isinstance(self.name, str):
            raise TaskError(f"Task(name=): expected text, got {self.name!r}")
        whole = isinstance(self.steps, int) and not isinstance(self.steps, bool)
        if self.steps is not None and (not whole or self.steps < 1):
            raise TaskError(f"Task(steps=): expected a positive integer, got {self.steps!r}")

    def model(self, seed: int) -> nn.Module:
        """A fresh model on the task's device; global random states are left as they were."""
        with isolated_rng(seed):
            model = self.build(seed)
        if not isinstance(model, nn.Module):
            raise TaskError(
                f"Task(build=): build({seed}) returned {type(model).__name__}, expected a torch.nn.Module"
            )
        return model.to(self.device)

    def to_device(self, batch: Batch) -> Batch:
        if self.device == "cpu":
            return batch
        return pytree.tree_map_only(Tensor, lambda t: t.to(self.device, non_blocking=True), batch)

    def batches(self, num: int | None = None, *, seed: int = 0, of: str = "train") -> list[Batch]:
        """The first ``num`` batches of an epoch (all, if ``None``), leaving the loader as it was found."""
        from lrscope.tasks.stream import BatchStream

        source = self.train if of == "train" else self.evaluate
        if source is None:
            return []
        return [self.to_device(b) for b in islice(BatchStream(source, seed).epoch(), num)]

    def objective(self, seed: int = 0, *, num_batches: int = 1, model: nn.Module | None = None) -> Objective:
        """The training loss over ``num_batches`` batches, at the initialisation of ``seed`` or of ``model``."""
        model = self.model(seed) if model is None else model
        return Objective(model, self.loss_fn, self.batches(num_batches, seed=seed), count=self.count)

    def check(self) -> None:
        """Try the task once, before any work: build, one batch, loss, gradient, evaluation, metrics.

        Leaves no trace. Cost: a few forward passes and one gradient.

        Raises:
            TaskError: With the part at fault, what came, what is expected and what to do.
        """
        from lrscope.tasks.check import check

        check(self)
