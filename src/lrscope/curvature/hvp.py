"""Hessian-vector products of an objective: exact, forward over reverse, or by differences of ordinary gradients."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrscope.curvature.operators import Operator
from lrscope.curvature.point import vector
from lrscope.records import Cost

if TYPE_CHECKING:
    from lrscope.objective import Batch, FirstOrder, Objective

MAX_GRAPHS = 4
"""First-order graphs kept for reuse: one per batch. With more batches than this they are rebuilt for each product,
since every graph holds the activations of its batch."""


class Hessian(Operator):
    """The Hessian of an objective at theta, as an operator with ``@``.

    ``H @ V`` with V of shape ``(P, K)`` gives K products; :class:`ExactHessian` and :class:`ForwardHessian` make them
    in one vectorised pass where the model allows it, holding K times the vectors.

    Attributes:
        size: P.
        theta: The point, shape ``(P,)``.
        num_matvecs: Products so far.
        method: ``"exact"``, ``"forward"`` or ``"difference"``.
    """

    method: str

    def __init__(self, objective: Objective, theta: Tensor) -> None:
        self.theta = theta.detach()
        super().__init__(self.theta.numel(), self.theta.dtype, self.theta.device)
        self.objective = objective

    def __matmul__(self, v: Tensor) -> Tensor:
        """H v for v of shape ``(P,)``, or H V, column by column, for ``(P, K)``."""
        vector("v", v, self.size, columns=True)
        spent = self.objective.spent
        product = self._product(v.to(self.theta)) if v.ndim == 1 else self._products(v.T.to(self.theta)).T
        # Whatever was called underneath, a product is booked as a product.
        number = 1 if v.ndim == 1 else v.shape[1]
        self.objective.spent = spent + Cost(products=number)
        self.num_matvecs += number
        return product

    def _products(self, rows: Tensor) -> Tensor:
        """H applied to each row of ``(K, P)``."""
        return torch.stack([self._product(v) for v in rows]) if len(rows) else torch.zeros_like(rows)


class _Derived(Hessian):
    """Second derivatives, one vector or several at once; subclasses add up the batches of this process."""

    def __init__(self, objective: Objective, theta: Tensor) -> None:
        super().__init__(objective, theta)
        # Objectives with a closed form (no network, no batches) bring their own product.
        self._own = not hasattr(objective, "batch_loss")
        self._loop = False

    def _product(self, v: Tensor) -> Tensor:
        if self._own:
            return self.objective.hvp(self.theta, v).detach()
        return self._summed(v)

    def _products(self, rows: Tensor) -> Tensor:
        if self._own or len(rows) < 2 or self._loop:
            return super()._products(rows)
        try:
            return self._summed(rows)
        except (RuntimeError, NotImplementedError):  # an operation that vmap does not know, or not enough memory
            self._loop = True
            return super()._products(rows)

    def _summed(self, v: Tensor) -> Tensor:
        objective = self.objective
        with objective.differentiable():
            v = v.clone() if v.is_inference() else v
            product = torch.zeros_like(v)
            for i, (weight, batch) in enumerate(zip(objective.weights, objective.batches, strict=True)):
                part = self._part(i, batch, v)
                if part is not None:
                    product += weight * part.detach()
        return objective.ranks.sum(product)

    @abstractmethod
    def _part(self, index: int, batch: Batch, v: Tensor) -> Tensor | None:
        """The product with one batch's Hessian, of ``(P,)`` or of the rows of ``(K, P)``; ``None`` for zero."""


class ExactHessian(_Derived):
    """Reverse over reverse; the first-order graph is built once and reused by every product.

    Cost in gradients: about 1.5 for the graph, then 1.5 to 2.5 per product; 2.9 to 4.1 for the first product alone.
    Fused attention has no second derivative, so attention runs in its math form, and compiled functions run
    uncompiled. All batches count with their weights.

    Raises:
        RuntimeError: From torch, when an operation of the model has no second derivative.
    """

    method = "exact"

    def __init__(self, objective: Objective, theta: Tensor) -> None:
        super().__init__(objective, theta)
        self._graphs: dict[int, FirstOrder] = {}

    def _part(self, index: int, batch: Batch, v: Tensor) -> Tensor | None:
        # A copy, since graphs outlive whatever the caller does to theta.
        first = self._graphs.get(index) or self.objective.first_order(self.theta.clone(), batch)
        keep = len(self.objective.batches) <= MAX_GRAPHS
        if keep:
            self._graphs[index] = first
        return self.objective.second_order(first, v, keep=keep)


