"""Products with the Jacobian of a model's outputs, and the matrices built from it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from lrscope.curvature.hvp import MAX_GRAPHS
from lrscope.curvature.operators import Operator
from lrscope.errors import MeasurementError
from lrscope.objective import Batch, require_objective
from lrscope.records import Cost

if TYPE_CHECKING:
    from lrscope.objective import Objective

Outputs = Callable[[Any], Tensor]
"""From what the model returns to the tensor that the loss is computed from."""


class Jacobian:
    """J of one batch's outputs z, any number of tensors, with respect to theta; both products by reverse mode.

    ``J v`` is the derivative of ``J^T u`` in u: the usual backward pass, differentiated once more. It needs no
    forward-mode formulas, so it works wherever second derivatives do.
    """

    def __init__(self, leaf: Tensor, outputs: list[Tensor], loss: Tensor) -> None:
        self.leaf, self.outputs, self.loss = leaf, outputs, loss
        self.slope: list[Tensor] | None = None  # the loss differentiated by the outputs, once asked for
        self._duals = [torch.zeros_like(z, requires_grad=True) for z in outputs]
        (self._pulled,) = torch.autograd.grad(outputs, leaf, self._duals, create_graph=True)

    @property
    def num_outputs(self) -> int:
        return sum(z.numel() for z in self.outputs)

    def push(self, v: Tensor) -> list[Tensor]:
        """J v, in the shapes of the outputs, for v of shape ``(P,)``."""
        return list(torch.autograd.grad(self._pulled, self._duals, v, retain_graph=True, materialize_grads=True))

    def pull(self, duals: list[Tensor]) -> Tensor:
        """J^T u, ``(P,)``, for u in the shapes of the outputs."""
        return torch.autograd.grad(self.outputs, self.leaf, duals, retain_graph=True)[0]


class JacobianOperator(Operator):
    """Base of the matrices built from Jacobians: one per batch, kept for reuse while there are few batches.

    Raises:
        TypeError: Not an objective.
        MeasurementError: An objective without batches, or an operation whose backward cannot be differentiated.
        ValueError: ``theta`` has the wrong shape.
    """

    method = "exact"

    def __init__(self, objective: Objective, theta: Tensor | None) -> None:
        require_objective(objective)
        if not hasattr(objective, "batch_loss"):
            raise MeasurementError(
                f"objective: a {type(objective).__name__} has no model whose outputs could be differentiated; "
                f"{type(self).__name__} needs a lrs.Objective"
            )
        theta = objective.point() if theta is None else theta.detach()
        if theta.shape != (objective.size,):
            raise ValueError(f"theta: expected shape ({objective.size},), got {tuple(theta.shape)}")
        super().__init__(objective.size, theta.dtype, theta.device)
        self.objective, self.theta = objective, theta
        self._kept: list[Jacobian] = []

    def _product(self, v: Tensor) -> Tensor:
        spent = self.objective.spent
        with self._differentiating():
            product = self._multiply(v.to(self.theta)).detach()
        self.objective.spent = spent + Cost(products=1)
        return product

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
            leaf = self.theta.clone().requires_grad_()
            jacobian = Jacobian(leaf, *self._outputs(leaf, batch))
            if few:
                self._kept.append(jacobian)
            yield weight, jacobian

    @contextmanager
    def _differentiating(self) -> Iterator[None]:
        with self.objective.undisturbed(), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            try:
                yield
            except (RuntimeError, NotImplementedError) as error:
                raise MeasurementError(
                    f"no Jacobian product on this model, since it takes differentiating the backward pass: "
                    f"{str(error).strip().splitlines()[0]}"
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

    Raises:
        MeasurementError: The loss cannot be split: it never calls the model, or depends on theta in another way (a
            weight penalty, say); or an operation has no second derivative.

    References:
        Schraudolph, Fast curvature matrix-vector products, 2002; Martens, New insights and perspectives on the
        natural gradient method, 2020, arXiv 1412.1193, section 8.
    """

    def __init__(self, objective: Objective, theta: Tensor | None = None, *, outputs: Outputs | None = None) -> None:
        super().__init__(objective, theta)
        self._pick = outputs

    def _multiply(self, v: Tensor) -> Tensor:
        product = torch.zeros_like(v)
        for weight, J in self._jacobians():
            product += weight * J.pull(self._curve(self._slope(J), J.outputs, J.push(v)))
        return product

    def _outputs(self, leaf: Tensor, batch: Batch) -> tuple[list[Tensor], Tensor]:
        return captured(self.objective, leaf, batch, self._pick)

    def _slope(self, J: Jacobian) -> list[Tensor]:
        """The loss differentiated by the outputs; checked, once per Jacobian, to explain the whole gradient."""
        if J.slope is None:
            slope = list(torch.autograd.grad(J.loss, J.outputs, create_graph=True, materialize_grads=True))
            (whole,) = torch.autograd.grad(J.loss, J.leaf, retain_graph=True)
            through = J.pull([s.detach() for s in slope])
            away, length = float((whole - through).norm()), max(float(whole.norm()), float(through.norm()))
            if away > torch.finfo(whole.dtype).eps ** 0.5 * length:
                raise MeasurementError(
                    f"the loss depends on the parameters not only through the model's output ({away / length:.1g} of "
                    "the gradient is elsewhere: a weight penalty, or a model called on its own output), so it has no "
                    "Gauss-Newton matrix; take the penalty out of loss_fn, or use the Hessian"
                )
            J.slope = slope
        return J.slope

    @staticmethod
    def _curve(slope: list[Tensor], outputs: list[Tensor], pushed: list[Tensor]) -> list[Tensor]:
        """The Hessian of the loss in the outputs, times J v."""
        bent = [(s, p) for s, p in zip(slope, pushed, strict=True) if s.requires_grad]
        if not bent:  # a loss linear in the outputs
            return [torch.zeros_like(z) for z in outputs]
        slopes, directions = zip(*bent, strict=True)
        return list(torch.autograd.grad(slopes, outputs, directions, retain_graph=True, materialize_grads=True))


