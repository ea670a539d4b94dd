"""The training loss as a function of the flat parameter vector theta."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from lrscope.errors import TaskError
from lrscope.isolation import isolated_rng, mode_of
from lrscope.params import ParamLayout
from lrscope.records import Cost

Batch = Any
LossFn = Callable[[nn.Module, Batch], Tensor]


def num_examples(batch: Batch) -> int:
    """Examples in a batch: the leading dimension of its first tensor.

    Raises:
        TaskError: The batch holds no tensor with a leading dimension.
    """
    for leaf in pytree.tree_leaves(batch):
        if isinstance(leaf, Tensor) and leaf.ndim > 0:
            return leaf.shape[0]
    raise TaskError(
        f"batch: a {type(batch).__name__} without a tensor that has a leading (example) dimension, so it cannot "
        "be weighted; give count= a function from a batch to its number of examples"
    )


class FunctionalLoss:
    """``loss_fn(model, batch)`` as a pure function of parameters and buffers.

    Works under ``torch.func`` transforms: the model is called with the tensors given, its own are never touched.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        self.model = model
        self._call = _LossModule(model, loss_fn)

    def buffers(self) -> dict[str, Tensor]:
        """Clones of the model's buffers (BatchNorm statistics and the like), by name."""
        return {name: b.detach().clone() for name, b in self.model.named_buffers()}

    def __call__(self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], batch: Batch) -> Tensor:
        """Loss, shape ``()``. A module that updates its buffers in place updates the ones given here."""
        tensors = {f"model.{k}": v for k, v in params.items()} | {f"model.{k}": v for k, v in buffers.items()}
        return torch.func.functional_call(self._call, tensors, (batch,))


class _LossModule(nn.Module):
    def __init__(self, model: nn.Module, loss_fn: LossFn) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = loss_fn

    def forward(self, batch: Batch) -> Tensor:
        return self.loss_fn(self.model, batch)


