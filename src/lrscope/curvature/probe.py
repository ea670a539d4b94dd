"""Which product to use: each is tried once per loss and model, and the answer says what was found."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from lrscope.curvature.hvp import DifferenceHessian, ExactHessian, ForwardHessian, Hessian
from lrscope.curvature.point import require_finite
from lrscope.errors import LrscopeWarning, MeasurementError
from lrscope.linalg import without_autocast

if TYPE_CHECKING:
    from lrscope.objective import Objective

Method = Literal["auto", "exact", "forward", "difference"]
Purpose = Literal["solve", "track"]

COARSE = 0.1
"""Products with a larger relative error than this deserve a warning."""
DOUBTFUL = 0.01
"""Beyond this error of the difference, wider steps are tried, and the exact product has to justify itself."""
WIDER = (8.0, 64.0)
"""Factors on the difference's step, for gradients noisier than their dtype says: autocast, fused kernels."""


@dataclass(frozen=True)
class Probe:
    """What the kinds of product did on random vectors; errors are relative to the product's length.

    Attributes:
        exact: Asymmetry of the exact product, ``nan`` if it could not be computed or is wrong.
        difference: Error of the difference: against the exact product, or its own asymmetry and non-linearity
            where there is no exact one; ``nan`` if there is no gradient either.
        obstacle: Why there is no exact product, in torch's words, with the operation's name.
        widen: Factor on the difference's step that made its error smallest.
        forward: Asymmetry of the product by forward over reverse, ``nan`` if it could not be computed; ``None``
            until it is needed, which is where the exact one fails or when asked for.
        forward_obstacle: Why there is none.
        kink: An operation of the loss whose slope jumps (a ReLU, max pooling); empty if none was found.
    """

    exact: float
    difference: float
    obstacle: str = ""
    widen: float = 1.0
    forward: float | None = None
    forward_obstacle: str = ""
    kink: str = ""

    @property
    def local(self) -> bool:
        """Whether a product was nan or inf at this theta, which says nothing of other thetas."""
        return _NOT_FINITE in self.obstacle or _UNEVEN in self.obstacle

    @property
    def check(self) -> Literal["exact", "forward", ""]:
        """The method that is not a difference and works; empty if none is known to."""
        return "" if _absent(self.exact) or self.exact > COARSE else "exact"


@dataclass(frozen=True)
class Choice:
    """The method to use, its measured relative error, and one line that says why.

    Attributes:
        check: The method that can contradict a difference later in the run; empty if there is none.
    """

    method: Literal["exact", "forward", "difference"]
    error: float
    why: str
    widen: float = 1.0
    check: str = ""

    def at(self, objective: Objective, theta: Tensor, *, gradient: Tensor | None = None) -> Hessian:
        """The Hessian operator at ``theta``; it may be applied many times.

        Args:
            objective, theta: As in :func:`choose`.
            gradient: Gradient at theta, ``(P,)``, if it is at hand: a difference is then one-sided, at one gradient
                per product instead of two, and less accurate.
        """
        if self.method == "difference":
            return DifferenceHessian(objective, theta, gradient=gradient, widen=self.widen)
        return (ExactHessian if self.method == "exact" else ForwardHessian)(objective, theta)

    def __str__(self) -> str:
        return f"{self.method}: {self.why}; relative error on random vectors {self.error:.1g}"


_PROBES: WeakKeyDictionary[Any, dict[tuple[torch.dtype, torch.device], Probe]] = WeakKeyDictionary()
"""By loss and model (the same for all batches), and by what the vectors are."""


