"""From a live optimizer to its preconditioner, and to the step at which it becomes unstable."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lrscope.curvature.point import loss_and_grad, vector
from lrscope.errors import MeasurementError
from lrscope.params import Group, groups_of, relative_rates
from lrscope.wrapping import whole

if TYPE_CHECKING:
    from lrscope.curvature.result import EigenResult
    from lrscope.objective import Objective

State = dict[str, Any]
Rule = Callable[[State, Group, Tensor], Tensor]
"""P of one parameter from its optimizer state, its group and its gradient, weight decay included."""


def is_adaptive(optimizer: torch.optim.Optimizer) -> bool:
    """Whether the update is preconditioned (Adam, AdamW, RMSprop) rather than a multiple of averaged gradients (SGD).

    Raises:
        MeasurementError: Another optimizer, whose stability threshold is not known here.
    """
    return _rule(optimizer) is not None


def _rule(optimizer: torch.optim.Optimizer) -> Rule | None:
    """P of one parameter by the optimizer's kind; ``None`` where it is 1."""
    for kinds, rule in _RULES:
        if isinstance(optimizer, kinds):
            return rule
    raise MeasurementError(
        f"optimizer: {type(optimizer).__name__} has no preconditioner known here; SGD, Adam, AdamW and RMSprop (and "
        "their subclasses) have. Plain sharpness needs no optimizer"
    )


def reference_lr(optimizer: torch.optim.Optimizer) -> float:
    """The learning rate that a preconditioned sharpness belongs to: that of the first group whose rate is not 0.

    Where a schedule holds all groups at 0 it is 0, though their ratios still count in :func:`preconditioner`.

    Raises:
        MeasurementError: Several groups at 0 whose ratios cannot be told.
    """
    relative = relative_rates(optimizer.param_groups)
    return float(optimizer.param_groups[relative.index(1.0)]["lr"])


@torch.no_grad()
def preconditioner(optimizer: torch.optim.Optimizer, objective: Objective, gradient: Tensor | None = None) -> Tensor:
    r"""Diagonal P of the step that the optimizer is about to take, shape ``(P,)``, all positive.

    SGD: ones. RMSprop: the root mean square that divides the gradient, eps included. Adam and AdamW, for update
    number t (1 for the first) with gradient g:

    .. math:: P_t = (1 - \beta_1^t) \left( \sqrt{v_t / (1 - \beta_2^t)} + \epsilon \right), \quad
              v_t = \beta_2 v_{t-1} + (1 - \beta_2) g^2

    v_t already contains the current gradient, and a fresh optimizer (t = 1) works; where v starts at the squared
    gradient (GI-Adam) a fresh one is read as its first step will make it. The factor
    :math:`1 - \beta_1^t` undoes Adam's correction of its momentum, so that the same threshold holds at every late t.

    Groups whose learning rates differ are absorbed: their part of P is multiplied by lr_0 / lr_g, with lr_0 the
    :func:`reference_lr`, since a group at twice the rate moves as if its P were half. A group at rate 0 gets ``inf``.
    Where a schedule holds all of them at 0, the ratios are those of their ``initial_lr``.
    AdamW's decoupled decay does not enter; Adam's ``weight_decay`` is part of g, as in the optimizer.

    Args:
        optimizer: Holds every parameter of ``objective.layout``; they are matched by identity.
        objective: Gives the parameter order (``objective.layout``) and, if needed, the gradient.
        gradient: The gradient of the coming step, shape ``(P,)``. By default that of ``objective`` at the model's
            current parameters; cost then: one gradient (none for SGD).

    Raises:
        MeasurementError: A parameter of the objective is not in the optimizer, the optimizer is of another kind, it
            maximizes, or the ratios of its rates cannot be told.

    References:
        Kalra & Barkeshli 2024, arXiv 2406.09405, and the authors' code (the printed formula lacks the
        root). Cohen et al., Adaptive gradient methods at the edge of stability, 2022, arXiv 2207.14484.
    """
    rule = _rule(optimizer)
    groups = groups_of(optimizer, objective.model, objective.layout.names)
    if any(group.get("maximize") for group in optimizer.param_groups):
        raise MeasurementError("optimizer: maximize=True climbs the loss, so no step size is stable in this sense")
    rates = zip(optimizer.param_groups, relative_rates(optimizer.param_groups), strict=True)
    relative = {id(group): rate for group, rate in rates}
    pieces: dict[str, Tensor] = {}
    params = dict(objective.model.named_parameters())
    grads: dict[str, Tensor] = {}
    if rule is not None:
        if gradient is None:
            gradient = loss_and_grad(objective, objective.point())[1]
        if not bool(torch.isfinite(vector("gradient", gradient, objective.size)).all()):
            raise MeasurementError(
                f"gradient: {int((~torch.isfinite(gradient)).sum())} of its {objective.size} entries are nan or inf, "
                "so the coming step has no preconditioner; the loss is not finite here, or the run has diverged"
            )
        grads = objective.layout.unflatten(gradient)
        for name, g in grads.items():
            group = groups[name]
            if group["weight_decay"] and not group.get(
                "decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)
            ):
                grads[name] = g + group["weight_decay"] * whole(params[name].detach())
    fresh = [name for name in grads if not optimizer.state.get(params[name])]
    # GI-Adam and its kin start v when they get their first gradient, which is this one.
    start = getattr(optimizer, "initial_second_moments", None)
    started = dict(zip(fresh, start([grads[name] for name in fresh]), strict=True)) if start and fresh else {}
    for name in objective.layout.names:
        p, group = params[name], groups[name]
        if rule is None:
            P = torch.ones_like(whole(p.detach()))
        else:
            # Sharded parameters have sharded states; theta and P are whole.
            state = {k: whole(v) if isinstance(v, Tensor) else v for k, v in optimizer.state.get(p, {}).items()}
            P = rule({"exp_avg_sq": started[name]} if name in started else state, group, grads[name])
        rate = relative[id(group)]
        if rate != 1:
            P = P / rate if rate > 0 else torch.full_like(P, float("inf"))
        pieces[name] = P
    return objective.layout.flatten(pieces)


