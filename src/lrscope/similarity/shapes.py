"""From activations of any shape to pairs of matrices with one row per example."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

Spatial = Literal["samples", "average", "dft", "flatten"]
"""What becomes of the positions of maps ``(N, C, H, W)`` and sequences ``(N, T, D)``."""
Channels = Literal["first", "last"]
Activations = Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True)
class View:
    """One pair of matrices to compare: ``x`` (N, P, D1) and ``y`` (N, P, D2).

    The P rows of one example stay together when examples are drawn or permuted. ``weight`` is the share of this view
    in the mean over views (frequencies); the shares sum to 1. ``eps`` is the rounding of the dtypes as given.
    """

    x: Tensor
    y: Tensor
    eps: tuple[float, float]
    weight: float = 1.0


def views(
    x: Activations, y: Activations, spatial: Spatial | None, channels: Channels | None, *, least: int = 2
) -> list[View]:
    """The matrices that ``spatial`` makes of two sets of activations, after every check that needs no arithmetic."""
    a, b = tensor(x, "x"), tensor(y, "y")
    if a.device != b.device:
        raise ValueError(f"x is on {a.device} and y on {b.device}; move both to one device")
    if len(a) != len(b):
        raise ValueError(f"x has {len(a)} examples and y has {len(b)}; both need the same examples in the same order")
    if len(a) < least:
        raise ValueError(
            f"x and y hold {len(a)} example(s); a similarity needs at least 2, and many more to mean much"
        )
    eps = (torch.finfo(a.dtype).eps, torch.finfo(b.dtype).eps)
    a, b = positions_first(a, "x", spatial, channels), positions_first(b, "y", spatial, channels)
    if spatial == "dft":
        return _frequencies(a, b, eps)
    a, b = reduced(a, spatial), reduced(b, spatial)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"spatial='samples' pairs equal positions, but x has {a.shape[1]} and y has {b.shape[1]} of them; "
            "use spatial='average' or 'flatten', or bring both maps to one size first"
        )
    return [View(a, b, eps)]


def tensor(value: Activations, name: str) -> Tensor:
    """A detached float tensor of at least two dimensions, sharing memory with ``value`` where it can."""
    if isinstance(value, np.ndarray):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a read-only array is fine: nothing is written to it
            value = torch.from_numpy(value if min(value.strides, default=0) >= 0 else value.copy())
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a torch tensor or a NumPy array, got {type(value).__name__}")
    if not value.is_floating_point():
        raise TypeError(
            f"{name}: activations are floats, got {value.dtype}; convert it if these really are activations"
        )
    if value.ndim < 2:
        raise ValueError(f"{name}: expected (N, D), (N, C, H, W) or (N, T, D), got shape {tuple(value.shape)}")
    if 0 in value.shape:
        raise ValueError(f"{name}: shape {tuple(value.shape)} holds no numbers")
    return value.detach()


def positions_first(value: Tensor, name: str, spatial: Spatial | None, channels: Channels | None) -> Tensor:
    """``(N, *positions, D)``: units last; a matrix comes back as it is."""
    if spatial is not None and spatial not in get_args(Spatial):
        raise ValueError(f"spatial: expected one of {', '.join(get_args(Spatial))}, got {spatial!r}")
    if channels is not None and channels not in get_args(Channels):
        raise ValueError(f"channels: expected 'first' or 'last', got {channels!r}")
    if value.ndim == 2:
        return value
    if spatial is None:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}: say what becomes of its positions, "
            f"spatial={' or '.join(map(repr, get_args(Spatial)))}"
        )
    first = channels == "first" if channels else value.ndim > 3  # (N, C, H, W), but (N, T, D)
    return value.movedim(1, -1) if first else value


def reduced(value: Tensor, spatial: Spatial | None) -> Tensor:
    """``(N, P, D)`` of ``(N, *positions, D)`` for the ways that treat each side by itself."""
    if value.ndim == 2:
        return value[:, None]
    if spatial == "samples":
        return value.flatten(1, -2)
    if spatial == "average":
        wide = torch.float64 if value.device.type != "mps" else torch.float32
        return value.flatten(1, -2).mean(1, dtype=wide)[:, None]
    return value.flatten(1)[:, None]


def _frequencies(a: Tensor, b: Tensor, eps: tuple[float, float]) -> list[View]:
    """Raghu et al. (2017), section 4: one pair of matrices ``(N, channels)`` per spatial frequency.

    Activations are real, so frequencies f and -f have conjugate matrices and the same similarity; the half that a
    real transform returns is enough when the columns that stand for two frequencies count twice.
    """
    if a.ndim == 2 or a.shape[1:-1] != b.shape[1:-1]:
        raise ValueError(
            f"spatial='dft' compares equal frequencies, so x and y need positions of one size; "
            f"got {tuple(a.shape[1:-1])} and {tuple(b.shape[1:-1])}; use spatial='average' or 'flatten', or bring "
            "both maps to one size first"
        )
    places = tuple(a.shape[1:-1])
    axes = tuple(range(1, a.ndim - 1))
    wide = torch.float64 if a.device.type != "mps" else torch.float32
    fa, fb = (torch.fft.rfftn(t.to(wide), dim=axes, norm="ortho") for t in (a, b))
    last, total = places[-1], math.prod(places)
    found = []
    for where in np.ndindex(*fa.shape[1:-1]):
        twice = 0 < where[-1] < (last + 1) // 2 or (last % 2 == 1 and where[-1] > 0)
        index = (slice(None), *where)
        found.append(View(fa[index][:, None], fb[index][:, None], eps, (2 if twice else 1) / total))
    return found
