"""A model's trainable parameters as one flat vector, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrscope.errors import MeasurementError, TaskError
from lrscope.wrapping import whole

Group = dict[str, Any]
"""One of ``optimizer.param_groups``."""


@dataclass(frozen=True)
class ParamLayout:
    """Where each trainable parameter of a model lies in the flat vector theta.

    Attributes:
        names: Parameter names, in the order of ``model.named_parameters()``; tied weights appear once.
        shapes: Their shapes.
        size: P, the length of theta.
    """

    names: tuple[str, ...]
    shapes: tuple[torch.Size, ...]

    @classmethod
    def of(cls, model: nn.Module) -> ParamLayout:
        """Layout of ``model``'s parameters that require a gradient.

        Raises:
            TaskError: No parameter requires a gradient, one has no shape yet, or they differ in dtype or device.
        """
        tensors = [*model.named_parameters(), *model.named_buffers()]
        lazy = [name for name, tensor in tensors if nn.parameter.is_lazy(tensor)]
        if lazy:
            raise TaskError(
                f"model: the shape of {lazy[0]!r} is not known before the first forward pass (a lazy module); run "
                "one batch through the model where it is built, or give the layer its input size"
            )
        items = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not items:
            raise TaskError(
                f"model: {type(model).__name__} has no parameter that requires a gradient, so there is no loss "
                "as a function of parameters; unfreeze at least one (p.requires_grad_(True))"
            )
        kinds = sorted({f"{p.dtype} on {p.device}" for _, p in items})
        if len(kinds) > 1:
            raise TaskError(
                f"model: trainable parameters must share one dtype and device to form one vector; found "
                f"{', '.join(kinds)}; convert the model (model.to(...)) or freeze the odd ones"
            )
        return cls(tuple(name for name, _ in items), tuple(p.shape for _, p in items))

    @property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    @property
    def size(self) -> int:
        return sum(self.sizes)

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Named tensors as one new vector, shape ``(P,)``."""
        return torch.cat([tensors[name].reshape(-1) for name in self.names])

    def unflatten(self, theta: Tensor) -> dict[str, Tensor]:
        """Views of ``theta``, shape ``(P,)``, by parameter name."""
        # One split instead of P-many slices: its backward is a single concatenation.
        pieces = theta.split(self.sizes)
        return {n: piece.view(s) for n, piece, s in zip(self.names, pieces, self.shapes, strict=True)}

    def point(self, model: nn.Module) -> Tensor:
        """The model's current theta as a new vector, shape ``(P,)``, detached."""
        params = dict(model.named_parameters())
        return self.flatten({name: whole(params[name].detach()) for name in self.names})

    @torch.no_grad()
    def write(self, model: nn.Module, theta: Tensor) -> None:
        """Copy ``theta``, shape ``(P,)``, into the model's parameters."""
        params = dict(model.named_parameters())
        for name, value in self.unflatten(theta).items():
            params[name].copy_(value)


def groups_of(
    optimizer: torch.optim.Optimizer, model: nn.Module, names: Sequence[str] | None = None
) -> dict[str, Group]:
    """The optimizer's group of every trainable parameter of ``model``, or of those in ``names``, by name.

    Raises:
        MeasurementError: A trainable parameter is not in the optimizer.
    """
    home = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    params = dict(model.named_parameters())
    names = ParamLayout.of(model).names if names is None else names
    missing = [name for name in names if id(params[name]) not in home]
    if missing:
        raise MeasurementError(
            f"optimizer: does not hold the trainable parameter {missing[0]!r} (and {len(missing) - 1} more), so its "
            "next step is not a step of this model; build it from this model's parameters, or freeze those that "
            "are not trained"
        )
    return {name: home[id(params[name])] for name in names}


def relative_rates(groups: Sequence[Group]) -> list[float]:
    """Each group's learning rate in units of the first that is not 0.

    Where a schedule holds all of them at 0, as at the first step of a warmup, their ``initial_lr`` decide, which
    every torch scheduler leaves in the groups.

    Raises:
        MeasurementError: Several groups at 0 without base rates, so that their ratios cannot be told.
    """
    for key in ("lr", "initial_lr"):
        rates = [float(group[key]) for group in groups] if all(key in group for group in groups) else []
        unit = next((rate for rate in rates if rate > 0), None)
        if unit is not None:
            return [rate / unit for rate in rates]
    if len(groups) == 1:
        return [1.0]
    raise MeasurementError(
        f"optimizer: all {len(groups)} groups are at learning rate 0 and not all have an 'initial_lr', so the ratios "
        "of their rates are not known; measure after the first step of the warmup, or let ScheduledLR or a torch "
        "scheduler set the rates"
    )
