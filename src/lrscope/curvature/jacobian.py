"""Products with the Jacobian of a model's outputs, and the matrices built from it."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from lrscope.curvature.hvp import MAX_GRAPHS
from lrscope.curvature.operators import Operator
from lrscope.curvature.point import loss_and_grad, point_of, require_finite
from lrscope.curvature.probe import COARSE, Method, require_function
from lrscope.errors import LrscopeWarning, MeasurementError
from lrscope.isolation import RandomState
from lrscope.objective import Batch, require_objective
from lrscope.records import Cost

if TYPE_CHECKING:
    from lrscope.objective import Objective

FLAW = 1e-2
"""An exact product off by more than this is not exact, but has parts missing."""

Outputs = Callable[[Any], Tensor]
"""From what the model returns to the tensor that the loss is computed from."""


Evaluate = Callable[[Tensor], tuple[list[Tensor], Tensor]]
"""From theta, a leaf of the graph, to the outputs z of one batch, any number of tensors, and its loss."""


class Jacobian:
    """J of one batch's outputs z with respect to theta, by reverse mode alone.

    ``J v`` is the derivative of ``J^T u`` in u: the usual backward pass, differentiated once more. It needs no
    forward-mode formulas, so it works wherever second derivatives do.
    """

    def __init__(self, evaluate: Evaluate, theta: Tensor) -> None:
        self.theta = theta
        self.evaluate = evaluate
        self.leaf = theta.clone().requires_grad_()
        self.outputs, self.loss = evaluate(self.leaf)
        self._duals = [torch.zeros_like(z, requires_grad=True) for z in self.outputs]
        (self._pulled,) = torch.autograd.grad(self.outputs, self.leaf, self._duals, create_graph=True)
        self._slope: list[Tensor] | None = None

    @property
    def num_outputs(self) -> int:
        return sum(z.numel() for z in self.outputs)

    def push(self, v: Tensor) -> list[Tensor]:
        """J v, in the shapes of the outputs, for v of shape ``(P,)``."""
        return list(torch.autograd.grad(self._pulled, self._duals, v, retain_graph=True, materialize_grads=True))

    def bend(self, v: Tensor) -> list[Tensor]:
        """The Hessian of the loss in the outputs, times J v."""
        return self.curve(self.push(v))

    def curve(self, w: list[Tensor]) -> list[Tensor]:
        """The Hessian of the loss in the outputs, times w."""
        if self._slope is None:
            self._slope = list(
                torch.autograd.grad(self.loss, self.outputs, create_graph=True, materialize_grads=True)
            )
        bent = [(s, part) for s, part in zip(self._slope, w, strict=True) if s.requires_grad]
        if not bent:  # a loss linear in the outputs
            return [torch.zeros_like(z) for z in self.outputs]
        slopes, directions = zip(*bent, strict=True)
        return list(torch.autograd.grad(slopes, self.outputs, directions, retain_graph=True, materialize_grads=True))

    # What follows takes ordinary gradients, each of a graph of its own, since those of compiled models serve once.

    def pull(self, duals: list[Tensor]) -> Tensor:
        """J^T u, ``(P,)``, for u in the shapes of the outputs."""
        return torch.autograd.grad(self.outputs, self.leaf, duals, retain_graph=True)[0]

    def gradient(self) -> Tensor:
        """The gradient of the batch's loss, ``(P,)``."""
        leaf = self.theta.clone().requires_grad_()
        return torch.autograd.grad(self.evaluate(leaf)[1], leaf)[0]

    def ends(self, shift: Tensor) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The outputs and the loss's slope in them at theta + shift and theta - shift."""
        for theta in (self.theta + shift, self.theta - shift):
            outputs, loss = self.evaluate(theta.requires_grad_())
            slope = torch.autograd.grad(loss, outputs, materialize_grads=True)
            yield [z.detach() for z in outputs], list(slope)


