"""Which product to use: both are tried once per objective, and the answer says what was found."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lrscope.curvature.hvp import DifferenceHessian, ExactHessian, Hessian
from lrscope.errors import LrscopeWarning, MeasurementError

if TYPE_CHECKING:
    from lrscope.objective import Objective

Method = Literal["auto", "exact", "difference"]
Purpose = Literal["solve", "track"]

COARSE = 0.1
"""Products with a larger relative error than this deserve a warning."""


@dataclass(frozen=True)
class Probe:
    """What the two kinds of product did on random vectors; errors are relative to the product's length.

    Attributes:
        exact: Asymmetry of the exact product, ``nan`` if it could not be computed.
        difference: Error of the difference: against the exact product, or its own asymmetry and non-linearity
            where there is no exact one; ``nan`` if there is no gradient either.
        obstacle: Why the exact product failed, in torch's words, with the operation's name.
    """

    exact: float
    difference: float
    obstacle: str = ""


@dataclass(frozen=True)
class Choice:
    """The method to use, its measured relative error, and one line that says why."""

    method: Literal["exact", "difference"]
    error: float
    why: str

    def at(self, objective: Objective, theta: Tensor) -> Hessian:
        """The Hessian operator at ``theta``; it may be applied many times."""
        return (ExactHessian if self.method == "exact" else DifferenceHessian)(objective, theta)


_PROBES: WeakKeyDictionary[Objective, Probe] = WeakKeyDictionary()


def choose(
    objective: Objective, theta: Tensor, *, method: Method = "auto", purpose: Purpose = "solve", tol: float = 1e-2
) -> Choice:
    """Choose how products are made.

    A solve makes many products at one theta, where exact products with a reused graph are the cheaper ones;
    tracking makes one per theta, where a difference (2.0 gradients) is cheaper than graph and product (2.4 to 4.1).
    The difference is taken only if its error is below ``tol / 10``: on networks with kinks (ReLU) in float32 it
    often is not, because a finite step crosses kinks that the second derivative does not see.

    The decision rests on errors and operation counts, never on timings, so it is the same in every run.
    Cost: three or four products, once per objective; ``method="exact"`` and ``"difference"`` probe as well, so
    that the error is always a measured one.

    Raises:
        ValueError: Unknown ``method``.
        MeasurementError: The method asked for, or both, cannot work; with the operation's name.
    """
    if method not in ("auto", "exact", "difference"):
        raise ValueError(f"method: expected 'auto', 'exact' or 'difference', got {method!r}")
    found = _PROBES.get(objective)
    if found is None:
        found = _PROBES[objective] = probe(objective, theta)
    no_exact, no_difference = found.exact != found.exact, found.difference != found.difference
    if no_exact and (no_difference or method == "exact"):
        cure = "" if no_difference else "; use method='difference', which needs ordinary gradients only"
        raise MeasurementError(f"no exact Hessian-vector product on this model: {found.obstacle}{cure}")
    if method == "auto":
        choice = _auto(found, purpose, tol)
    else:
        choice = Choice(method, found.exact if method == "exact" else found.difference, "asked for")
    if choice.error > COARSE:
        warnings.warn(
            f"Hessian-vector products ({choice.method}) are off by {choice.error:.0%} on random vectors, so "
            "curvature is a rough guide here; measure a float64 or float32 copy of the model for numbers to rely on",
            LrscopeWarning,
            stacklevel=3,
        )
    return choice


def _auto(found: Probe, purpose: Purpose, tol: float) -> Choice:
    if found.exact != found.exact:
        return Choice("difference", found.difference, f"no exact product ({found.obstacle})")
    if found.exact > COARSE and found.difference < found.exact:
        return Choice("difference", found.difference, f"exact product is not symmetric ({found.exact:.1g})")
    if purpose == "track" and found.difference <= tol / 10:
        return Choice("difference", found.difference, "cheapest for one product per step")
    if purpose == "track":
        return Choice("exact", found.exact, f"difference is off by {found.difference:.1g}")
    return Choice("exact", found.exact, "cheapest for many products at one point")


def probe(objective: Objective, theta: Tensor) -> Probe:
    """Try both products on random vectors; see :class:`Probe`."""
    generator = torch.Generator(device=theta.device).manual_seed(0)
    x = torch.randn(theta.shape, dtype=theta.dtype, device=theta.device, generator=generator)
    try:
        H = ExactHessian(objective, theta)
        Hx = H @ x
        # Solvers feed vectors that products have smoothed, so the comparison is made on such a one.
        a = Hx / Hx.norm() if Hx.norm() > 0 else x / x.norm()
        Ha = H @ a
    except (RuntimeError, NotImplementedError) as error:
        return _probe_difference(objective, theta, x, _reason(error))
    exact = _asymmetry(x, Hx, a, Ha)
    try:
        difference = _relative(DifferenceHessian(objective, theta) @ a - Ha, Ha)
    except (RuntimeError, NotImplementedError):
        difference = float("nan")
    return Probe(exact, difference)


def _reason(error: Exception) -> str:
    """Torch's own words, which name the operation; in plain ones where torch only sees a hole in the graph."""
    text = str(error).strip().splitlines()[0]
    if "not have been used in the graph" in text or "does not have a grad_fn" in text:
        return "the backward of an operation cannot be differentiated, so there is no second derivative"
    return text


def _probe_difference(objective: Objective, theta: Tensor, x: Tensor, obstacle: str) -> Probe:
    try:
        D = DifferenceHessian(objective, theta)
        Dx = D @ x
        a = Dx / Dx.norm() if Dx.norm() > 0 else x / x.norm()
        Da = D @ a
        b = x / x.norm()
        bent = _relative(D @ (a + b) - Da - Dx / x.norm(), Da)
    except (RuntimeError, NotImplementedError) as error:
        return Probe(float("nan"), float("nan"), f"{obstacle}; nor a gradient: {_reason(error)}")
    return Probe(float("nan"), max(bent, _asymmetry(x, Dx, a, Da)), obstacle)


def _asymmetry(x: Tensor, Hx: Tensor, y: Tensor, Hy: Tensor) -> float:
    """How far x'Hy is from y'Hx, relative to the larger of the two bounds |Hx||y|, |x||Hy|."""
    scale = float(Hx.norm() * y.norm())
    return abs(float(y @ Hx - x @ Hy)) / scale if scale > 0 else 0.0


def _relative(error: Tensor, of: Tensor) -> float:
    length = float(of.norm())
    return float(error.norm()) / length if length > 0 else float(error.norm())
