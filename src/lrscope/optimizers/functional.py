"""The update rules on N stacked parameter vectors at once, each replica with its own learning rate.

The same arithmetic as ``torch.optim`` and the optimizers of this room, step by step; ``tests/reference`` holds the
two equal. Shapes: theta and grad ``(N, P)``, lr ``(N, 1)``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lrscope.optimizers.giadam import normal
from lrscope.optimizers.spec import OptimizerSpec


@dataclass
class FunctionalState:
    """What a rule remembers between updates.

    Attributes:
        step: Updates done, the same for all replicas (it sets Adam's bias correction).
        first: Momentum buffer or first moment, ``(N, P)``; ``None`` where the rule keeps none.
        second: Adam's second moment, ``(N, P)``.
        scratch: Memory for intermediate results, so that an update allocates nothing.
    """

    step: int = 0
    first: Tensor | None = None
    second: Tensor | None = None
    scratch: Tensor | None = None

    def keep(self, rows: Tensor) -> FunctionalState:
        """The state of the replicas at index ``rows`` only."""
        kept = [None if t is None else t[rows] for t in (self.first, self.second, self.scratch)]
        return FunctionalState(self.step, *kept)


class FunctionalOptimizer:
    """``spec``'s update rule for stacked replicas.

    Example:
        >>> rule = FunctionalOptimizer(OptimizerSpec.parse("sgd(momentum=0)"))
        >>> theta = torch.ones(2, 3)
        >>> rule.update(theta, torch.ones(2, 3), torch.tensor([[0.5], [1.0]]), rule.init(theta))
        >>> theta[:, 0]
        tensor([0.5000, 0.0000])
    """

    def __init__(self, spec: OptimizerSpec) -> None:
        self.spec = spec

    def init(self, theta: Tensor) -> FunctionalState:
        """The state before the first update."""
        if self.spec.name == "sgd":
            return FunctionalState()
        moments = (torch.zeros_like(theta, requires_grad=False) for _ in range(3))
        return FunctionalState(0, *moments)

    @torch.no_grad()
    def update(self, theta: Tensor, grad: Tensor, lr: Tensor, state: FunctionalState) -> None:
        """One update of ``theta`` and ``state`` in place; ``grad`` is used as working memory."""
        if self.spec.name == "sgd":
            self._sgd(theta, grad, lr, state)
        else:
            self._adam(theta, grad, lr, state)
        state.step += 1

    def _sgd(self, theta: Tensor, grad: Tensor, lr: Tensor, state: FunctionalState) -> None:
        spec = self.spec
        if spec.weight_decay:
            grad.add_(theta, alpha=spec.weight_decay)
        if spec.momentum:
            if state.first is None:  # torch starts the buffer at the first gradient, undampened
                state.first = grad.clone()
            else:
                state.first.mul_(spec.momentum).add_(grad, alpha=1 - spec.dampening)
            grad = grad.add_(state.first, alpha=spec.momentum) if spec.nesterov else state.first
        theta.addcmul_(grad, lr, value=-1)

    def _adam(self, theta: Tensor, grad: Tensor, lr: Tensor, state: FunctionalState) -> None:
        spec, (beta1, beta2) = self.spec, self.spec.betas
        first, second, scratch = state.first, state.second, state.scratch
        assert first is not None
        assert second is not None
        assert scratch is not None
        if spec.weight_decay and spec.name in ("adamw", "giadamw"):
            theta.mul_(1 - lr * spec.weight_decay)
        elif spec.weight_decay:
            grad.add_(theta, alpha=spec.weight_decay)
        if state.step == 0:
            self._start(grad, second)
        first.lerp_(grad, 1 - beta1)
        second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        # m / c1 / (sqrt(v) / c2 + eps) with c1 = 1 - beta1^t, c2 = sqrt(1 - beta2^t), the constants moved out
        # of the (N, P) kernels.
        c1 = 1 - beta1 ** (state.step + 1)
        c2 = math.sqrt(1 - beta2 ** (state.step + 1))
        eps, factor = spec.eps * c2, c2
        if spec.name == "radam":  # adds eps before the correction, and corrects by less while v is uncertain
            eps, factor = spec.eps, c2 * _rectification(beta2, state.step + 1)
            if factor == 0:
                theta.addcmul_(first, lr * (-1 / c1))
                return
        torch.sqrt(second, out=scratch).add_(eps)
        torch.div(first, scratch, out=scratch)
        theta.addcmul_(scratch, lr * (-factor / c1))

    def _start(self, grad: Tensor, second: Tensor) -> None:
        """The second moment before the first update, in place; it is 0 where the rule is Adam's."""
        if self.spec.name in ("giadam", "giadamw"):
            torch.mul(grad, grad, out=second)
        elif self.spec.name == "riadam":  # one draw for all replicas, each scaled to its own gradient
            draw = normal(grad.shape[1], self.spec.seed).to(grad.device)
            scale = grad.double().norm(dim=1, keepdim=True) / draw.norm()
            second.copy_((draw * scale).square_())


def _rectification(beta2: float, step: int) -> float:
    """RAdam's factor on the learning rate; 0 while the second moment is too uncertain to divide by."""
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    if length <= 5:
        return 0.0
    return math.sqrt((length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length))