class DifferenceJacobian(Jacobian):
    r"""The same from ordinary gradients, for models and losses whose backward cannot be differentiated.

    .. math:: J v \approx \|v\| \, \frac{z(\theta + h u) - z(\theta - h u)}{2 h}, \quad u = v / \|v\|

    and likewise with the slope of the loss in z for its Hessian times J v.
    """

    def __init__(self, evaluate: Evaluate, theta: Tensor) -> None:
        self.theta = theta
        self.evaluate = evaluate
        outputs, loss = evaluate(theta.clone().requires_grad_())
        self.outputs, self.loss = [z.detach() for z in outputs], loss.detach()

    def push(self, v: Tensor) -> list[Tensor]:
        return self._central(v, 0)

    def bend(self, v: Tensor) -> list[Tensor]:
        return self._central(v, 1)

    def _central(self, v: Tensor, which: Literal[0, 1]) -> list[Tensor]:
        """Derivative along v of the outputs (0) or of the loss's slope in them (1)."""
        length = max(float(v.norm()), 1e-30)
        # The step of DifferenceHessian.
        step = torch.finfo(v.dtype).eps ** (1 / 3) * max(float(self.theta.norm()), 1.0) / 32
        ahead, behind = (end[which] for end in self.ends(step / length * v))
        return [(a - b) * (length / (2 * step)) for a, b in zip(ahead, behind, strict=True)]

    def pull(self, duals: list[Tensor]) -> Tensor:
        leaf = self.theta.clone().requires_grad_()
        return torch.autograd.grad(self.evaluate(leaf)[0], leaf, duals)[0]


def mismatch(J: Jacobian) -> float:
    r"""Relative error of J v for :math:`v = J^T u` with random u, where :math:`u^T J v` must be :math:`\|v\|^2`.

    J^T u is an ordinary gradient and so to be trusted. An operation that refuses a second derivative may do so
    silently; then the squared length of v in the parameters before it is missing.
    """
    generator = torch.Generator(device=J.theta.device).manual_seed(0)
    u = [torch.randn(z.shape, dtype=z.dtype, device=z.device, generator=generator) for z in J.outputs]
    v = J.pull(u)
    length = float(v.double() @ v.double())
    return abs(_dot(u, J.push(v)) / length - 1) if length != 0 else 0.0


def straight(J: Jacobian) -> bool:
    """Whether the exact Hessian of the loss in the outputs explains how its slope changes over a visible step.

    Not if the loss hides its second derivative, as fused losses may, and silently.
    """
    generator = torch.Generator(device=J.theta.device).manual_seed(0)
    v = torch.randn(J.theta.shape, dtype=J.theta.dtype, device=J.theta.device, generator=generator)
    # A fiftieth of theta: large enough for outputs in lower precision than theta, whose rounding is allowed for.
    shift = max(float(J.theta.norm()), 1.0) / 50 * v / v.norm()
    (z1, s1), (z0, s0) = J.ends(shift)
    moved = J.curve([a - b for a, b in zip(z1, z0, strict=True)])
    seen = [a - b for a, b in zip(s1, s0, strict=True)]
    away = [a - b for a, b in zip(moved, seen, strict=True)]
    rounding = max(torch.finfo(z.dtype).eps for z in z1) * (_length(s1) + _length(s0))
    return _length(away) <= COARSE * _length(seen) + rounding


def _length(a: list[Tensor]) -> float:
    return _dot(a, a) ** 0.5


def _dot(a: list[Tensor], b: list[Tensor]) -> float:
    return sum(float((x.double() * y.double()).sum()) for x, y in zip(a, b, strict=True))


