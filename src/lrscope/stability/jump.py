"""The learning rate whose next step raises the loss a little: how far a catapult is thrown."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lrscope.errors import MeasurementError
from lrscope.objective import Objective
from lrscope.optimizers.clock import innermost
from lrscope.optimizers.clone import NextStep
from lrscope.stability.crossing import Search
from lrscope.wrapping import whole


@dataclass(frozen=True)
class Jump:
    """A learning rate that raises the loss a little.

    Attributes:
        lr: Where the search ended; ``nan`` where it has no answer.
        status: Of the search: ``found``; ``stable up to the largest``, which is then the answer; ``unstable at the
            smallest``, likewise; or why there is no answer.
        forwards: Forward passes over the batch.
    """

    lr: float
    status: str
    forwards: int


def find_jump(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    *,
    smallest: float,
    largest: float,
    delta: float = 0.1,
    start: float | None = None,
    max_forwards: int = 25,
) -> Jump:
    r"""Learning rate of the next step that raises the loss, by a share ``delta`` of it at most.

    .. math:: L < L(\theta + \Delta(\eta)) \le (1 + \delta) L

    The step is that of the live optimizer, with its state and the gradients in ``.grad``, as the coming update will
    use them. Where the loss has a jump, the last learning rate below it is the answer.

    Args:
        objective: The loss, over the model whose gradients are ready.
        optimizer: The live optimizer; learning rates are those of its first group that is not at 0.
        smallest, largest: Learning rates tried at most.
        delta: Above 0, at most 1.
        start: First learning rate tried; by default the one that would bring the linearised loss to zero.
        max_forwards: Forward passes at most, without the one at the present parameters.

    Returns:
        :class:`Jump`. Cost: forward passes over the batch, about 5 to 8, and two updates on copies.

    Raises:
        MeasurementError: There is no gradient, or a sparse one, or the next step cannot be tried on a copy.
        ValueError: A number is out of range.

    References:
        Kalra and Barkeshli, 2024, arXiv 2406.09405, the search for the initial learning rate; by interpolation here,
        where the paper doubles and bisects.
    """
    optimizer = innermost(optimizer)
    grad = ready_gradient(objective)
    if not bool(torch.isfinite(grad).all()):
        return Jump(math.nan, "gradient not finite", 0)
    if not bool(grad.any()):
        return Jump(math.nan, "zero gradient", 0)
    theta = objective.point()
    level = objective.loss(theta)
    if not math.isfinite(level):
        return Jump(math.nan, "loss not finite", 1)
    move = NextStep(optimizer, objective.model, theta, grad)
    slope = float(grad @ move(1.0)) if move.linear else math.nan
    tried: dict[float, float] = {}

    def probe(lr: float) -> float:
        tried[lr] = objective.loss(theta + move(lr))
        return tried[lr]

    search = Search(smallest, largest, min(delta, 0.1), max_forwards, start=start, rise=delta)
    found = search.along(probe, level, slope)
    lr = found.low  # where all were stable, or none
    if found.status == "found":
        lr = found.high if tried[found.high] <= level + delta * abs(level) else found.low
    return Jump(lr, found.status, 1 + len(tried))


def ready_gradient(objective: Objective, who: str = "CatapultWarmup") -> Tensor:
    """The gradient in ``.grad``, as the coming update will use it: accumulated, clipped, averaged; ``(P,)``.

    ``who`` asks, for messages.

    Raises:
        MeasurementError: There is none, or it is sparse.
    """
    params = dict(objective.model.named_parameters())
    grads = {name: params[name].grad for name in objective.layout.names}
    if all(grad is None for grad in grads.values()):
        raise MeasurementError(
            f"{who}: no parameter has a gradient; call scheduler.observe after loss.backward() and before "
            "optimizer.step()"
        )
    for name, grad in grads.items():
        if grad is not None and grad.is_sparse:
            raise MeasurementError(
                f"{who}: the gradient of {name!r} is sparse, so steps cannot be tried; build the embedding "
                "with sparse=False"
            )
    pieces = {n: torch.zeros_like(params[n]) if g is None else g for n, g in grads.items()}
    return objective.layout.flatten({n: whole(g.detach()) for n, g in pieces.items()})