class NTK(JacobianOperator):
    r"""The neural tangent kernel of a finite network at theta: :math:`K = J J^T` over all outputs of all examples.

    Its size is the number of outputs M, not of parameters: row ``(i, c)`` belongs to output c of example i, in
    the order of the batches. The nonzero eigenvalues of :math:`J^T J` are its own, so with a mean squared error over
    N examples and C outputs those of the Gauss-Newton matrix are ``2 / (N C)`` times these.

    Args:
        objective: Gives model and batches; the loss is evaluated, but does not count.
        theta, outputs: As for :class:`GaussNewton`.

    Cost of a product: one pull and one push through every batch; :meth:`dense` takes M products.

    References:
        Jacot, Gabriel & Hongler, Neural tangent kernel, 2018, arXiv 1806.07572.
    """

    def __init__(self, objective: Objective, theta: Tensor | None = None, *, outputs: Outputs | None = None) -> None:
        super().__init__(objective, theta)
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
    ) -> None:
        if per not in ("example", "batch"):
            raise ValueError(f"per: expected 'example' or 'batch', got {per!r}")
        super().__init__(objective, theta)
        self.per = per

    def _multiply(self, v: Tensor) -> Tensor:
        product = torch.zeros_like(v)
        for weight, J in self._jacobians():
            product += weight / J.num_outputs * J.pull(J.push(v))
        return product

    def _outputs(self, leaf: Tensor, batch: Batch) -> tuple[list[Tensor], Tensor]:
        loss = self.objective.batch_loss(leaf, batch)
        return ([loss.reshape(1)] if self.per == "batch" else [per_example(self.objective, leaf, batch, loss)]), loss


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


def per_example(objective: Objective, leaf: Tensor, batch: Batch, loss: Tensor) -> Tensor:
    """The loss of every example alone, ``(n,)``, differentiable in ``leaf``.

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
        try:
            losses = torch.func.vmap(one, randomness="same")(*tensors)
        except (RuntimeError, ValueError):  # an operation that cannot be vectorised, a branch on data
            losses = torch.stack([one(*(x[i] for x in tensors)) for i in range(n)])
    except (RuntimeError, ValueError) as error:
        raise MeasurementError(
            f"the loss of a single example cannot be computed ({str(error).strip().splitlines()[0]}); BatchNorm "
            "needs mode='eval' for this, or use per='batch'"
        ) from error
    mean, whole = float(losses.detach().mean()), float(loss.detach())
    if abs(mean - whole) > 10 * torch.finfo(loss.dtype).eps ** 0.5 * abs(whole):
        raise MeasurementError(
            f"the mean loss of single examples is {mean:.6g}, that of their batch {whole:.6g}; examples "
            "are not independent or not equally weighted (BatchNorm in train mode, padding), so use per='batch'"
        )
    return losses