class JacobianOperator(Operator):
    """Base of the matrices built from Jacobians: one per batch, kept for reuse while there are few batches.

    Attributes:
        method: ``"exact"``; ``"difference"`` once an exact product was tried and could not be made.
        error: Relative error of a product with the Jacobian, measured at the first one.

    Raises:
        TypeError: Not an objective.
        MeasurementError: An objective without batches, or no product can be made.
        ValueError: ``theta`` has the wrong shape, or ``method`` is unknown.
    """

    _curved = False
    """Whether products use the curvature of the loss in the outputs."""

    def __init__(self, objective: Objective, theta: Tensor | None, method: Method) -> None:
        if method not in ("auto", "exact", "difference"):
            raise ValueError(f"method: expected 'auto', 'exact' or 'difference', got {method!r}")
        require_objective(objective)
        if not hasattr(objective, "batch_loss"):
            raise MeasurementError(
                f"objective: a {type(objective).__name__} has no model whose outputs could be differentiated; "
                f"{type(self).__name__} needs a lrs.Objective"
            )
        theta = point_of(objective, theta)
        super().__init__(objective.size, theta.dtype, theta.device)
        self.objective, self.theta = objective, theta
        self.method = "difference" if method == "difference" else "exact"
        self._asked = method
        self.error: float | None = None
        self._kept: list[Jacobian] = []

    def _product(self, v: Tensor) -> Tensor:
        spent = self.objective.spent
        with self._differentiating():
            # The model stays at theta, where checkpointing runs parts of it again.
            leaf = self.theta.clone().requires_grad_()
            product = self.objective.at(leaf, lambda: self._multiply(v.to(self.theta))).detach()
        self.objective.spent = spent + Cost(products=1)
        return self._reduced(product)

    def _reduced(self, product: Tensor) -> Tensor:
        """The product over the batches of all processes."""
        return self.objective.ranks.sum(product)

    @abstractmethod
    def _multiply(self, v: Tensor) -> Tensor: ...

    @abstractmethod
    def _outputs(self, leaf: Tensor, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Outputs z and the batch's loss."""

    def _jacobians(self) -> Iterator[tuple[float, Jacobian]]:
        """Weight and Jacobian of each batch; one at a time in memory where there are many."""
        few = len(self.objective.batches) <= MAX_GRAPHS
        for i, (weight, batch) in enumerate(zip(self.objective.weights, self.objective.batches, strict=True)):
            if i < len(self._kept):
                yield weight, self._kept[i]
                continue
            jacobian = self._jacobian(batch)
            if few:
                self._kept.append(jacobian)
            yield weight, jacobian

    def _jacobian(self, batch: Batch) -> Jacobian:
        state: RandomState | None = None

        def evaluate(leaf: Tensor) -> tuple[list[Tensor], Tensor]:
            # Random draws in the model (attention with dropout) are the same each time, as in the objective.
            nonlocal state
            if state is None:
                state = RandomState.take()
            else:
                state.restore()
            return self._outputs(leaf, batch)

        if self.method == "exact":
            try:
                jacobian = Jacobian(evaluate, self.theta)
                self._require_finite(jacobian)
                problem = "" if self.error is not None else self._problem(jacobian)
                if not problem:
                    return jacobian
            except (RuntimeError, NotImplementedError) as error:
                problem = str(error).strip().splitlines()[0]
            if self._asked == "exact":
                raise MeasurementError(
                    f"no exact product with the Jacobian of this model: {problem}; use method='difference', which "
                    "needs ordinary gradients only"
                )
            self.method, self.error = "difference", None
        jacobian = DifferenceJacobian(evaluate, self.theta)
        if self.error is None:
            self._require_finite(jacobian)
            self.error = self._mismatch(jacobian)
            if not self.error <= COARSE:
                warnings.warn(
                    f"Jacobian products by difference are off by {self.error:.0%}, so {type(self).__name__} is a "
                    "rough guide here; measure a copy of the model in higher precision",
                    LrscopeWarning,
                    stacklevel=2,
                )
        return jacobian

    def _require_finite(self, jacobian: Jacobian) -> None:
        loss = [jacobian.loss] if self._curved else []
        if not all(bool(torch.isfinite(z).all()) for z in [*jacobian.outputs, *loss]):
            raise MeasurementError(
                f"outputs: those of the model, or the loss, are nan or inf at theta, so {type(self).__name__} has no "
                "products there; the run has diverged, or a batch is not clean"
            )

    def _mismatch(self, jacobian: Jacobian) -> float:
        found = mismatch(jacobian)
        if found != found:
            require_finite(self.objective, self.theta)
        return found

    def _problem(self, jacobian: Jacobian) -> str:
        """What is wrong with exact products; "" if nothing is."""
        self.error = self._mismatch(jacobian)
        if not self.error <= FLAW:
            return "an operation's backward cannot be differentiated, so its part of the product is missing"
        if self._curved and not straight(jacobian):
            return "the backward of the loss cannot be differentiated, so its curvature is missing"
        return ""

    @contextmanager
    def _differentiating(self) -> Iterator[None]:
        with self.objective.differentiable():
            try:
                yield
            except (RuntimeError, NotImplementedError) as error:
                loss_and_grad(self.objective, self.theta)  # refuses, and says why, where the loss itself is to blame
                raise MeasurementError(
                    f"no {self.method} product with the Jacobian of this model: {str(error).strip().splitlines()[0]}"
                ) from error


class GaussNewton(JacobianOperator):
    r"""The Gauss-Newton matrix: the Hessian without the curvature of the model itself.

    .. math:: G = \sum_b w_b \, J_b^T \, \nabla_z^2 \ell_b \, J_b

    for a loss that is a function of the model's outputs z alone, :math:`L = \ell(z(\theta))`. For a convex
    :math:`\ell` (squares, cross-entropy) it is positive semidefinite; for a model linear in theta it *is* the
    Hessian.

    The outputs are seen where the loss function calls the model, so nothing has to be split by hand; that the loss
    depends on theta through them only is checked on the gradient.

    Args:
        objective: The loss.
        theta: Where, ``(P,)``; the model's current parameters by default.
        outputs: From what the model returns to the tensor (or tensors) the loss is computed from; not needed for
            a tensor, or an object with ``logits``.
        method: How J v is made: ``"exact"``, ``"difference"``, or ``"auto"``, exact if the backward pass can be
            differentiated, which is tried on random vectors first.

    Cost of a product: a backward pass and its derivative exact, with the graphs of up to four batches kept; three
    gradients by difference.

    Raises:
        MeasurementError: The loss cannot be split: it never calls the model, or depends on theta in another way (a
            weight penalty, say); or an operation has no second derivative.

    References:
        Schraudolph, Fast curvature matrix-vector products, 2002; Martens, New insights and perspectives on the
        natural gradient method, 2020, arXiv 1412.1193, section 8.
    """

    _curved = True

    def __init__(
        self,
        objective: Objective,
        theta: Tensor | None = None,
        *,
        outputs: Outputs | None = None,
        method: Method = "auto",
    ) -> None:
        super().__init__(objective, theta, method)
        self._pick = outputs
        self._checked = False

    def _multiply(self, v: Tensor) -> Tensor:
        product = torch.zeros_like(v)
        for weight, J in self._jacobians():
            if not self._checked:
                self._require_split(J)
            product += weight * J.pull(J.bend(v))
        self._checked = True
        return product

    def _outputs(self, leaf: Tensor, batch: Batch) -> tuple[list[Tensor], Tensor]:
        return captured(self.objective, leaf, batch, self._pick)

    def _require_split(self, J: Jacobian) -> None:
        """The gradient through the outputs must be the whole gradient."""
        outputs, loss = J.evaluate(J.theta.clone().requires_grad_())
        through = J.pull(list(torch.autograd.grad(loss, outputs, materialize_grads=True)))
        whole = J.gradient()
        away, length = float((whole - through).norm()), max(float(whole.norm()), float(through.norm()))
        if not away <= torch.finfo(whole.dtype).eps ** 0.5 * length:
            require_finite(self.objective, self.theta)
            require_function(self.objective, self.theta)
            raise MeasurementError(
                f"the loss depends on the parameters not only through the model's output ({away / length:.1g} of the "
                "gradient is elsewhere: a weight penalty, or a model called on its own output), so it has no "
                "Gauss-Newton matrix; take the penalty out of loss_fn, or use the Hessian"
            )


class NTK(JacobianOperator):
    r"""The neural tangent kernel of a finite network at theta: :math:`K = J J^T` over all outputs of all examples.

    Its size is the number of outputs M, not of parameters: row ``(i, c)`` belongs to output c of example i, in
    the order of the batches. The nonzero eigenvalues of :math:`J^T J` are its own, so with a mean squared error over
    N examples and C outputs those of the Gauss-Newton matrix are ``2 / (N C)`` times these.

    Args:
        objective: Gives model and batches; the loss is evaluated, but does not count.
        theta, outputs, method: As for :class:`GaussNewton`.

    Cost of a product: one pull and one push through every batch; :meth:`dense` takes M products.

    References:
        Jacot, Gabriel & Hongler, Neural tangent kernel, 2018, arXiv 1806.07572.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor | None = None,
        *,
        outputs: Outputs | None = None,
        method: Method = "auto",
    ) -> None:
        super().__init__(objective, theta, method)
        if objective.ranks.size > 1:
            raise MeasurementError(
                f"NTK: its rows are the examples of one process, and this model has {objective.ranks.size}; "
                "give the model inside, model.module, and the examples you mean"
            )
        self._pick = outputs
        with self._differentiating():
            self._sizes = [J.num_outputs for _, J in self._jacobians()]
        self.size = sum(self._sizes)

    def _multiply(self, v: Tensor) -> Tensor:
        pieces = v.split(self._sizes)
        pulled = torch.zeros_like(self.theta)
        for (_, J), piece in zip(self._jacobians(), pieces, strict=True):
            parts = piece.split([z.numel() for z in J.outputs])
            pulled += J.pull([p.view_as(z) for p, z in zip(parts, J.outputs, strict=True)])
        return torch.cat([torch.cat([z.reshape(-1) for z in J.push(pulled)]) for _, J in self._jacobians()])

    def _outputs(self, leaf: Tensor, batch: Batch) -> tuple[list[Tensor], Tensor]:
        return captured(self.objective, leaf, batch, self._pick)


class EmpiricalFisher(JacobianOperator):
    r"""The second moment of gradients: :math:`F = \frac1N \sum_n g_n g_n^T`, of single examples or of whole batches.

    Not the Fisher information, which takes labels from the model instead of the data; the two differ away from a
    perfect fit (Kunstner, Balles & Hennig, 2019, arXiv 1905.12558).

    Args:
        objective: The loss.
        theta: Where, ``(P,)``; the model's current parameters by default.
        per: ``"example"``: g_n is the gradient of one example alone, all of a batch in one vectorised pass where
            torch can (else one by one). ``"batch"``: the gradient of a batch, weighted by its share of examples;
            works for any model, and depends on how the data are split.
        method: As for :class:`GaussNewton`.

    Raises:
        MeasurementError: The loss of a batch is not the mean over its examples alone (BatchNorm in train mode, an
            uneven weighting), so per-example gradients mean nothing; or there are no tensors to take examples from.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor | None = None,
        *,
        per: Literal["example", "batch"] = "example",
        method: Method = "auto",
    ) -> None:
        if per not in ("example", "batch"):
            raise ValueError(f"per: expected 'example' or 'batch', got {per!r}")
        super().__init__(objective, theta, method)
        self.per = per
        self._vectorised: bool | None = None  # not known before the first backward pass

    def _multiply(self, v: Tensor) -> Tensor:
        product = torch.zeros_like(v)
        for weight, J in self._jacobians():
            product += weight / J.num_outputs * J.pull(J.push(v))
        return product

    def _outputs(self, leaf: Tensor, batch: Batch) -> tuple[list[Tensor], Tensor]:
        loss = self.objective.batch_loss(leaf, batch)
        if self.per == "batch":
            return [loss.reshape(1)], loss
        losses = per_example(self.objective, leaf, batch, loss, vectorised=self._vectorised is not False)
        if self._vectorised is None:
            try:
                torch.autograd.grad(losses.sum(), leaf, retain_graph=True)
                self._vectorised = True
            except RuntimeError:  # activation checkpointing cannot run the model again outside of vmap
                self._vectorised = False
                losses = per_example(self.objective, leaf, batch, loss, vectorised=False)
        return [losses], loss