class Objective:
    r"""The loss over the given batches as a function of theta.

    .. math:: L(\theta) = \sum_b n_b L_b(\theta) / \sum_b n_b

    with :math:`n_b` the examples in batch b, so that splitting the data into other batches changes nothing
    (for losses that are means over examples; BatchNorm in train mode is the known exception).

    The model is left untouched: parameters, buffers, modes, ``.grad`` and random states are after every call
    what they were before, also when the call raises. ``L`` is a deterministic function: dropout layers are off
    and any other draw repeats, because each evaluation starts from the same seed.

    Args:
        model: Any module whose loss can be differentiated.
        loss_fn: ``loss_fn(model, batch)`` -> mean loss over the batch, shape ``()``.
        batches: The batches L is the mean over, as a list or another iterable. Read once, here, and kept.
        count: Number of examples in a batch.
        mode: ``"train"`` uses batch statistics where the model has BatchNorm, as training does; ``"eval"`` uses
            the running ones.

    Attributes:
        size: P, the number of trainable parameters.
        batches: The batches, as a tuple.
        spent: :class:`~lrscope.records.Cost` so far, in evaluations over all batches.

    Raises:
        TypeError: Of the model, the loss function or the batches; one batch alone must be wrapped, ``[batch]``.
        TaskError: No trainable parameters, no batches, or a loss that is not a scalar.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn,
        batches: Iterable[Batch],
        *,
        count: Callable[[Batch], int] = num_examples,
        mode: Literal["train", "eval"] = "train",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        if not callable(loss_fn):
            raise TypeError(f"loss_fn: expected a function loss_fn(model, batch), got {type(loss_fn).__name__}")
        if mode not in ("train", "eval"):
            raise ValueError(f"mode: expected 'train' or 'eval', got {mode!r}")
        if _is_one_batch(batches):
            raise TypeError(
                f"batches: expected a list of batches, got a {type(batches).__name__}"
                f"{' of tensors' if isinstance(batches, tuple) else ''}, which looks like one batch; wrap one batch: "
                "[batch] (and several in a list)"
            )
        with isolated_rng():
            self.batches: tuple[Batch, ...] = tuple(batches)
        if not self.batches:
            raise TaskError("batches: empty, so there is no loss to measure; give at least one batch")
        self.model = model
        self.loss_fn = loss_fn
        self.count = count
        self.mode: Literal["train", "eval"] = mode
        self.layout = ParamLayout.of(model)
        self.functional = FunctionalLoss(model, loss_fn)
        counts = [count(batch) for batch in self.batches]
        if min(counts) <= 0:
            raise TaskError(f"batches: batch {counts.index(min(counts))} holds {min(counts)} examples")
        self.weights: tuple[float, ...] = tuple(n / sum(counts) for n in counts)
        self.spent = Cost()

    @property
    def size(self) -> int:
        return self.layout.size

    def __repr__(self) -> str:
        return (
            f"Objective({type(self.model).__name__}, {self.size:,} parameters, {len(self.batches)} batches, "
            f"mode={self.mode!r})"
        )

    def point(self) -> Tensor:
        """The model's current theta, a new vector of shape ``(P,)``."""
        return self.layout.point(self.model)

    def each(self) -> Iterator[Objective]:
        """One objective per batch, over the same model."""
        for batch in self.batches:
            yield Objective(self.model, self.loss_fn, [batch], count=self.count, mode=self.mode)

    def __call__(self, theta: Tensor) -> Tensor:
        """L(theta), shape ``()``, differentiable in theta, shape ``(P,)``."""
        self._check(theta)
        with self.undisturbed():
            parts = [w * self.batch_loss(theta, b) for w, b in zip(self.weights, self.batches, strict=True)]
            return torch.stack(parts).sum()

    @torch.no_grad()
    def loss(self, theta: Tensor | None = None) -> float:
        """L(theta) as a number; cost: one forward pass over the batches."""
        value = self(self.point() if theta is None else theta)
        self.spent += Cost(forwards=1)
        return float(value)

    def loss_and_grad(self, theta: Tensor) -> tuple[float, Tensor]:
        """L(theta) and its gradient, shape ``(P,)``; cost: one gradient. One batch's graph is alive at a time."""
        self._check(theta)
        theta = theta.detach().requires_grad_()
        loss, grad = 0.0, torch.zeros_like(theta)
        with self.undisturbed(), torch.enable_grad():
            for weight, batch in zip(self.weights, self.batches, strict=True):
                part = self.batch_loss(theta, batch)
                grad += weight * torch.autograd.grad(part, theta)[0]
                loss += weight * float(part.detach())
        self.spent += Cost(gradients=1)
        return loss, grad

    def grad(self, theta: Tensor) -> Tensor:
        """Gradient of L, shape ``(P,)``; cost: one gradient."""
        return self.loss_and_grad(theta)[1]

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        """Exact Hessian-vector product, shape ``(P,)``, by reverse over reverse; cost: one product.

        The plain reference. :mod:`lrscope.curvature` holds the engine that reuses graphs and also works where a
        second derivative does not exist.
        """
        self._check(theta)
        self._check(v, "v")
        theta = theta.detach().requires_grad_()
        product = torch.zeros_like(theta)
        with self.undisturbed(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for weight, batch in zip(self.weights, self.batches, strict=True):
                (grad,) = torch.autograd.grad(self.batch_loss(theta, batch), theta, create_graph=True)
                if grad.requires_grad:  # else the loss is linear in theta and its Hessian zero
                    (part,) = torch.autograd.grad(grad, theta, v)
                    product += weight * part
        self.spent += Cost(products=1)
        return product.detach()

    def batch_loss(self, theta: Tensor, batch: Batch) -> Tensor:
        """Loss of one batch at theta, shape ``()``; call it inside :meth:`undisturbed`."""
        loss = self.functional(self.layout.unflatten(theta), self.functional.buffers(), batch)
        if not isinstance(loss, Tensor) or loss.ndim != 0:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise TaskError(
                f"loss_fn: expected the mean loss over the batch as a tensor of shape (), got {shape}; "
                "reduce it, for example with .mean()"
            )
        return loss

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """The model in this objective's mode and every evaluation's draws the same; all as before afterwards."""
        with isolated_rng(seed=0), mode_of(self.model, training=self.mode == "train", dropout=False):
            yield

    def _check(self, theta: Tensor, name: str = "theta") -> None:
        if not isinstance(theta, Tensor) or theta.shape != (self.size,):
            came = tuple(theta.shape) if isinstance(theta, Tensor) else type(theta).__name__
            raise ValueError(f"{name}: expected a tensor of shape ({self.size},), got {came}")


def _is_one_batch(batches: Any) -> bool:
    if isinstance(batches, tuple):
        return len(batches) > 0 and all(isinstance(part, Tensor) for part in batches)
    return isinstance(batches, (Tensor, Mapping))


def require_objective(objective: Any) -> None:
    """Refuse a model, or anything else that is not a loss as a function of theta.

    Raises:
        TypeError: What came, and what to do.
    """
    if not hasattr(objective, "loss_and_grad"):  # not by class: an objective in closed form is one, too
        raise TypeError(
            f"objective: expected a lrs.Objective, got {type(objective).__name__}; give the loss and the batches "
            "that it is measured on: lrs.Objective(model, loss_fn, [batch])"
        )
