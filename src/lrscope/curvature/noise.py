"""The gradient-noise scale: the batch size at which noise and signal balance."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lrscope.curvature.measurement import Measurement, describe
from lrscope.curvature.point import loss_and_grad, point_of
from lrscope.errors import MeasurementError
from lrscope.objective import require_objective
from lrscope.records import Cost

if TYPE_CHECKING:
    from lrscope.objective import Objective

GROUPS = 16
"""Parts left out in turn for the standard error; their summed gradients are kept."""


@dataclass(frozen=True, eq=False, kw_only=True)
class NoiseScale(Measurement):
    """The simple noise scale; see :class:`~lrscope.curvature.measurement.Measurement` for the rest.

    Attributes:
        value: Trace of the covariance over squared gradient, in examples; ``inf`` where the gradient cannot be told
            from zero with these batches.
        stderr: Standard error, by leaving out groups of batches in turn; ``inf`` where one of them decides whether
            there is a gradient at all.
        covariance: Trace of the covariance of one example's gradient, without bias.
        squared_gradient: Squared length of the true gradient, without bias; may come out negative.
        num_batches: Batches it rests on.
    """

    value: float
    stderr: float
    covariance: float
    squared_gradient: float
    num_batches: int

    def __str__(self) -> str:
        return f"gradient-noise scale {self.value:.4g} +- {self.stderr:.1g} examples, {self.num_batches} batches"


def gradient_noise_scale(objective: Objective, theta: Tensor | None = None, *, complete: bool = False) -> NoiseScale:
    r"""How many examples a batch must hold for its gradient to be more signal than noise.

    .. math:: B = \frac{\operatorname{tr} \Sigma}{|G|^2}

    with G the true gradient and :math:`\Sigma` the covariance of a single example's. Batches far below B waste no
    examples but many steps, those far above it the reverse; the learning rate worth using saturates at about B.
    Both parts are estimated without bias from the spread of batch gradients :math:`g_b` of :math:`n_b` examples
    around their mean :math:`\bar g`, N examples in K batches in all:

    .. math:: \operatorname{tr} \Sigma \approx \frac{1}{K - 1} \sum_b n_b |g_b - \bar g|^2, \qquad
              |G|^2 \approx |\bar g|^2 - \operatorname{tr} \Sigma / N

    Args:
        objective: Its batches should be random draws from the data; many small ones tell more than few large ones.
            In several processes the batches of one turn count as one.
        theta: Where, ``(P,)``; the model's current parameters by default.
        complete: The batches are all the data there are, so that :math:`\bar g` itself is the true gradient. Late in
            training on few data it is so small that beyond these data it could not be told from zero.

    Returns:
        :class:`NoiseScale`. Cost: one gradient; memory: up to 17 vectors.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        MeasurementError: Fewer than three batches, or a gradient that is not finite.

    Example:
        >>> L = lrs.Objective(model, loss_fn, list(data.split(8)))  # doctest: +SKIP
        >>> print(gradient_noise_scale(L))                          # doctest: +SKIP
        gradient-noise scale 61.3 +- 9 examples, 40 batches

    References:
        McCandlish, Kaplan, Amodei et al., An empirical model of large-batch training, 2018, arXiv 1812.06162,
        equation 2.9 and appendix A.1, here for batches of any sizes.
    """
    require_objective(objective)
    began, spent = time.perf_counter(), objective.spent
    batches = getattr(objective, "batches", ())
    if len(batches) < 3:
        raise MeasurementError(
            f"objective: has {len(batches)} batches, and the noise is told from the spread of at least 3; split the "
            "data into smaller batches"
        )
    theta = point_of(objective, theta)
    num = min(GROUPS, len(batches))
    sums: list[Tensor] = [torch.zeros_like(theta) for _ in range(num)]  # of n_b g_b
    squares, examples, sizes = [0.0] * num, [0.0] * num, [0] * num  # of n_b |g_b|^2, n_b, 1
    for i, part in enumerate(objective.each()):
        g, j = loss_and_grad(part, theta)[1], i % num
        n = objective.count(part.batches[0]) / part.weights[0]  # of all processes
        sums[j] += n * g
        squares[j] += n * float(g.double().square().sum())
        examples[j] += n
        sizes[j] += 1
    objective.spent = spent + Cost(gradients=1)
    if not all(map(math.isfinite, squares)):
        raise MeasurementError("the gradient of a batch is not finite at theta, so its noise cannot be measured")
    total = torch.zeros_like(theta)
    for part in sums:
        total += part

    whole_mean = float((total / sum(examples)).double().square().sum())

    def parts(without: int | None = None) -> tuple[float, float]:
        """Trace of the covariance and squared gradient, of all groups or all but one."""
        keep = [j for j in range(num) if j != without]
        whole = total if without is None else total - sums[without]
        N, K = sum(examples[j] for j in keep), sum(sizes[j] for j in keep)
        mean = float((whole / N).double().square().sum())
        # A sum of squares: below zero by rounding only, where all batches have the same gradient.
        covariance = max(0.0, (sum(squares[j] for j in keep) - N * mean) / (K - 1))
        return covariance, whole_mean if complete else mean - covariance / N

    covariance, squared = parts()
    left_out = [_ratio(*parts(j)) for j in range(num)]
    centre = sum(left_out) / num
    spread = sum((value - centre) ** 2 for value in left_out) if math.isfinite(centre) else math.inf
    unclear = "the gradient cannot be told from zero: more batches, or complete=True for all the data"
    return NoiseScale(
        value=_ratio(covariance, squared),
        stderr=math.sqrt((num - 1) / num * spread),
        covariance=covariance,
        squared_gradient=squared,
        num_batches=len(batches),
        method="gradients",
        error=math.nan,
        cost=Cost(gradients=1, seconds=time.perf_counter() - began),
        batches=describe(objective),
        note="" if squared > 0 else unclear,
    )


def _ratio(covariance: float, squared: float) -> float:
    return covariance / squared if squared > 0 else math.inf
