"""What weight decay does to the largest stable learning rate."""

from __future__ import annotations

from typing import Literal

import torch

from lrscope.curvature import stability_threshold
from lrscope.errors import MeasurementError
from lrscope.params import relative_rates


def decay_curvature(optimizer: torch.optim.Optimizer, step: Literal["first", "late"] = "late") -> float:
    r"""What weight decay w adds to the sharpness in ``lr * sharpness < threshold``.

    ==========================  ===================  ===============================
    optimizer                   first step           late
    ==========================  ===================  ===============================
    SGD, any momentum           w                    w
    AdamW, decoupled decay      w / (1 - beta1)      w (1 + beta1) / (1 - beta1)
    ==========================  ===================  ===============================

    SGD's decay is the gradient of w |theta|^2 / 2, so it adds w to every eigenvalue of the Hessian. Decoupled decay
    multiplies theta by 1 - lr w, beside momentum: stable is :math:`\eta h (1 - \beta_1) < (1 + \beta_1)(2 - \eta w)`
    with h the preconditioned curvature, late, and :math:`\eta h (1 - \beta_1) < 2 - \eta w` at the first step. Both
    are exact on a quadratic with P frozen, in every direction at once, and confirmed by stepping the real optimizers.

    For usual settings the effect is small: it lowers AdamW's largest stable rate by lr w / 2 of itself (5e-6 at
    lr 1e-3, w 1e-2), so :func:`~lrscope.curvature.headroom` leaves it out; add it for large products lr w.

    Returns:
        A number to add to the (preconditioned) sharpness: ``headroom(lr, sharpness + decay_curvature(opt), t)``.

    Raises:
        MeasurementError: Decay is not one number for all directions: groups that differ in it or in their learning
            rate, or coupled decay in front of a preconditioner (Adam, RMSprop); or an optimizer not known here.
        ValueError: ``step`` is neither ``"first"`` nor ``"late"``.
    """
    stability_threshold(optimizer, step)  # refuses what has none
    groups = optimizer.param_groups
    decays = {float(g["weight_decay"]) for g in groups}
    if decays == {0.0}:
        return 0.0
    if len(decays) > 1 or len(set(relative_rates(groups))) > 1:
        raise MeasurementError(
            f"optimizer: groups differ in weight decay ({sorted(decays)}) or learning rate, so it adds no single "
            "number; ask for each group with an objective in which the others are frozen"
        )
    (w,) = decays
    if isinstance(optimizer, torch.optim.SGD):
        return w
    if not groups[0].get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW)):
        raise MeasurementError(
            f"optimizer: the weight_decay of {type(optimizer).__name__} goes through its preconditioner, so it adds "
            "another number in every direction; put weight_decay * |theta|^2 / 2 into the loss that is measured"
        )
    beta1 = float(groups[0]["betas"][0])
    return w * (1 if step == "first" else 1 + beta1) / (1 - beta1)
