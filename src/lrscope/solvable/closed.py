"""A loss in closed form behind the face of ``Objective``: every tool that measures a network measures it, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from lrscope.params import ParamLayout
from lrscope.records import Cost


class Point(nn.Module):
    """A model that is nothing but its parameter vector ``theta``, shape ``(P,)``."""

    def __init__(self, theta: Tensor) -> None:
        super().__init__()
        self.theta = nn.Parameter(theta.detach().clone())


class ClosedForm:
    """A loss whose value, gradient and Hessian product are formulas instead of passes over data.

    ``lrs.sharpness``, ``lrs.critical_lr``, ``lrs.SharpnessTracker`` and the spectral tools take it as they take a
    :class:`~lrscope.objective.Objective` of a network; evaluations are counted in the same way. Train it with any
    torch optimizer over ``model.parameters()`` and gradients from :meth:`grad`.

    Args:
        start: Where ``model`` stands, shape ``(P,)``.
        value: L(theta), shape ``()``; differentiable by autograd, so that formulas can be checked.
        grad: Gradient of L, ``(P,)``.
        hvp: Product of the Hessian at theta with v, ``(P,)``.
    """

    mode = "train"
    batches = (None,)
    """One pass that needs no data."""

    def __init__(
        self,
        start: Tensor,
        *,
        value: Callable[[Tensor], Tensor],
        grad: Callable[[Tensor], Tensor],
        hvp: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        self.model = self.wrapped = Point(start)
        self.layout = ParamLayout.of(self.model)
        self.spent = Cost()
        self._value, self._grad, self._hvp = value, grad, hvp

    @property
    def size(self) -> int:
        return self.layout.size

    def point(self) -> Tensor:
        """The current theta, a new vector of shape ``(P,)``."""
        return self.layout.point(self.model)

    def count(self, batch: None) -> int:  # noqa: ARG002 - the face has it
        return 1

    def each(self) -> Iterator[ClosedForm]:
        yield self

    def __call__(self, theta: Tensor) -> Tensor:
        """L(theta), shape ``()``, differentiable in theta, shape ``(P,)``."""
        self._check(theta)
        return self._value(theta)

    def loss(self, theta: Tensor | None = None) -> float:
        with torch.no_grad():
            value = self(self.point() if theta is None else theta)
        self.spent += Cost(forwards=1)
        return float(value)

    def loss_and_grad(self, theta: Tensor) -> tuple[float, Tensor]:
        self._check(theta)
        self.spent += Cost(gradients=1)
        with torch.no_grad():
            return float(self._value(theta)), self._grad(theta)

    def grad(self, theta: Tensor) -> Tensor:
        return self.loss_and_grad(theta)[1]

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        self._check(theta)
        self._check(v, "v")
        self.spent += Cost(products=1)
        with torch.no_grad():
            return self._hvp(theta, v)

    def _check(self, theta: Tensor, name: str = "theta") -> None:
        if theta.shape != (self.size,):
            raise ValueError(f"{name}: expected a tensor of shape ({self.size},), got {tuple(theta.shape)}")
