"""Which parameters' size the loss does not see: measured, by rescaling them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils import _pytree as pytree

from lrscope.errors import LrscopeError, MeasurementError
from lrscope.objective import Objective, derivative, require_objective
from lrscope.params import groups_of
from lrscope.records import Cost

Verdict = Literal["exact", "nearly", "no", "unseen"]

FACTORS = (0.5, 2.0, 10.0)
EXACT, NEARLY = 1e-9, 1e-2
_NUM_POINTS = 3  # the model's own point and two beside it, where no part is silent by a zero initialisation
_SILENT = 1e-10  # a relative change of the loss below this is none
_BESIDE = 0.1  # how far beside, relative to each tensor's size


@dataclass(frozen=True)
class GroupInvariance:
    r"""What was measured of one group of parameters.

    Attributes:
        name: Of the group, or of the one parameter.
        parameters: Names of its parameters.
        deviation: The largest :math:`|L(c\theta) - L(\theta)|`, in units of what a move of the same length in a
            random direction does to the loss.
        alignment: The largest :math:`|\langle g, \theta\rangle| / (|g||\theta|)`, 0 where the size is not seen.
        verdict: ``"exact"``, both at most 1e-9; ``"nearly"``, at most 1e-2, as with the eps of a normalisation;
            ``"no"``; ``"unseen"``: the loss does not react to these parameters at all, so nothing can be told.
    """

    name: str
    parameters: tuple[str, ...]
    deviation: float
    alignment: float
    verdict: Verdict

    def __str__(self) -> str:
        seen = f"deviation {self.deviation:.1e}, gradient along the weights {self.alignment:.1e}"
        return {
            "exact": f"{self.name}: scale invariant ({seen})",
            "nearly": f"{self.name}: nearly scale invariant ({seen}), as with the eps of a normalisation",
            "no": f"{self.name}: not scale invariant ({seen})",
            "unseen": f"{self.name}: the loss does not react to it, so its invariance cannot be told",
        }[self.verdict]


@dataclass(frozen=True)
class ScaleInvariance:
    """The groups measured by :func:`scale_invariance`, and what it cost. Prints as one line per group."""

    groups: tuple[GroupInvariance, ...]
    cost: Cost

    def __getitem__(self, name: str) -> GroupInvariance:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)

    def __str__(self) -> str:
        return "\n".join(map(str, self.groups))

    def param_groups(self, model: nn.Module) -> list[dict[str, Any]]:
        """The trainable parameters as two groups for an optimizer: scale invariant (or nearly so), and the rest.

        Parameters that are invariant one by one are so together, so measure one by one (the default) to split.
        """
        invariant = {n for g in self.groups if g.verdict in ("exact", "nearly") for n in g.parameters}
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        return [
            {"name": "scale_invariant", "params": [p for name, p in named if name in invariant]},
            {"name": "rest", "params": [p for name, p in named if name not in invariant]},
        ]


def scale_invariance(
    objective: Objective,
    groups: Optimizer | Mapping[str, Sequence[str]] | None = None,
    *,
    factors: Sequence[float] = FACTORS,
) -> ScaleInvariance:
    r"""Measure for which groups of parameters the loss does not depend on their common scale.

    .. math:: L(c\,\theta_G, \theta_{\text{rest}}) = L(\theta_G, \theta_{\text{rest}}) \quad \text{for every } c > 0,
        \qquad \langle \nabla_G L, \theta_G \rangle = 0

    Weights in front of a normalisation are so, whatever the training data; weight decay on them acts as a
    learning rate only (:func:`lrscope.schedules.exponential_equivalent`). The measurement runs in float64 on
    copies, at the model's parameters and at two random points beside them, and leaves no trace.

    Args:
        objective: The loss. One batch is enough: the property holds for each batch or for none. Its mode should be
            ``"train"``: a BatchNorm that uses running statistics sees the scale.
        groups: An optimizer, for its parameter groups (named by their ``"name"``, else ``"group 0"`` and so on);
            or parameter names by group; each parameter for itself if ``None``.
        factors: The scales c that are tried.

    Cost: per point one gradient and ``1 + 2 * len(factors) * len(groups)`` forward passes over the batches.

    Raises:
        TypeError, ValueError: Of an argument.
        MeasurementError: A parameter is not the optimizer's, or the model does not run in float64.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.LayerNorm(4, eps=0.0))
        >>> objective = Objective(net, lambda m, x: m(x).pow(3).mean(), [torch.randn(8, 3)])
        >>> [group.verdict for group in scale_invariance(objective).groups]
        ['exact', 'no', 'no']

    References:
        Li, Arora, An Exponential Learning Rate Schedule for Deep Learning, 2019, arXiv 1910.07454, Lemma 1.
    """
    require_objective(objective)
    if not isinstance(objective, Objective):
        raise TypeError(
            f"objective: its parameters must have names; expected a lrs.Objective, got {type(objective).__name__}"
        )
    if not factors or not all(c > 0 and math.isfinite(c) and c != 1 for c in factors):
        raise ValueError(f"factors: expected numbers greater than 0 and not 1, got {tuple(factors)}")
    members = _members(objective, groups)
    loss = _DoubleLoss(objective)
    sizes = objective.layout.sizes
    inside = {
        name: torch.repeat_interleave(
            torch.tensor([n in parts for n in objective.layout.names]), torch.tensor(sizes)
        ).to(loss.theta.device)
        for name, parts in members.items()
    }
    seen: dict[str, list[tuple[float, float]]] = {name: [] for name in members}
    for theta, generator in _points(loss.theta, sizes):
        at, grad = loss.with_gradient(theta)
        if not math.isfinite(at):
            raise MeasurementError(
                f"objective: the loss is {at:g} at or near the model's parameters; measure an earlier model"
            )
        for name, mask in inside.items():
            across = torch.randn(theta.shape, generator=generator, dtype=theta.dtype).to(theta.device) * mask
            across *= (theta * mask).norm() / across.norm()
            scaled = _largest(loss(torch.where(mask, c * theta, theta)) - at for c in factors)
            moved = _largest(loss(theta + (c - 1) * across) - at for c in factors)
            if math.isfinite(moved) and moved > _SILENT * abs(at):  # else this point says nothing about this group
                along = abs(float((grad * theta)[mask].sum()))
                most = float((grad * mask).norm() * (theta * mask).norm())
                seen[name].append((scaled / moved, along / most if most else 0.0))
    found = tuple(_judged(name, parts, seen[name]) for name, parts in members.items())
    return ScaleInvariance(found, Cost(forwards=loss.forwards, gradients=loss.gradients))


class _DoubleLoss:
    """The objective as a function of theta in float64; the model's own tensors are only read."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self.theta = objective.point().double()
        self.buffers = {name: _double(b) for name, b in objective.functional.buffers().items()}
        self.batches = [pytree.tree_map(_double, batch) for batch in objective.batches]
        self.forwards = self.gradients = 0

    def _value(self, theta: Tensor) -> Tensor:
        params = self.objective.layout.unflatten(theta)
        total = theta.new_zeros(())
        try:
            for weight, batch in zip(self.objective.weights, self.batches, strict=True):
                buffers = {name: b.clone() for name, b in self.buffers.items()}
                total = total + weight * self.objective.functional(params, buffers, batch)
        except LrscopeError:
            raise
        except (RuntimeError, TypeError, ValueError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise MeasurementError(
                f"objective: its loss cannot be computed in float64 ({first}); let the model and the loss take the "
                "dtype of what they are given, and measure on a device that has float64"
            ) from error
        return total

    @torch.no_grad()
    def __call__(self, theta: Tensor) -> float:
        self.forwards += 1
        with self.objective.undisturbed():
            return float(self._value(theta))

    def with_gradient(self, theta: Tensor) -> tuple[float, Tensor]:
        self.gradients += 1
        theta = theta.detach().requires_grad_()
        with self.objective.undisturbed(), torch.enable_grad():
            value = self._value(theta)
            try:
                grad = derivative(value, theta)
            except RuntimeError as error:
                raise MeasurementError(
                    f"objective: its loss has no gradient in float64 ({str(error).strip().splitlines()[0]}), so "
                    "nothing can be told of its scale"
                ) from error
        return float(value.detach()), grad


def _largest(changes: Iterable[float]) -> float:
    return max(abs(x) if math.isfinite(x) else math.inf for x in changes)


def _double(leaf: Any) -> Any:
    return leaf.detach().double() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _points(theta: Tensor, sizes: Sequence[int]) -> Iterator[tuple[Tensor, torch.Generator]]:
    """The model's point, and points beside it, where no part is silent because it was initialised to zero."""
    generator = torch.Generator().manual_seed(0)  # of its own: no draw of the user's is used up
    yield theta, generator
    for _ in range(_NUM_POINTS - 1):
        parts = []
        for part in theta.split(list(sizes)):
            size = part.square().mean().sqrt()
            noise = torch.randn(part.shape, generator=generator, dtype=part.dtype).to(part.device)
            parts.append(part + _BESIDE * torch.where(size > 0, size, torch.ones_like(size)) * noise)
        yield torch.cat(parts), generator


def _members(objective: Objective, groups: Any) -> dict[str, tuple[str, ...]]:
    """Names of parameters by name of group."""
    names = objective.layout.names
    if groups is None:
        return {name: (name,) for name in names}
    if isinstance(groups, Optimizer):
        home = groups_of(groups, objective.model)
        labels = {id(g): label for g, label in zip(groups.param_groups, group_labels(groups), strict=True)}
        by_label: dict[str, tuple[str, ...]] = {}
        for name in names:
            label = labels[id(home[name])]
            by_label[label] = (*by_label.get(label, ()), name)
        return by_label
    if not isinstance(groups, Mapping):
        raise TypeError(
            f"groups: expected an optimizer, a dict from names to lists of parameter names, or None, got "
            f"{type(groups).__name__}"
        )
    for label, parts in groups.items():
        if not parts or isinstance(parts, str) or any(part not in names for part in parts):
            raise ValueError(
                f"groups: {label!r} must be a list of names of trainable parameters, got {parts!r}; they are "
                f"those of model.named_parameters(), such as {names[0]!r}"
            )
    return {str(label): tuple(parts) for label, parts in groups.items()}


def group_labels(optimizer: Optimizer) -> list[str]:
    """What the optimizer's groups are called in a measurement: their names, where those are their own."""
    names = [group.get("name") for group in optimizer.param_groups]
    return [f"group {i}" if n is None or names.count(n) > 1 else str(n) for i, n in enumerate(names)]


def _judged(name: str, parts: tuple[str, ...], seen: list[tuple[float, float]]) -> GroupInvariance:
    if not seen:
        return GroupInvariance(name, parts, 0.0, 0.0, "unseen")
    deviation, alignment = (max(column) for column in zip(*seen, strict=True))
    worst = max(deviation, alignment)
    verdict: Verdict = "exact" if worst <= EXACT else "nearly" if worst <= NEARLY else "no"
    return GroupInvariance(name, parts, deviation, alignment, verdict)
