"""Adam whose second moment starts at the square of the initial gradient instead of 0: a warmup that is built in."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from lrscope.errors import LrscopeWarning
from lrscope.params import Group


class GIAdam(torch.optim.Adam):
    r"""Adam with a gradient-initialised second moment, ``v_0 = g_0^2``; all else is ``torch.optim.Adam``.

    Adam's very first steps are its longest: v is built from one gradient, so every coordinate moves by the full
    learning rate, however sure of it the gradient is. Starting v at :math:`g_0^2`, and keeping both bias corrections,
    turns that into a warmup which nobody has to tune. Where :math:`E[v_t]` is already right, the correction that is
    kept enlarges it by :math:`1/(1-\beta_2^t)`:

    .. math:: \theta_t = \theta_{t-1} - \eta\,r_t \frac{\hat m_t}{\sqrt{v_t} + \epsilon\,r_t},
              \quad r_t = \sqrt{1 - \beta_2^t}

    which is Adam without a correction of v at the learning rate :math:`\eta\,r_t`: exactly. For
    :math:`\beta_2 = 0.999`, r is 0.03 at step 1, 0.31 at step 100, 0.80 at step 1,000 and 0.95 at step 2,300.

    **Which gradient is g_0.** By default the gradient of the first ``step()``: no extra batch, and the first update
    then moves every coordinate by ``lr * sqrt(1 - beta2)``. The paper draws one more batch at the initial
    weights and makes no update on it; :meth:`initialise` does that. With full batches the two are the same. With
    small ones they differ: under the paper's form a coordinate that g_0 missed, and the next gradient does not, makes
    a full step of Adam.

    Only the creation of the optimizer state is ours, so every step after the first one *is* torch's: ``foreach``,
    ``fused``, ``capturable``, ``differentiable``, ``amsgrad``, ``maximize``, complex parameters, a Tensor ``lr``,
    ``torch.compile``, DDP and FSDP2 work as they do there, and sparse gradients are refused as they are there.

    - A parameter without a gradient starts at the first gradient it gets: late groups, layers that are unfrozen.
    - An element whose g_0 is 0 starts as in Adam. Whole parameters of this kind are told once, in a warning.
    - With a ``GradScaler``, an update that is skipped initialises nothing.
    - ``state_dict()`` has the keys of Adam's and loads into ``torch.optim.Adam``; g_0 is inside ``exp_avg_sq``, so
      a resumed run is bit-equal. A state of ``torch.optim.Adam`` loads too, and is continued as it is.

    Args:
        params: As in ``torch.optim.Adam``, and so are all other arguments. A ``weight_decay`` that is not decoupled
            is part of g_0, as it is part of every gradient.

    Example:
        >>> theta = torch.nn.Parameter(torch.ones(2))
        >>> optimizer = GIAdam([theta], lr=0.1)
        >>> theta.grad = torch.tensor([5.0, -0.02])
        >>> optimizer.step()
        >>> theta.detach()  # 1 - 0.1 * sqrt(1 - 0.999) and 1 + that; Adam's would be 0.9 and 1.1
        tensor([0.9968, 1.0032])

    References:
        Kalra & Barkeshli, Why Warmup the Learning Rate? Underlying Mechanisms and Improvements, 2024,
        arXiv 2406.09405, the section on GI-Adam.
    """

    _known = -1  # entries of ``state`` that are initialised; any other number of them is looked into
    _rehearsed = False  # the state came about without a gradient: it is thrown away before the first real one

    @torch.no_grad()
    def initialise(self) -> None:
        """Start v at the gradients that are in ``.grad`` now, without an update: the form of the paper.

        Call it once before training, after the backward pass of one extra batch, then clear the gradients.
        Parameters that have a state already, from a step or from a checkpoint, keep it. Under a ``GradScaler``, whose
        gradients are scaled, leave this to the first ``step()``.

        Raises:
            ValueError: No parameter has a gradient, or all of them are 0, or one is not finite.
            RuntimeError: A gradient is sparse.

        Example:
            >>> model = torch.nn.Linear(3, 1)
            >>> optimizer = GIAdam(model.parameters(), lr=0.1)
            >>> model(torch.ones(4, 3)).square().mean().backward()
            >>> optimizer.initialise()
            >>> optimizer.zero_grad()
        """
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        name = type(self).__name__
        if not grads:
            raise ValueError(f"{name}.initialise: no parameter has a gradient; call loss.backward() on a batch first")
        dense = [g for g in grads if not g.is_sparse]  # those that are get torch's own refusal
        if not all(bool(g.isfinite().all()) for g in dense):
            raise ValueError(
                f"{name}.initialise: a gradient is not finite, and what starts there would never move; use another "
                "batch, or leave the start to the first step() (as under a GradScaler)"
            )
        if dense and not any(bool(g.any()) for g in dense):
            raise ValueError(f"{name}.initialise: all gradients are 0; use a batch whose loss depends on the weights")
        for group in self.param_groups:
            self._init_group(group, [], [], [], [], [], [])

    def initial_second_moments(self, gradients: Sequence[Tensor]) -> Iterator[Tensor]:
        """v_0 of parameters that start together, from their gradients; complex numbers come as pairs of reals."""
        return (g * g for g in gradients)

    def _init_group(self, group: Group, *lists: Any, **named: Any) -> bool:
        # torch makes the state of parameters here, when they get their first gradient, and that is all there is to
        # change. In every later call the numbers agree and nothing is looked into.
        state = self.state
        if len(state) != self._known:
            if self._rehearsed:
                state.clear()
                self._rehearsed = False
            for p in [p for p, entry in state.items() if not entry]:  # somebody looked, which makes an empty entry
                del state[p]
        before = len(state)
        result = super()._init_group(group, *lists, **named)
        if len(state) > before:
            self._start(group, before)
        else:
            self._known = before
        return result

    def _start(self, group: Group, before: int) -> None:
        """Start every parameter that has a gradient and no state yet, also of groups that have not had their turn."""
        state, done = self.state, False
        try:
            for other in self.param_groups:
                if other is not group:
                    super()._init_group(other, [], [], [], [], [], [])
            found_inf = getattr(self, "found_inf", None)  # of GradScaler, for a fused step
            if found_inf is None or not bool(found_inf):
                self._fill(list(state)[before:])
                done = True
        finally:
            if not done:  # refused, or an update that the fused kernel will skip
                for p in list(state)[before:]:
                    del state[p]
        self._known = -1 if self._rehearsed else len(state)

    def _fill(self, fresh: list[Tensor]) -> None:
        home = {p: group for group in self.param_groups for p in group["params"]}
        grads = [self._entering(p, home[p]) for p in fresh]
        still = [p for p, g in zip(fresh, grads, strict=True) if not bool(g.any())]
        if len(still) == len(fresh) and all(float(group["lr"]) == 0 for group in self.param_groups):
            # torch.distributed.checkpoint steps like this, to see what the state looks like.
            self._rehearsed = True
            return
        for p, square in zip(fresh, self.initial_second_moments(grads), strict=True):
            _real(self.state[p]["exp_avg_sq"]).copy_(square)
        if still:
            warnings.warn(
                f"{type(self).__name__}: {len(still)} of {len(fresh)} parameters have a zero gradient at their start "
                f"(the first has shape {tuple(still[0].shape)}), so these begin as in Adam, without the built-in "
                "warmup; a schedule with a warmup covers them",
                LrscopeWarning,
                stacklevel=2,
            )

    def _entering(self, p: Tensor, group: Group) -> Tensor:
        """The gradient as it enters v: unscaled, with weight decay where that is part of it."""
        grad = p.grad
        assert grad is not None
        if not group["differentiable"]:
            grad = grad.detach()
        scale = getattr(self, "grad_scale", None)
        if scale is not None:
            grad = grad / scale.to(grad.device)
        if group["weight_decay"] and not group["decoupled_weight_decay"]:
            grad = (-grad if group["maximize"] else grad).add(p, alpha=group["weight_decay"])
        return _real(grad)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        # The state of no update at all, or of a rehearsal: second moments that nothing has entered.
        entries = [entry["exp_avg_sq"] for entry in self.state.values() if "exp_avg_sq" in entry]
        self._rehearsed = bool(entries) and not any(bool(v.any()) for v in entries)
        self._known = -1


class GIAdamW(GIAdam, torch.optim.AdamW):
    """:class:`GIAdam` with decoupled weight decay: ``torch.optim.AdamW`` whose second moment starts at ``g_0^2``.

    Args:
        params, lr, betas, eps, weight_decay, amsgrad, maximize, foreach, capturable, differentiable, fused: As in
            ``torch.optim.AdamW``; its ``weight_decay`` of 0.01 included.

    Example:
        >>> optimizer = GIAdamW([torch.nn.Parameter(torch.ones(2))], lr=1e-3, weight_decay=0.1)
    """


class RIAdam(GIAdam):
    r"""Adam whose second moment starts at random: ``v_0 = r^2`` with r normal and as long as the gradient.

    r is drawn for all parameters that start together as one vector and scaled to :math:`\|r\| = \|g_0\|`, the
    Euclidean norm over all of them, so the sum of v_0 is that of GI-Adam and its pattern is not. A control
    experiment: it tells whether the size of v_0 matters or where it is large. For training use :class:`GIAdam`.

    Args:
        seed: Of the draw, which leaves torch's own generators alone. The others are those of :class:`GIAdam`.

    Raises:
        ValueError: At the start, if parameters are sharded (FSDP2): r would depend on the number of processes.

    References:
        Kalra & Barkeshli 2024, arXiv 2406.09405, appendix on RI-Adam.
    """

    def __init__(self, params: Any, *args: Any, seed: int = 0, **options: Any) -> None:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise ValueError(f"seed: expected an integer of 0 or more, got {seed!r}")
        super().__init__(params, *args, **options)
        self.defaults["seed"] = seed  # the one place that survives pickling

    def initial_second_moments(self, gradients: Sequence[Tensor]) -> Iterator[Tensor]:
        if any(hasattr(g, "device_mesh") for g in gradients):
            raise ValueError("RIAdam: parameters are sharded (FSDP2), so its draw has no meaning; use GIAdam")
        norm = torch.stack([g.double().norm().cpu() for g in gradients]).norm()
        draw = normal(sum(g.numel() for g in gradients), self.defaults["seed"])
        draw *= norm / draw.norm()
        pieces = draw.square_().split([g.numel() for g in gradients])
        return (piece.view(g.shape).to(g) for piece, g in zip(pieces, gradients, strict=True))


def normal(size: int, seed: int) -> Tensor:
    """RI-Adam's draw before it is scaled: shape ``(size,)``, float64, on the CPU so that devices agree."""
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _real(x: Tensor) -> Tensor:
    """Complex numbers as pairs of reals, the form in which torch's Adam squares them."""
    return torch.view_as_real(x) if x.is_complex() else x


__all__ = ["GIAdam", "GIAdamW", "RIAdam"]
