"""From an optimizer with weight decay to its exponential equivalent, with the condition measured first."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from lrscope.errors import LrscopeWarning, MeasurementError
from lrscope.objective import Objective
from lrscope.optimizers import EquivalentLR
from lrscope.stability.invariance import group_labels, scale_invariance


def equivalent_lr(
    objective: Objective,
    optimizer: Optimizer,
    schedule: Any,
    *,
    steps: int | None = None,
    invariant: Sequence[str | int] | None = None,
) -> EquivalentLR:
    """Train the scale-invariant groups of an SGD without weight decay, to the same functions, once they are measured.

    Args:
        objective: The loss of this optimizer's model; one batch is enough.
        optimizer: A ``torch.optim.SGD`` whose groups are invariant as a whole or not at all;
            :meth:`ScaleInvariance.param_groups` splits a model's parameters so.
        schedule, steps: As for :class:`lrscope.optimizers.EquivalentLR`, which is returned.
        invariant: The groups to convert, by name or index; all that are scale invariant unless given.

    Cost: that of :func:`scale_invariance` for the optimizer's groups.

    Raises:
        MeasurementError: A group that is named is not scale invariant, or none is.
        ScheduleError: There is no exact equivalent.

    Warns:
        LrscopeWarning: A group is nearly invariant, as with the eps of a normalisation: training is chaotic, so the
            two runs then agree in their statistics, not step by step.

    Example:
        >>> import torch
        >>> from lrscope.schedules import Constant
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.LayerNorm(4, eps=0.0))
        >>> objective = Objective(net, lambda m, x: m(x).pow(3).mean(), [torch.randn(8, 3)])
        >>> groups = scale_invariance(objective).param_groups(net)
        >>> optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)
        >>> list(equivalent_lr(objective, optimizer, Constant(1.0), steps=100).equivalents)
        [0]
    """
    labels = group_labels(optimizer)
    found = scale_invariance(objective, optimizer)
    of = {group.name: group for group in found.groups}
    if invariant is None:
        chosen = [i for i, label in enumerate(labels) if label in of and of[label].verdict in ("exact", "nearly")]
        if not chosen:
            raise MeasurementError(
                f"optimizer: no group is scale invariant ({'; '.join(map(str, found.groups))}); split the "
                "parameters with scale_invariance(objective).param_groups(model)"
            )
    else:
        chosen = list(invariant)
    for name in chosen:
        label = labels[name] if isinstance(name, int) and 0 <= name < len(labels) else name
        group = of.get(str(label))
        if group is not None and group.verdict in ("no", "unseen"):
            raise MeasurementError(
                f"invariant: {group}; convert only groups that are, or split the "
                "parameters with scale_invariance(objective).param_groups(model)"
            )
        if group is not None and group.verdict == "nearly":
            warnings.warn(
                f"invariant: {group}. The converted run agrees with the original in its statistics, not step by step",
                LrscopeWarning,
                stacklevel=2,
            )
    return EquivalentLR(optimizer, schedule, invariant=chosen, steps=steps)