def _adam(state: State, group: Group, g: Tensor) -> Tensor:
    beta1, beta2 = (float(b) for b in group["betas"])
    t = int(state.get("step", 0)) + 1
    v = (1 - beta2) * g * g
    if "exp_avg_sq" in state:
        v = v + beta2 * state["exp_avg_sq"]
    if group.get("amsgrad") and "max_exp_avg_sq" in state:
        v = torch.maximum(v, state["max_exp_avg_sq"])
    return (1 - beta1**t) * ((v / (1 - beta2**t)).sqrt() + float(group["eps"]))


def _rmsprop(state: State, group: Group, g: Tensor) -> Tensor:
    alpha = float(group["alpha"])
    v = (1 - alpha) * g * g
    if "square_avg" in state:
        v = v + alpha * state["square_avg"]
    if group["centered"]:
        mean = (1 - alpha) * g
        if "grad_avg" in state:
            mean = mean + alpha * state["grad_avg"]
        v = (v - mean * mean).clamp(min=0)  # rounding alone may make it negative
    return v.sqrt() + float(group["eps"])


_RULES: list[tuple[tuple[type[torch.optim.Optimizer], ...], Rule | None]] = [
    ((torch.optim.SGD,), None),
    ((torch.optim.Adam, torch.optim.AdamW), _adam),
    ((torch.optim.RMSprop,), _rmsprop),
]


def stability_threshold(optimizer: torch.optim.Optimizer, step: Literal["first", "late"] = "late") -> float:
    r"""The number that ``lr * sharpness`` must stay below for the step to be stable on a quadratic.

    =====================================  ======================  =======================================
    optimizer                              first step              late
    =====================================  ======================  =======================================
    SGD                                    2                       2
    SGD, momentum b, dampening d           2                       (2 + 2b) / (1 - d)
    SGD, momentum b, Nesterov              2 / (1 + b)             (2 + 2b) / (1 + 2b)
    Adam, AdamW (preconditioned)           2 / (1 - beta1)         (2 + 2 beta1) / (1 - beta1)
    RMSprop, momentum b (preconditioned)   2                       2 + 2b
    =====================================  ======================  =======================================

    For Adam and RMSprop the sharpness is that of ``P^-1 H`` with P from :func:`preconditioner`. Late values assume a
    preconditioner and a curvature that change slowly. With momentum, small batches become unstable below these lines.

    Raises:
        MeasurementError: Another optimizer, or groups that differ in momentum.
        ValueError: ``step`` is neither ``"first"`` nor ``"late"``.

    References:
        Kalra & Barkeshli 2024, arXiv 2406.09405; Nesterov: Cohen et al. 2021, arXiv 2103.00065.
        Each is confirmed by stepping the real optimizer on a one-dimensional quadratic.
    """
    if step not in ("first", "late"):
        raise ValueError(f"step: expected 'first' or 'late', got {step!r}")
    _rule(optimizer)  # refuses an unknown one
    kinds = {_momentum(group) for group in optimizer.param_groups}
    if len(kinds) > 1:
        raise MeasurementError(
            f"optimizer: groups differ in momentum ({sorted(kinds)}), so no single threshold exists; ask for each "
            "group with an objective in which the others are frozen"
        )
    ((b, dampening, nesterov),) = kinds
    if "betas" in optimizer.param_groups[0]:
        return (2 if step == "first" else 2 + 2 * b) / (1 - b)
    if step == "first":
        return 2 / (1 + b) if nesterov else 2.0
    return (2 + 2 * b) / (1 + 2 * b if nesterov else 1 - dampening)


def _momentum(group: Group) -> tuple[float, float, bool]:
    if "betas" in group:
        return float(group["betas"][0]), 0.0, False
    b = float(group["momentum"])
    # Without momentum torch ignores dampening and refuses Nesterov.
    return (b, float(group.get("dampening", 0.0)), bool(group.get("nesterov", False))) if b else (0.0, 0.0, False)


def headroom(lr: float, sharpness: float | EigenResult, threshold: float) -> float:
    """How much of the stable range is in use: ``lr * sharpness / threshold``.

    Below 1 the step is stable on the local quadratic, above 1 it is not; 0 where no direction curves upward.
    ``1 / headroom`` is the factor by which the learning rate could grow now.

    Args:
        lr: Learning rate of the step; for several groups the :func:`reference_lr`.
        sharpness: A number or the result of a measurement; preconditioned for the Adam family.
        threshold: From :func:`stability_threshold`.
    """
    value = sharpness if isinstance(sharpness, (int, float)) else sharpness.value
    if not threshold > 0:
        raise ValueError(f"threshold: expected a positive number from stability_threshold(), got {threshold!r}")
    return max(0.0, float(lr) * float(value) / threshold) if value == value else float("nan")