@without_autocast
def choose(
    objective: Objective, theta: Tensor, *, method: Method = "auto", purpose: Purpose = "solve", tol: float = 1e-2
) -> Choice:
    """Choose how products are made.

    A solve makes many products at one theta, where exact products with a reused graph are the cheaper ones;
    tracking makes one per theta, where a difference (2.0 gradients) is cheaper than graph and product (2.4 to 4.1).
    The difference is taken only if its error is below ``tol / 10`` and the loss has no kink (ReLU, max pooling): a
    finite step crosses kinks that the second derivative does not see, how many depends on theta and direction, and so
    a probe at one theta says nothing of the next. Where there is no exact product, the difference steps in if it is
    that good; if not, forward over reverse (3.7 to 5.5) if it works.

    An exact product may also be there and wrong: a custom autograd function whose backward pass hides operations
    from autograd has a second derivative that is not that of its own gradient. It is recognised by a difference that
    contradicts it while agreeing with itself at another step, and refused.

    The decision rests on errors and operation counts, never on timings, so it is the same in every run.
    Cost: three or four products, once per loss and model, whatever the batches (``objective.on(batches)``), and again
    where what was found is only true at one theta (products that are nan there); a few more where the difference is
    coarse. ``method="exact"`` and ``"difference"`` probe as well, so that the error is
    always a measured one.

    Raises:
        ValueError: Unknown ``method``.
        MeasurementError: The method asked for, or all of them, cannot work; with the operation's name, and with
            a method that will. Or the loss is not deterministic.
    """
    if method not in ("auto", "exact", "forward", "difference"):
        raise ValueError(f"method: expected 'auto', 'exact', 'forward' or 'difference', got {method!r}")
    known = _PROBES.setdefault(getattr(objective, "family", objective), {})
    key = (theta.dtype, theta.device)
    found = known.get(key) or probe(objective, theta)
    rough = found.kink or not found.difference <= tol / 10
    if found.forward is None and (method == "forward" or (_absent(found.exact) and rough)):
        found = _with_forward(found, objective, theta)
    if _absent(found.exact) and _absent(found.difference):
        require_finite(objective, theta)  # if not here, then perhaps elsewhere: nothing to remember
    if not found.local:
        known[key] = found
    if method == "exact" and _absent(found.exact):
        raise MeasurementError(f"no exact Hessian-vector product on this model: {found.obstacle}{_cure(found)}")
    if method == "forward" and _absent(found.forward):
        raise MeasurementError(
            f"no Hessian-vector product by forward over reverse on this model: {found.forward_obstacle}{_cure(found)}"
        )
    if method == "difference" and _absent(found.difference):
        raise MeasurementError(f"no difference of gradients on this model: {found.obstacle}{_cure(found)}")
    choice = _auto(found, purpose, tol) if method == "auto" else Choice(method, getattr(found, method), "asked for")
    choice = replace(choice, widen=found.widen, check=found.check)
    if choice.error > COARSE:
        warnings.warn(
            f"Hessian-vector products ({choice.method}) are off by {choice.error:.0%} on random vectors, so "
            "curvature is a rough guide here; measure a float64 or float32 copy of the model for numbers to rely on",
            LrscopeWarning,
            stacklevel=3,
        )
    return choice


def _absent(error: float | None) -> bool:
    return error is None or error != error


def _cure(found: Probe) -> str:
    """The end of a refusal: which method will do."""
    if not _absent(found.exact):
        return "; use method='exact'"
    if not _absent(found.difference):
        return "; use method='difference', which needs ordinary gradients only"
    return "" if _absent(found.forward) else "; use method='forward'"


def _auto(found: Probe, purpose: Purpose, tol: float) -> Choice:
    if _absent(found.exact):
        good = found.difference <= tol / 10 and not found.kink
        if good or (_absent(found.forward) and not _absent(found.difference)):
            return Choice("difference", found.difference, f"no exact product ({found.obstacle})")
        if found.forward is not None and not _absent(found.forward):
            return Choice("forward", found.forward, f"no exact product ({found.obstacle}), difference is coarse")
        raise MeasurementError(f"no exact Hessian-vector product on this model: {found.obstacle}")
    if found.exact > COARSE and found.difference < found.exact:
        return Choice("difference", found.difference, f"exact product is not symmetric ({found.exact:.1g})")
    if purpose == "track" and found.kink:
        return Choice("exact", found.exact, f"a difference steps across the kinks of {found.kink}")
    if purpose == "track" and found.difference <= tol / 10:
        return Choice("difference", found.difference, "cheapest for one product per step")
    if purpose == "track":
        return Choice("exact", found.exact, f"difference is off by {found.difference:.1g}")
    return Choice("exact", found.exact, "cheapest for many products at one point")


