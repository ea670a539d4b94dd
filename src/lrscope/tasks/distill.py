"""A student trained on what a teacher says: the soft targets of another network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lrscope.errors import TaskError
from lrscope.isolation import isolated_rng, mode_of
from lrscope.objective import Batch
from lrscope.tasks.check import describe, one_line
from lrscope.tasks.task import Task

Logits = Callable[[nn.Module, Batch], Tensor]


def distill(
    task: Task,
    teacher: nn.Module,
    temperature: float = 5.0,
    weight: float = 1.0,
    *,
    scale: bool = True,
    logits: Logits | None = None,
) -> Task:
    r"""``task`` with a loss that follows the teacher's softened probabilities.

    .. math:: L = w \tau^2 \, \frac1B \sum_b \sum_k -q_{bk} \log p_{bk} + (1 - w) L_{task}, \qquad
              q = \mathrm{softmax}(z_T / \tau), \; p = \mathrm{softmax}(z_S / \tau)

    The cross-entropy is the Kullback-Leibler divergence from student to teacher plus the teacher's entropy, a
    constant: both have the same gradient, :math:`w \tau (p - q) / B` in each logit. Its floor is that entropy times
    :math:`\tau^2`, not 0. What is reported as ``eval_loss``, and the metrics, are those of ``task``: runs with and
    without a teacher are judged alike.

    **The learning rate is not that of the task.** With ``scale`` the gradient of the soft part has about the size of
    that of hard labels whatever the temperature; without it, it is :math:`\tau^2` times smaller. Either way tune the
    rate for each loss (:func:`lrscope.plan` does), or the comparison is one of learning rates.

    Args:
        task: What the student learns; its ``build`` makes the student.
        teacher: A trained network on the same batches. It is copied, the copy put into eval mode and never trained;
            it is no part of the student, so neither the optimizer nor a checkpoint sees it.
        temperature: :math:`\tau > 0`. Large ones compare the logits themselves: the gradient tends to that of
            :math:`\frac{1}{2K} \| z_S - \bar z_S - z_T + \bar z_T \|^2` over K classes.
        weight: :math:`w` in [0, 1]: 1 is the teacher alone, 0 the task's own loss.
        scale: Multiply the soft part by :math:`\tau^2`.
        logits: ``logits(model, batch)`` -> scores over the classes in the last dimension, for student and teacher
            alike. By default the model is called with the first element of a batch, with a batch that is a tensor, or
            with the entries of a mapping as keywords; of an output with ``.logits`` these are taken.

    Raises:
        TypeError: ``teacher`` is no module.
        ValueError: ``temperature`` or ``weight`` is out of range.
        TaskError: Logits of the first batch cannot be had, or student and teacher have different numbers of classes.

    Cost: a forward pass of the teacher per step. With ``weight`` between 0 and 1 the student still makes one: its
    output is kept where loss and ``logits`` call it with the same tensor. Before training: one forward pass of each.

    References:
        Hinton, Vinyals, Dean, "Distilling the Knowledge in a Neural Network", 2015, arXiv 1503.02531, section 2.

    Example:
        >>> from lrscope.tasks import digits
        >>> task = digits()
        >>> student = distill(task, teacher=task.model(0), temperature=5.0, weight=0.9)
        >>> student.name
        'digits-mlp-distilled'
    """
    if not isinstance(task, Task):
        raise TypeError(f"task: expected a lrscope Task, got {type(task).__name__}; wrap it in lrs.Task(build=…)")
    if not isinstance(teacher, nn.Module):
        raise TypeError(f"teacher: expected a torch.nn.Module, got {type(teacher).__name__}; load it into its model")
    if not _is_number(temperature) or not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature: expected a number above 0, got {temperature!r}; 1 leaves the logits as they are"
        )
    if not _is_number(weight) or not 0 <= weight <= 1:
        raise ValueError(f"weight: expected a share between 0 and 1, got {weight!r}; 1 is the teacher alone")
    if logits is not None and not callable(logits):
        raise TypeError(f"logits: expected a function of (model, batch), got {type(logits).__name__}")
    loss = DistillationLoss(task, _frozen(teacher), temperature, weight, scale, logits or logits_of)
    loss.try_out()
    judge = task.eval_loss_fn or task.loss_fn
    return replace(task, loss_fn=loss, eval_loss_fn=judge, name=f"{task.name}-distilled")


class DistillationLoss:
    """The loss of :func:`distill`, as a function of student and batch; it holds the teacher."""

    def __init__(
        self, task: Task, teacher: nn.Module, temperature: float, weight: float, scale: bool, logits: Logits
    ) -> None:
        self.task, self.teacher, self.logits = task, teacher, logits
        self.temperature, self.weight = float(temperature), float(weight)
        self.factor = self.weight * (self.temperature**2 if scale else 1.0)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        if self.weight == 0:
            return self.task.loss_fn(model, batch)
        if self.weight == 1:
            return self.factor * self.soft(self.logits(model, batch), batch)
        with _one_pass(model):
            soft = self.soft(self.logits(model, batch), batch)
            return self.factor * soft + (1 - self.weight) * self.task.loss_fn(model, batch)

    def soft(self, student: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy between the softened probabilities, mean over all predictions, shape ``()``."""
        target = F.softmax(self.taught(batch, student) / self.temperature, -1)
        return -(target * F.log_softmax(student / self.temperature, -1)).sum(-1).mean()

    @torch.no_grad()
    def taught(self, batch: Batch, like: Tensor) -> Tensor:
        """The teacher's logits of ``batch``, on the device and in the precision of the student's."""
        held = next(self.teacher.parameters(), None)
        if held is not None and held.device != like.device:  # the task was moved since
            self.teacher.to(like.device)
        return self.logits(self.teacher, batch).to(like.dtype)

    @torch.no_grad()
    def try_out(self) -> None:
        """Logits of the first batch, before any work. Nothing is left behind.

        Raises:
            TaskError: They cannot be had, or do not fit.
        """
        with isolated_rng(0):
            model = self.task.model(0)
            found = self.task.batches(1)
            if not found:
                raise TaskError("train: an epoch holds no batch, so there is nothing for the teacher to tell")
            self.teacher.to(self.task.device)
            with mode_of(model, training=False):
                student = self._logits(model, "student", found[0])
            teacher = self._logits(self.teacher, "teacher", found[0])
        if student.shape[-1] != teacher.shape[-1]:
            raise TaskError(
                f"teacher: it tells {teacher.shape[-1]} classes apart and the student {student.shape[-1]}, so their "
                "probabilities cannot be compared; give a teacher of the same classes, or logits= that selects them"
            )
        if student.shape != teacher.shape:
            raise TaskError(
                f"teacher: its logits have shape {tuple(teacher.shape)} and the student's {tuple(student.shape)} on "
                "the same batch; give logits= that brings both to one shape"
            )

    def _logits(self, model: nn.Module, who: str, batch: Batch) -> Tensor:
        try:
            found = self.logits(model, batch)
        except TaskError:
            raise
        except Exception as error:
            raise TaskError(
                f"{who}: called with the first batch, {describe(batch)}, it raised {one_line(error)}; give logits= a "
                "function of (model, batch)"
            ) from error
        if not isinstance(found, Tensor) or found.ndim < 2 or not found.is_floating_point():
            came = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise TaskError(
                f"{who}: expected logits of shape (B, classes), got {came}; give logits= a function of (model, batch)"
            )
        return found