class ForwardHessian(_Derived):
    """Forward over reverse: the gradient, differentiated in one direction along with being computed.

    Nothing is kept between products, so memory is that of about two gradients, whatever the number of batches; cost
    in gradients: 2.5 to 5.5 per product. It works where every operation has a forward-mode formula: not for squared
    error written as ``F.mse_loss``, nor with activation checkpointing.

    Raises:
        RuntimeError, NotImplementedError: From torch, when an operation has no such formula.
    """

    method = "forward"

    def _part(self, index: int, batch: Batch, v: Tensor) -> Tensor | None:  # noqa: ARG002 - nothing is kept
        gradient = torch.func.grad(lambda theta: self.objective.batch_loss(theta, batch))

        def along(v: Tensor) -> Tensor:
            return torch.func.jvp(gradient, (self.theta,), (v,))[1]

        try:
            return along(v) if v.ndim == 1 else torch.func.vmap(along, randomness="same")(v)
        except RuntimeError as error:
            if "KeyboardInterrupt" in str(error):  # forward formulas are TorchScript, which wraps a Ctrl-C
                raise KeyboardInterrupt from error
            raise


class DifferenceHessian(Hessian):
    r"""Difference of ordinary gradients; works on whatever trains.

    .. math:: H v \approx \|v\| \, \frac{g(\theta + h u) - g(\theta - h u)}{2 h}, \quad u = v / \|v\|, \quad
              h = \epsilon^{1/3} \, \max(\|\theta\|, 1) / 32

    with :math:`\epsilon` the rounding unit of the dtype: the exponent balances rounding (1/h) against the third
    derivative (h^2). The factor 1/32 is measured: in float32 the product of small smooth networks is off by about
    1e-4 or less at the start, and by 3e-4 late in training with cross-entropy, where 1/4 gave 2e-2 because
    saturated logits bend strongly. Cost: 2 gradients per product, always.

    With ``gradient=``, the one at theta that a training step has anyway, the difference is taken to one side:

    .. math:: H v \approx \|v\| \, \frac{g(\theta + h u) - g(\theta)}{h}, \quad
              h = \epsilon^{1/2} \, \max(\|\theta\|, 1) / 8

    Cost: 1 gradient per product; two to three digits in float32, since the error is of first order in h.

    Args:
        objective: The loss.
        theta: Where, ``(P,)``.
        gradient: Gradient of the same loss at theta, ``(P,)``; ``None`` for the central difference.
        widen: Factor on h, for gradients noisier than their dtype says (autocast).

    Raises:
        ValueError: ``gradient`` or ``widen`` does not fit.
    """

    method = "difference"

    def __init__(
        self, objective: Objective, theta: Tensor, *, gradient: Tensor | None = None, widen: float = 1.0
    ) -> None:
        super().__init__(objective, theta)
        if gradient is not None:
            vector("gradient", gradient, self.size)
        if not 0 < widen < float("inf"):
            raise ValueError(f"widen: expected a positive factor on the step, got {widen!r}")
        eps = torch.finfo(self.dtype).eps
        scale = max(float(self.theta.norm()), 1.0) * widen
        self.gradient = None if gradient is None else gradient.detach().to(self.theta)
        self.step = eps ** (1 / 3) * scale / 32 if gradient is None else eps ** (1 / 2) * scale / 8

    def _product(self, v: Tensor) -> Tensor:
        return self._with_step(v, self.step)

    def with_error(self, v: Tensor) -> tuple[Tensor, float]:
        """H v, ``(P,)``, and an estimate of its error relative to its length; cost: two products.

        The second product has twice the step. Where the error grows with h (derivatives of higher order), the two
        differ by one (one-sided) to three times the error of the first; where it shrinks with h (rounding, kinks), by
        about the error itself.
        """
        v = v.to(self.theta)
        product = self @ v
        spent = self.objective.spent
        other = self._with_step(v, 2 * self.step)
        self.objective.spent = spent + Cost(products=1)
        self.num_matvecs += 1
        length = float(product.norm())
        away = float((other - product).norm())
        return product, away / length if length > 0 else away

    def _with_step(self, v: Tensor, step: float) -> Tensor:
        length = float(v.norm())
        if length == 0:
            return torch.zeros_like(v)
        # Without a vector for the shift itself: what is alive during a gradient adds to its peak of memory.
        ahead = self.objective.grad(torch.add(self.theta, v, alpha=step / length))
        if self.gradient is not None:
            return (ahead - self.gradient).mul_(length / step)
        behind = self.objective.grad(torch.add(self.theta, v, alpha=-step / length))
        return (ahead - behind).mul_(length / (2 * step))
