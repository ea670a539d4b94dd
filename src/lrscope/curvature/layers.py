"""Sharpness layer by layer: which part of the model limits the learning rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from lrscope.curvature.block import block
from lrscope.curvature.eigen import RISK
from lrscope.curvature.measurement import Measurement, Measuring, axes
from lrscope.curvature.probe import Method
from lrscope.curvature.scaling import scaled
from lrscope.linalg import lanczos
from lrscope.objective import require_objective

if TYPE_CHECKING:
    from lrscope.objective import Objective


@dataclass(frozen=True, eq=False, kw_only=True)
class LayerSharpness(Measurement):
    """One sharpness per layer; see :class:`~lrscope.curvature.measurement.Measurement` for the rest.

    Attributes:
        names: Modules or parameters, in the model's order.
        values: Largest eigenvalue of each diagonal block of the Hessian.
        residuals: ``||A v - value v||`` of each; an eigenvalue of the block lies within it.
        sizes: Parameters of each.
        num_matvecs: Products spent on each.
        converged: Whether each residual is at most ``tol * |value|``.
    """

    names: tuple[str, ...]
    values: tuple[float, ...]
    residuals: tuple[float, ...]
    sizes: tuple[int, ...]
    num_matvecs: tuple[int, ...]
    converged: tuple[bool, ...]

    @property
    def value(self) -> float:
        """The sharpness of the sharpest layer; that of the whole model is at least this."""
        return max(self.values)

    @property
    def sharpest(self) -> str:
        """The name of that layer."""
        return self.names[self.values.index(self.value)]

    def __str__(self) -> str:
        lines = [
            f"{name}  {value:.5g} +- {residual:.1g}{'' if done else ', not converged'}"
            for name, value, residual, done in zip(
                self.names, self.values, self.residuals, self.converged, strict=True
            )
        ]
        return "\n".join(lines)

    def plot(self, ax: Any = None) -> Any:
        """A bar per layer, the first on top, with residuals as error bars; returns the axes."""
        ax = axes(ax)
        ax.barh(self.names, self.values, xerr=self.residuals)
        ax.invert_yaxis()
        ax.set_xlabel("sharpness of the layer")
        return ax


def layer_sharpness(
    objective: Objective,
    theta: Tensor | None = None,
    *,
    by: Literal["module", "parameter"] = "module",
    preconditioner: Tensor | None = None,
    tol: float = 1e-2,
    method: Method = "auto",
    max_matvecs: int = 200,
    seed: int = 0,
) -> LayerSharpness:
    """The largest eigenvalue of each layer's block of the Hessian, the others standing still.

    No block is sharper than the whole Hessian; the nearer a block comes to it, the more that layer alone limits
    the learning rate.

    Args:
        objective: The loss.
        theta: Where, ``(P,)``; the model's current parameters by default.
        by: One block per module that owns parameters, or per parameter tensor.
        preconditioner: Positive diagonal of P, ``(P,)``: blocks of ``P^-1/2 H P^-1/2``.
        tol: Stop when ``||A v - value v|| <= tol * |value|``, for each block.
        method: How products are made; see :func:`~lrscope.curvature.probe.choose`.
        max_matvecs: Products at most, for each block.
        seed: Of the random vectors; the global generators are not used.

    Returns:
        :class:`LayerSharpness`. Cost: one gradient, the probe of a new objective, and 6 to 25 products per block,
        each at most as dear as one of the whole model. As in :func:`~lrscope.curvature.sharpness` a solve
        goes on until a larger eigenvalue is hidden from its random start with a small probability only.

    Raises:
        TypeError, ValueError: An argument is wrong; the message names it.
        MeasurementError: Loss or gradient is not finite at theta, or no product can be computed on this model.

    Example:
        >>> layers = layer_sharpness(objective)  # doctest: +SKIP
        >>> layers.sharpest                      # doctest: +SKIP
        'head'
    """
    if by not in ("module", "parameter"):
        raise ValueError(f"by: expected 'module' or 'parameter', got {by!r}")
    if not 0 < tol < float("inf"):
        raise ValueError(f"tol: expected a positive relative residual such as 1e-2, got {tol!r}")
    if max_matvecs < 1:
        raise ValueError(f"max_matvecs: expected at least 1, got {max_matvecs!r}")
    require_objective(objective)
    at = Measuring(objective, theta, preconditioner=preconditioner, method=method)
    groups: dict[str, list[str]] = {}
    for name in objective.layout.names:
        owner = name.rpartition(".")[0] or name
        groups.setdefault(owner if by == "module" else name, []).append(name)
    rows = []
    for label, names in groups.items():
        part = block(objective, *names, theta=at.theta)
        scale = None
        if at.scale is not None:
            pieces = objective.layout.unflatten(at.scale)
            scale = part.layout.flatten({name: pieces[name] for name in names})
        # The method chosen for the whole serves its blocks; a probe for each would cost as much as its solve.
        H = at.choice.at(part, part.point())
        start = at.like.new_empty(part.size).normal_(generator=at.generator(seed))
        found = lanczos(
            scaled(H, scale),
            start,
            tol=tol,
            max_matvecs=max_matvecs,
            risk=RISK,
            generator=at.generator(seed + 1),
        )
        objective.spent += part.spent
        rows.append(
            (label, float(found.values[0]), float(found.residuals[0]), part.size, found.num_matvecs, found.converged)
        )
    names, values, residuals, sizes, num_matvecs, converged = zip(*rows, strict=True)
    return LayerSharpness(
        names=names,
        values=values,
        residuals=residuals,
        sizes=sizes,
        num_matvecs=num_matvecs,
        converged=converged,
        **at.account(),
    )
