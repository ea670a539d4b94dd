"""A model's trainable parameters as one flat vector, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lrscope.errors import TaskError


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
            TaskError: No parameter requires a gradient, or trainable parameters differ in dtype or device.
        """
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
        return self.flatten({name: params[name].detach() for name in self.names})

    @torch.no_grad()
    def write(self, model: nn.Module, theta: Tensor) -> None:
        """Copy ``theta``, shape ``(P,)``, into the model's parameters."""
        params = dict(model.named_parameters())
        for name, value in self.unflatten(theta).items():
            params[name].copy_(value)