def captured(objective: Objective, leaf: Tensor, batch: Batch, pick: Outputs | None) -> tuple[list[Tensor], Tensor]:
    """The outputs that the loss function got from the model, with their graph, and the loss.

    Raises:
        MeasurementError: It never called the model, or what came out is not understood.
    """
    seen: list[Tensor] = []

    def look(_module: Any, _inputs: Any, output: Any) -> None:
        found = _tensors(output) if pick is None else pick(output)
        seen.extend([found] if isinstance(found, Tensor) else found)

    handle = objective.model.register_forward_hook(look)
    try:
        loss = objective.batch_loss(leaf, batch)
    finally:
        handle.remove()
    seen = [z for z in seen if z.requires_grad]
    if not seen:
        raise MeasurementError(
            "the loss function got no differentiable output from model(...), so loss and model cannot be told apart; "
            "call the model itself in loss_fn (not model.forward or a submodule), or use the Hessian"
        )
    return seen, loss


def _tensors(output: Any) -> Tensor:
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    found = output if isinstance(output, Tensor) else logits
    if not isinstance(found, Tensor):
        raise MeasurementError(
            f"outputs: the model returns a {type(output).__name__}; say which tensor the loss is computed from, "
            "for example outputs=lambda out: out[0]"
        )
    return found