def probe(objective: Objective, theta: Tensor) -> Probe:
    """Try the exact product and the difference on random vectors; see :class:`Probe`."""
    x = _random(theta)
    try:
        H = ExactHessian(objective, theta)
        Hx = H @ x
        # Solvers feed vectors that products have smoothed, so the comparison is made on such a one.
        a = Hx / Hx.norm() if Hx.norm() > 0 else x / x.norm()
        Ha = H @ a
    except (RuntimeError, NotImplementedError) as error:
        return _probe_difference(objective, theta, x, _reason(error))
    exact = _asymmetry(x, Hx, a, Ha)
    if _absent(exact):  # a root at 0, say: the gradient may be there all the same
        return _probe_difference(objective, theta, x, _NOT_FINITE)
    try:
        D = DifferenceHessian(objective, theta)
        difference, widen = _relative(D @ a - Ha, Ha), 1.0
        if difference > DOUBTFUL:
            require_function(objective, theta)
            hidden = _hidden(objective, theta)
            if hidden and D.with_error(a)[1] < difference / 10:
                return _probe_difference(
                    objective, theta, x,
                    f"{hidden} is a custom autograd function with a wrong second derivative: gradients around theta "
                    f"contradict it by {difference:.1g}",
                )  # fmt: skip
            for factor in WIDER:
                error = _relative(DifferenceHessian(objective, theta, widen=factor) @ a - Ha, Ha)
                if error < difference / 2:
                    difference, widen = error, factor
    except (RuntimeError, NotImplementedError) as error:
        return Probe(exact, float("nan"), f"no gradient: {_reason(error)}")
    return Probe(exact, difference, _UNEVEN if _absent(difference) else "", widen, kink=_kink(objective, theta))


def contradict(objective: Objective, theta: Tensor, error: float) -> None:
    """Remember that the difference was off by ``error`` somewhere, whatever an earlier probe has found."""
    known = _PROBES.setdefault(getattr(objective, "family", objective), {})
    key = (theta.dtype, theta.device)
    if key in known:
        known[key] = replace(known[key], difference=max(error, known[key].difference))


_NOT_FINITE = "it has nan or inf entries"
_UNEVEN = "gradients a small step away from theta are nan or inf"


def _with_forward(found: Probe, objective: Objective, theta: Tensor) -> Probe:
    if not hasattr(objective, "batch_loss"):
        return replace(found, forward=float("nan"), forward_obstacle="the objective brings a product of its own")
    x = _random(theta)
    try:
        H = ForwardHessian(objective, theta)
        Hx = H @ x
        a = Hx / Hx.norm() if Hx.norm() > 0 else x / x.norm()
        return replace(found, forward=_asymmetry(x, Hx, a, H @ a))
    except (RuntimeError, NotImplementedError) as error:
        return replace(found, forward=float("nan"), forward_obstacle=_reason(error))


def require_function(objective: Objective, theta: Tensor) -> None:
    """Refuse a loss that is another one each time it is evaluated; cost: two gradients."""
    first, second = objective.grad(theta), objective.grad(theta)
    away = _relative(first - second, first)
    if away > DOUBTFUL:
        raise MeasurementError(
            f"loss_fn: two gradients at the same theta differ by {away:.1g} of their length, so the loss is not a "
            "function and has no curvature; draws from the global generators of torch, NumPy and Python repeat by "
            "themselves, so look for a generator of its own or a counter in the model"
        )


def _random(theta: Tensor) -> Tensor:
    generator = torch.Generator(device=theta.device).manual_seed(0)
    return torch.randn(theta.shape, dtype=theta.dtype, device=theta.device, generator=generator)


def _nodes(objective: Objective, theta: Tensor) -> Iterator[Any]:
    """The operations of the first batch's loss, from the last one back; cost: one forward pass.

    None where the loss exists only in the way training computes it (layers cut across processes).
    """
    if not hasattr(objective, "batch_loss"):
        return
    try:
        with objective.differentiable():
            loss = objective.batch_loss(theta.detach().clone().requires_grad_(), objective.batches[0])
    except (RuntimeError, NotImplementedError):
        return
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        yield node
        seen.add(node)
        nodes.extend(parent for parent, _ in node.next_functions)


