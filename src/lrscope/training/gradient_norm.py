"""The length of the gradient at each update, which a refined schedule is made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from lrscope.training.probes import TrainState


class GradientNorm:
    """A probe that logs the gradient's norms, over all parameters together, before each update.

    Columns ``gradient_norm``, the Euclidean one, from which the refined schedule for SGD is made, and
    ``gradient_norm_l1``, the sum of absolute values, for Adam and its kin. Cost: a pass over the gradients.

    ``lrscope train --gradient-norms`` uses it; ``lrscope plan --refine RUN`` reads what it logged.
    """

    name = "gradient_norm"
    every: int | None = None

    def __call__(self, state: TrainState) -> Mapping[str, float | None]:
        l2, l1 = gradient_norms(p for group in state.optimizer.param_groups for p in group["params"])
        return {"gradient_norm": l2, "gradient_norm_l1": l1}


@torch.no_grad()
def gradient_norms(parameters: Iterable[Tensor]) -> tuple[float, float]:
    """L2 and L1 norm of all gradients together; 0 where there is none.

    For a loop of your own: call it after ``loss.backward()`` (and unscaling, under mixed precision), before any
    clipping.

    Example:
        >>> p = torch.nn.Parameter(torch.zeros(2))
        >>> p.grad = torch.tensor([3.0, -4.0])
        >>> gradient_norms([p])
        (5.0, 7.0)
    """
    grads = [p.grad for p in parameters if p.grad is not None]
    values = [g.coalesce().values() if g.is_sparse else g for g in grads]
    if not values:
        return 0.0, 0.0
    # Norms of single tensors first, whose squares might overflow in half precision when summed as they are.
    l2 = torch.stack([torch.linalg.vector_norm(v, 2, dtype=_wide(v)) for v in values])
    l1 = torch.stack([torch.linalg.vector_norm(v, 1, dtype=_wide(v)) for v in values])
    both = torch.stack([torch.linalg.vector_norm(l2), l1.sum()]).tolist()  # one transfer from a device
    return both[0], both[1]


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)
