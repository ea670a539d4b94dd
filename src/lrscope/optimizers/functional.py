"""The update rules on N stacked parameter vectors at once, each replica with its own numbers.

The same arithmetic as ``torch.optim`` and the optimizers of this room, step by step; ``tests/reference`` holds the
two equal. Shapes: theta and grad ``(N, P)``, lr ``(N, 1)``; any other number of the rule is a float where all
replicas have the same, and ``(N, 1)`` where they differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
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

    def tensors(self) -> list[Tensor]:
        """What it holds of each replica."""
        return [t for t in (self.first, self.second) if t is not None]

    def keep(self, rows: Tensor) -> FunctionalState:
        """The state of the replicas at index ``rows`` only."""
        kept = [None if t is None else t[rows] for t in (self.first, self.second, self.scratch)]
        return FunctionalState(self.step, *kept)


class FunctionalOptimizer:
    """``spec``'s update rule for stacked replicas.

    Args:
        spec: One for all replicas, or one for each; these share the rule and nesterov and differ in numbers only.

    Raises:
        ValueError: Specs of several rules, or of which some have nesterov.

    Example:
        >>> rule = FunctionalOptimizer(OptimizerSpec.parse("sgd(momentum=0)"))
        >>> theta = torch.ones(2, 3)
        >>> rule.update(theta, torch.ones(2, 3), torch.tensor([[0.5], [1.0]]), rule.init(theta))
        >>> theta[:, 0]
        tensor([0.5000, 0.0000])
    """

    def __init__(self, spec: OptimizerSpec | Sequence[OptimizerSpec]) -> None:
        self.specs = (spec,) if isinstance(spec, OptimizerSpec) else tuple(spec)
        if len(set(self.specs)) == 1:
            self.specs = self.specs[:1]
        kinds = {(s.name, s.nesterov) for s in self.specs}
        if len(kinds) != 1:
            found = ", ".join(sorted(f"{name}(nesterov={nesterov})" for name, nesterov in kinds)) or "none"
            raise ValueError(f"spec: replicas share one rule and differ in its numbers only, got {found}")
        ((self.name, self.nesterov),) = kinds
        betas = [s.betas for s in self.specs]
        self.momentum = _number([s.momentum for s in self.specs])
        # Without momentum torch keeps no buffer, and nothing is dampened.
        self.dampening = _number([s.dampening if s.momentum else 0.0 for s in self.specs])
        self.weight_decay = _number([s.weight_decay for s in self.specs])
        self.eps = _number([s.eps for s in self.specs])
        self.beta1, self.beta2 = _number([b for b, _ in betas]), _number([b for _, b in betas])
        self.seeds = [s.seed for s in self.specs]
        self.decays, self.remembers = bool(np.any(self.weight_decay)), bool(np.any(self.momentum))

    def keep(self, rows: Tensor) -> FunctionalOptimizer:
        """The rule of the replicas at index ``rows`` only."""
        same = len(self.specs) == 1 or not len(rows)
        return self if same else FunctionalOptimizer([self.specs[i] for i in rows.tolist()])

    def init(self, theta: Tensor) -> FunctionalState:
        """The state before the first update."""
        if self.name == "sgd":
            return FunctionalState()
        moments = (torch.zeros_like(theta, requires_grad=False) for _ in range(3))
        return FunctionalState(0, *moments)

    def numbers(self, rates: Tensor, step: int) -> list[Tensor]:
        """What the updates from ``step`` (counted from 0) on need that changes from one to the next.

        Args:
            rates: Learning rates of K updates, ``(K, N, 1)``.

        Returns:
            Tensors ``(K, N or 1, 1)``, in an order that is the rule's own.
        """
        if self.name == "sgd":
            return [rates]

        def tensor(values: Any) -> Tensor:
            array = np.broadcast_to(values, (len(rates), *np.shape(values)[1:])) + 0
            return torch.from_numpy(array).to(rates.device, torch.promote_types(rates.dtype, torch.float32))

        # m / c1 / (sqrt(v) / c2 + eps) with c1 = 1 - beta1^t, c2 = sqrt(1 - beta2^t), the constants moved out
        # of the (N, P) kernels.
        steps = np.arange(step + 1, step + 1 + len(rates), dtype=float)[:, None, None]
        c1, c2 = 1 - self.beta1**steps, np.sqrt(1 - self.beta2**steps)
        eps, factor, rest = self.eps * c2, c2, []
        if self.name == "radam":  # adds eps before the correction, and corrects by less while v is uncertain
            rectification = _rectification(self.beta2, steps)
            divided = rectification > 0
            eps, factor = self.eps + 0 * steps, np.where(divided, c2 * rectification, 1.0)
            rest = [torch.from_numpy(divided).to(rates.device)]
        if self._decoupled:
            rest.append(1 - rates * _on(rates, self.weight_decay))
        return [rates * tensor(-factor / c1), tensor(eps), *rest]

    @torch.no_grad()
    def update(self, theta: Tensor, grad: Tensor, lr: Tensor, state: FunctionalState) -> None:
        """One update of ``theta`` and ``state`` in place; ``grad`` is used as working memory."""
        self.apply(theta, grad, [n[0] for n in self.numbers(lr[None], state.step)], state)
        state.step += 1

    @torch.no_grad()
    def apply(self, theta: Tensor, grad: Tensor, numbers: Sequence[Tensor], state: FunctionalState) -> None:
        """An update with what :meth:`numbers` has for it; the caller counts it in ``state``.

        From the second update on it is the same operations on the same memory each time.
        """
        if self.name == "sgd":
            self._sgd(theta, grad, numbers[0], state)
        else:
            self._adam(theta, grad, *numbers, state=state)

    @property
    def _decoupled(self) -> bool:
        return self.decays and self.name in ("adamw", "giadamw")

    def _sgd(self, theta: Tensor, grad: Tensor, lr: Tensor, state: FunctionalState) -> None:
        if self.decays:
            _add(grad, theta, self.weight_decay)
        if self.remembers:
            if state.first is None:  # torch starts the buffer at the first gradient, undampened
                state.first = grad.clone()
            elif not np.any(self.dampening) and np.ndim(self.momentum) == 0:  # in one pass over the memory
                torch.add(grad, state.first, alpha=self.momentum, out=state.first)
            else:
                _add(state.first.mul_(_on(theta, self.momentum)), grad, 1 - self.dampening)
            grad = _add(grad, state.first, self.momentum) if self.nesterov else state.first
        theta.addcmul_(grad, lr, value=-1)

    def _adam(
        self, theta: Tensor, grad: Tensor, size: Tensor, eps: Tensor, *rest: Tensor, state: FunctionalState
    ) -> None:
        first, second, scratch = state.first, state.second, state.scratch
        assert first is not None
        assert second is not None
        assert scratch is not None
        if self._decoupled:
            theta.mul_(rest[-1])
        elif self.decays:
            _add(grad, theta, self.weight_decay)
        if state.step == 0:
            self._start(grad, second)
        if isinstance(self.beta1, float):
            first.lerp_(grad, 1 - self.beta1)
        else:
            _add(first, torch.sub(grad, first, out=scratch), 1 - self.beta1)
        if isinstance(self.beta2, float):
            second.mul_(self.beta2).addcmul_(grad, grad, value=1 - self.beta2)
        else:
            _add(second.mul_(_on(second, self.beta2)), torch.mul(grad, grad, out=scratch), 1 - self.beta2)
        torch.sqrt(second, out=scratch).add_(eps)
        torch.div(first, scratch, out=scratch)
        if self.name == "radam":
            torch.where(rest[0], scratch, first, out=scratch)
        theta.addcmul_(scratch, size)

    def _start(self, grad: Tensor, second: Tensor) -> None:
        """The second moment before the first update, in place; it is 0 where the rule is Adam's."""
        if self.name in ("giadam", "giadamw"):
            torch.mul(grad, grad, out=second)
        elif self.name == "riadam":  # one draw for all replicas of a seed, each scaled to its own gradient
            draws = {seed: normal(grad.shape[1], seed).to(grad.device) for seed in self.seeds}
            draw = torch.stack([draws[seed] for seed in self.seeds])
            scale = grad.double().norm(dim=1, keepdim=True) / draw.norm(dim=1, keepdim=True)
            second.copy_((draw * scale).square_())


def _number(values: Sequence[float]) -> Any:
    """A float if all are the same, else ``(N, 1)``."""
    return values[0] if len(set(values)) == 1 else np.asarray(values)[:, None]


def _on(like: Tensor, value: Any) -> Any:
    """``value`` as what a kernel over ``like`` takes; of low-precision parameters no number is rounded to theirs."""
    if np.ndim(value) == 0:
        return float(value)
    return torch.from_numpy(value).to(like.device, torch.promote_types(like.dtype, torch.float32))


def _add(target: Tensor, source: Tensor, factor: Any) -> Tensor:
    """``target += factor * source``."""
    if np.ndim(factor) == 0:
        return target.add_(source, alpha=float(factor))
    return target.addcmul_(source, _on(target, factor))


def _rectification(beta2: Any, step: Any) -> Any:
    """RAdam's factor on the learning rate; 0 while the second moment is too uncertain to divide by."""
    longest = 2 / (1 - beta2) - 1
    length = longest - 2 * step * beta2**step / (1 - beta2**step)
    certain = length > 5
    longest, length = np.where(certain, longest, 6.0), np.where(certain, length, 6.0)  # whatever has a root
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return np.where(certain, np.sqrt(ratio), 0.0)