def _hidden(objective: Objective, theta: Tensor) -> str:
    """Name of a function in the loss's graph whose backward pass was written in Python; empty if there is none."""
    for node in _nodes(objective, theta):
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            return type(node).__name__.removesuffix("Backward")
    return ""


KINKS = re.compile(
    r"(LeakyRelu|Relu|Relu6|Rrelu\w*|Prelu\w*|Threshold|Hardtanh|Hardsigmoid|Hardshrink|Softshrink|Abs|Clamp\w*"
    r"|L1Loss|Maximum|Minimum|Max|Min|Amax|Amin|\w*MaxPool\w*)Backward\d*"
)
"""Operations whose slope jumps, by torch's names of their backward passes."""


def _kink(objective: Objective, theta: Tensor) -> str:
    """Name of an operation in the loss's graph whose slope jumps; empty if there is none."""
    found = (KINKS.fullmatch(type(node).__name__) for node in _nodes(objective, theta))
    return next((match[1] for match in found if match), "")


_HOLE = "the backward of an operation cannot be differentiated"
MEANING = {
    "use_reentrant": "activation checkpointing with use_reentrant=True knows backward() only; False would do",
    "saved tensor hooks": "activation checkpointing hides its tensors from torch.func",
    "call Tensor.requires_grad_()": "the forward pass calls requires_grad_(), as some libraries do for activation "
    "checkpointing, which torch.func does not allow",
    "ZeroTensors are immutable": "F.mse_loss, or an operation like it, breaks forward mode in torch (ZeroTensor); "
    "(a - b).pow(2).mean() does not",
    "must override the setup_context": "a custom autograd function without setup_context, which torch.func needs",
    "expected scalar type": "an operation mixes dtypes in forward mode, as attention does under autocast",
    "not have been used in the graph": f"{_HOLE}, so there is no second derivative",
    "does not have a grad_fn": f"{_HOLE}, so there is no second derivative",
}
"""What torch's messages mean here, where they name no operation; by words of theirs."""


def _reason(error: Exception) -> str:
    """The operation at fault: in plain words where torch does not name it, else torch's own."""
    text = str(error).strip().splitlines()[0]
    return next((meaning for words, meaning in MEANING.items() if words in text), text)


def _probe_difference(objective: Objective, theta: Tensor, x: Tensor, obstacle: str) -> Probe:
    nan, best = float("nan"), Probe(float("nan"), float("inf"), obstacle)
    try:
        kink = _kink(objective, theta)
        for widen in (1.0, *WIDER):
            D = DifferenceHessian(objective, theta, widen=widen)
            Dx = D @ x
            a = Dx / Dx.norm() if Dx.norm() > 0 else x / x.norm()
            Da = D @ a
            b = x / x.norm()
            bent = _relative(D @ (a + b) - Da - Dx / x.norm(), Da)
            error = max(bent, _asymmetry(x, Dx, a, Da))
            if _absent(error):
                return Probe(nan, nan, f"{obstacle}; nor by difference: {_UNEVEN}")
            if error < best.difference / 2:
                best = Probe(nan, error, obstacle, widen, kink=kink)
            if best.difference <= DOUBTFUL:
                break
            if widen == 1.0:
                require_function(objective, theta)
    except (RuntimeError, NotImplementedError) as error:
        return Probe(nan, nan, f"{obstacle}; nor a gradient: {_reason(error)}")
    return best


def _asymmetry(x: Tensor, Hx: Tensor, y: Tensor, Hy: Tensor) -> float:
    """How far x'Hy is from y'Hx, relative to the larger of the two bounds |Hx||y|, |x||Hy|."""
    scale = float(Hx.norm() * y.norm())
    away = abs(float(y @ Hx - x @ Hy))
    return away / scale if scale != 0 else away  # nan where a product is


def _relative(error: Tensor, of: Tensor) -> float:
    length = float(of.norm())
    return float(error.norm()) / length if length != 0 else float(error.norm())