def per_example(objective: Objective, leaf: Tensor, batch: Batch, loss: Tensor, *, vectorised: bool = True) -> Tensor:
    """The loss of every example alone, ``(n,)``, differentiable in ``leaf``; in one pass where that is possible.

    Raises:
        MeasurementError: Their mean is not the loss of the batch, or there are no examples to take.
    """
    n = objective.count(batch)
    leaves, spec = pytree.tree_flatten(batch)
    mapped = [isinstance(x, Tensor) and x.ndim > 0 and x.shape[0] == n for x in leaves]
    if not any(mapped):
        raise MeasurementError(
            f"batch: a {type(batch).__name__} without a tensor whose leading dimension is its number of examples, "
            f"{n}, so single examples cannot be taken from it; use per='batch' or batches of tensors"
        )
    params, buffers = objective.layout.unflatten(leaf), objective.functional.buffers()

    def one(*tensors: Tensor) -> Tensor:
        examples = iter(tensors)
        parts = [next(examples)[None] if m else x for m, x in zip(mapped, leaves, strict=True)]
        return objective.functional(params, buffers, pytree.tree_unflatten(parts, spec))

    tensors = [x for m, x in zip(mapped, leaves, strict=True) if m]
    try:
        losses = None
        if vectorised:
            # Else an operation cannot be vectorised, or there is a branch on data.
            with suppress(RuntimeError, ValueError):
                losses = torch.func.vmap(one, randomness="same")(*tensors)
        if losses is None:
            losses = torch.stack([one(*(x[i] for x in tensors)) for i in range(n)])
    except (RuntimeError, ValueError) as error:
        raise MeasurementError(
            f"the loss of a single example cannot be computed ({str(error).strip().splitlines()[0]}); BatchNorm "
            "needs mode='eval' for this, or use per='batch'"
        ) from error
    mean, whole = float(losses.detach().mean()), float(loss.detach())
    if abs(mean - whole) > 10 * torch.finfo(loss.dtype).eps ** 0.5 * abs(whole):
        require_function(objective, leaf.detach())
        raise MeasurementError(
            f"the mean loss of single examples is {mean:.6g}, that of their batch {whole:.6g}; examples "
            "are not independent or not equally weighted (BatchNorm in train mode, padding), so use per='batch'"
        )
    return losses
