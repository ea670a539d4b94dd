"""The loss surface that a landscape is measured on: a task's or an objective's, over its data, at many points."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrscope.errors import TaskError
from lrscope.isolation import mode_of, seed_everything
from lrscope.landscape.forward import OneForward
from lrscope.landscape.path import Points
from lrscope.landscape.points import Point, Read, agree, read
from lrscope.landscape.statistics import Statistics
from lrscope.landscape.together import Evaluator
from lrscope.objective import Batch, FunctionalLoss, Objective, checked
from lrscope.records import Cost
from lrscope.tasks import BatchStream, Task

Target = Task | Objective
"""What a landscape is of: a task (training and evaluation set, loss and metrics), or an objective (its loss)."""
OnProgress = Callable[[int, int], None]
"""Called now and then with the work done and the work in all."""


@dataclass(frozen=True, eq=False)
class Values:
    """What was measured at K points.

    Attributes:
        means: By column (``"train_loss"``, ``"test_error"``, ...), shape ``(K,)``, float64.
        batches: The same, batch by batch, ``(K, B)``.
        examples: In those batches, by set (``"train"``, ``"test"``), ``(B,)``.
        cost: Forward passes, in units of a training batch.
    """

    means: dict[str, np.ndarray]
    batches: dict[str, np.ndarray]
    examples: dict[str, np.ndarray]
    cost: Cost


@dataclass
class DataSet:
    """One set of batches that can be gone through again and again, always the same."""

    name: str
    epoch: Callable[[], Iterator[Batch]]
    functions: dict[str, Callable[[nn.Module, Batch], Any]] = field(default_factory=dict)


class Surface:
    """Evaluates parameter vectors on the data of a task or an objective, leaving no trace on either.

    Of a task the training set is one epoch as its loader gives it (augmentation drawn once, the same at every point)
    and the test set is ``task.evaluate``; the network is in eval mode, and BatchNorm's statistics are recomputed on
    the training set at every point. An objective is measured as it is: in its mode, on its batches, the loss alone;
    in eval mode, statistics are recomputed on these batches.

    Args:
        target: The task or objective.
        num_batches: Training batches at most, for a task; all by default.
        refresh: Recompute BatchNorm's statistics. Without, those of the network given first are used everywhere.

    Raises:
        TypeError: ``target`` is neither.
        TaskError: The model is spread over several processes.
    """

    def __init__(self, target: Target, *, num_batches: int | None = None, refresh: bool = True) -> None:
        if num_batches is not None and (not isinstance(num_batches, int) or num_batches < 1):
            raise ValueError(
                f"num_batches: expected a positive number of training batches or None, got {num_batches!r}"
            )
        self.task = target if isinstance(target, Task) else None
        if isinstance(target, Task):
            first = target.batches(1)
            if not first:
                raise TaskError("Task(train=): an epoch holds no batch, so there is no loss to measure")
            self.objective = Objective(target.model(0), target.loss_fn, first, count=target.count, mode="eval")
            train = _columns("train", lambda: _epoch(target, "train", num_batches), target)
            self.sets = [train]
            if target.evaluate is not None:
                self.sets.append(_columns("test", lambda: _epoch(target, "evaluate", None), target))
        elif isinstance(target, Objective):
            if num_batches is not None:
                raise ValueError("num_batches: an objective has its own batches; give num_batches with a task only")
            self.objective = target
            self.sets = [DataSet("train", lambda: iter(target.batches), {"loss": target.loss_fn})]
        else:
            raise TypeError(
                f"target: expected a lrs.Task or a lrs.Objective, got {type(target).__name__}; a landscape needs a "
                "loss and data besides the network: lrs.Objective(model, loss_fn, batches)"
            )
        if self.objective.ranks.size > 1 or self.objective.sharded:
            raise TaskError(
                "target: its model is spread over several processes, and a landscape is measured in one; give the "
                "plain module with the gathered weights"
            )
        self.model, self.layout = self.objective.model, self.objective.layout
        self.count = self.objective.count
        self.unit = self.count(self.objective.batches[0])
        eval_mode = self.objective.mode == "eval"
        self.statistics = Statistics(self.model)
        self.refreshes = bool(self.statistics) and eval_mode and refresh
        self._fixed_statistics = bool(self.statistics) and eval_mode and not refresh
        self.rest = self._all_but_theta()

    @property
    def dtype(self) -> torch.dtype:
        return self.model.get_parameter(self.layout.names[0]).dtype

    def require(self, of: str) -> None:
        """Refuse a column that :meth:`evaluate` would not measure, before it does."""
        columns = [_error_name(f"{data.name}_{name}") for data in self.sets for name in data.functions]
        if of not in columns:
            raise ValueError(f"of: {of!r} is not measured here; choose one of {', '.join(columns)}")
        if not of.endswith(("_loss", "_error")):
            raise ValueError(f"of: {of!r} may be good when high; barriers are of losses and errors")

    def read(self, *points: Point, names: Iterable[str] = ("a", "b", "c")) -> list[Tensor]:
        """Points as vectors, and what they bring besides as what this surface holds fixed."""
        found = [
            read(name, p, self.model, self.layout) for name, p in zip(_names(names, len(points)), points, strict=True)
        ]
        for each in found:
            if not bool(torch.isfinite(each.theta).all()):
                name = next(iter(_names(names, len(points))[found.index(each) :]))
                raise TaskError(f"{name}: holds parameters that are not finite, of a run that diverged; give another")
        skip = () if self._fixed_statistics else self.statistics.names
        given = [each for each in found if each.rest]
        rest = self.rest
        for each in given or [Read(found[0].theta, {})]:
            rest = agree(given[0] if given else each, each, skip, rest)
        self.rest = {k: v.clone() for k, v in rest.items()}
        return [each.theta for each in found]

    @contextmanager
    def measuring(self) -> Iterator[Evaluator]:
        """The model in its mode, all random states and modes put back afterwards; gives what evaluates points."""
        with ExitStack() as stack:
            stack.enter_context(self.objective.undisturbed())
            stack.enter_context(torch.no_grad())
            once = None
            if self.task is not None:  # the model is our own
                once = stack.enter_context(OneForward(self.model))
            yield Evaluator(self.objective.functional, self.layout, self.rest, self.statistics, once)

    def evaluate(self, points: Points, *, on_progress: OnProgress | None = None) -> Values:
        """Loss and metrics at every point, over all sets.

        Data are read once (twice where statistics are recomputed), however many points there are; where the model
        allows, several points are computed as one batched program.
        """
        started = time.perf_counter()
        columns: dict[str, np.ndarray] = {}
        by_batch: dict[str, np.ndarray] = {}
        examples: dict[str, np.ndarray] = {}
        seen, passes = 0, len(self.sets) + self.refreshes
        with self.measuring() as evaluator:
            evaluator.at(points)
            if self.refreshes:
                seen += self._refresh(evaluator)
                if on_progress is not None:
                    on_progress(1, passes)
            for i, data in enumerate(self.sets, start=1 + self.refreshes):
                counts, rows = [], []
                for batch in data.epoch():
                    counts.append(self.count(batch))
                    rows.append(evaluator.values(data.functions, batch))
                if not rows:
                    raise TaskError(f"Task: its {data.name} set holds no batch, so there is nothing to measure on")
                n = np.array(counts, dtype=np.float64)
                seen += int(n.sum()) * evaluator.calls(len(data.functions))
                table = np.stack(rows, axis=2)  # (columns, K, B)
                examples[data.name] = n
                for name, part in zip(data.functions, table, strict=True):
                    column, value = _as_error(f"{data.name}_{name}", part)
                    by_batch[column] = value
                    columns[column] = (value * (n / n.sum())).sum(axis=1)
                if on_progress is not None:
                    on_progress(i, passes)
        cost = Cost(forwards=seen * len(points) / self.unit, seconds=time.perf_counter() - started)
        return Values(columns, by_batch, examples, cost)

    def network(self, theta: Tensor) -> dict[str, Tensor]:
        """Parameters and buffers of the network at ``theta``, by name, its statistics recomputed."""
        statistics: dict[str, Tensor] = {}
        if self.refreshes:
            with self.measuring() as evaluator:
                evaluator.at(Points((theta,), np.ones((1, 1)), self.dtype))
                self._refresh(evaluator)
                statistics = evaluator.gathered(0)
        return {**self.rest, **statistics, **self.layout.unflatten(theta)}

    def _refresh(self, evaluator: Evaluator) -> int:
        total = 0
        with self.statistics.gathering():
            for batch in self.sets[0].epoch():
                n = self.count(batch)
                total += n
                self.statistics.weigh(n / total)
                evaluator.gather({"loss": self.objective.loss_fn}, batch)
        return total

    def _all_but_theta(self) -> dict[str, Tensor]:
        trained = set(self.layout.names)
        frozen = {k: p.detach() for k, p in self.model.named_parameters() if k not in trained}
        return {**{k: b.detach() for k, b in self.model.named_buffers()}, **frozen}

    @contextmanager
    def training(self, seed: int) -> Iterator[None]:
        """The model as it is trained: a task's in train mode with its dropout, an objective's as it is measured."""
        with self.objective.undisturbed():
            if self.task is None:
                yield
                return
            seed_everything(seed)
            with mode_of(self.model, training=True):
                yield

    def functional(self) -> FunctionalLoss:
        """The loss in training, with dropout for a task."""
        return FunctionalLoss(self.model, self.objective.loss_fn, dropout=self.task is not None)

    def loss(self, batch: Batch) -> Tensor:
        return checked(self.objective.loss_fn(self.model, batch))

    def stream(self, seed: int) -> Iterator[Batch]:
        """Training batches without an end, epoch after epoch."""
        if self.task is not None:
            task = self.task
            return (task.to_device(batch) for batch in BatchStream(task.train, seed))
        return iter(BatchStream(_Shuffled(self.objective.batches), seed))


class _Shuffled:
    """An objective's batches, in a new order each epoch."""

    draws_only_at_start = True

    def __init__(self, batches: tuple[Batch, ...]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Batch]:
        return (self.batches[i] for i in torch.randperm(len(self.batches)).tolist())


def _epoch(task: Task, of: str, num: int | None) -> Iterator[Batch]:
    source = task.train if of == "train" else task.evaluate
    assert source is not None
    return (task.to_device(batch) for batch in islice(BatchStream(source, 0).epoch(), num))


def _columns(name: str, epoch: Callable[[], Iterator[Batch]], task: Task) -> DataSet:
    def loss(model: nn.Module, batch: Batch) -> Tensor:
        return checked(task.loss_fn(model, batch))

    return DataSet(name, epoch, {"loss": loss, **task.metrics})


def _as_error(column: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    """Accuracy as its complement, so that in all columns that barriers are asked of, low is good."""
    name = _error_name(column)
    return name, value if name == column else 1 - value


def _error_name(column: str) -> str:
    return column.removesuffix("accuracy") + "error" if column.endswith("_accuracy") else column


def _names(names: Iterable[str], count: int) -> list[str]:
    given = list(islice(names, count))
    return given + [f"point {i}" for i in range(len(given), count)]
