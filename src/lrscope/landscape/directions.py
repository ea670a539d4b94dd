"""Random directions with a scale that belongs to the network they are seen from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lrscope.params import ParamLayout


@dataclass(frozen=True, eq=False, repr=False)
class Directions:
    """Random directions at a network.

    Attributes:
        vectors: ``(count, P)``.
        norms: Euclidean length of each: what one unit along it means.
        relative: The same as shares of the network's own norm.
        still: Share of the parameters that no direction moves (biases, scales).
    """

    vectors: Tensor
    norms: tuple[float, ...]
    relative: tuple[float, ...]
    still: float

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        scale = ", ".join(f"{n:.4g} ({r:.1%})" for n, r in zip(self.norms, self.relative, strict=True))
        return f"one unit along each is {scale} of the network's norm; {self.still:.1%} of the parameters stay"


def filter_normalised(layout: ParamLayout, theta: Tensor, count: int, seed: int) -> Directions:
    """Normal draws whose slices along the first dimension of each weight are as long as the network's."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.promote_types(theta.dtype, torch.float32)
    own = layout.unflatten(theta.to(kind))
    vectors, still = [], 0
    for _ in range(count):
        parts: dict[str, Tensor] = {}
        for name, p in own.items():
            if p.ndim < 2:
                parts[name] = torch.zeros_like(p)
                continue
            draw = torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p).flatten(1)
            sizes = p.flatten(1).norm(dim=1, keepdim=True)
            parts[name] = (draw * (sizes / draw.norm(dim=1, keepdim=True))).reshape(p.shape)
        vectors.append(layout.flatten(parts))
    still = sum(p.numel() for p in own.values() if p.ndim < 2)
    length = float(theta.double().norm())
    norms = tuple(float(v.double().norm()) for v in vectors)
    relative = tuple(n / length if length > 0 else float("nan") for n in norms)
    return Directions(torch.stack(vectors), norms, relative, still / layout.size)