def logits_of(model: nn.Module, batch: Batch) -> Tensor:
    """What the model answers to the first element of a batch, or to a mapping as keywords."""
    if isinstance(batch, Mapping):
        answer: Any = model(**batch)
    else:
        answer = model(batch[0] if isinstance(batch, (tuple, list)) else batch)
    return getattr(answer, "logits", answer)


def _frozen(teacher: nn.Module) -> nn.Module:
    """A copy in eval mode that nothing trains; the one given may go on training."""
    try:
        teacher = copy.deepcopy(teacher)
    except Exception as error:
        raise TaskError(f"teacher: it could not be copied ({one_line(error)}); give a plain module") from error
    for module in teacher.modules():
        module.training = False
    for p in teacher.parameters():
        p.requires_grad_(False)
        p.grad = None
    return teacher


@contextmanager
def _one_pass(model: nn.Module) -> Iterator[None]:
    """In the block a second call of ``model`` with the very same objects gets the first one's answer.

    Loss and logits want the same forward pass. Run twice it would cost twice, move BatchNorm's statistics twice, and
    draw two dropout masks.
    """
    forward, own = model.forward, vars(model).get("forward")
    answers: list[tuple[tuple[Any, ...], dict[str, Any], Any]] = []

    def once(*args: Any, **kwargs: Any) -> Any:
        for before, named, answer in answers:
            same = len(before) == len(args) and all(a is b for a, b in zip(before, args, strict=True))
            if same and named.keys() == kwargs.keys() and all(named[k] is kwargs[k] for k in named):
                return answer
        answers.append((args, kwargs, forward(*args, **kwargs)))
        return answers[-1][2]

    model.forward = once
    try:
        yield
    finally:
        if own is None:
            del model.forward
        else:
            model.forward = own


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
