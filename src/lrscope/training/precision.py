"""How exactly float32 matrices are multiplied while a block runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

MatmulPrecision = Literal["highest", "high", "medium"]

ROUNDOFF = {"highest": 0.0, "high": 2.0**-11, "medium": 2.0**-8, "mixed": 2.0**-8}
"""Half a unit in the last place of what factors may be rounded to: TensorFloat-32 (11 bits), bfloat16 (8 bits)."""

PRODUCTS = 16.0
"""Roundings of a factor by which two programs of the same gradient may differ, in units of :data:`ROUNDOFF`.

A factor that is rounded is off by about ``u / sqrt(3)``, in norm, and a product has two; a gradient goes through as
many products forth and back, whose errors add like independent ones: ``sqrt(2 * 2d / 3) u`` for d layers, 8 u for 48.
Twice that, since a gradient that is a small sum of large terms loses more.
"""


def check(name: Any) -> None:
    """Refuse what is no precision.

    Raises:
        ValueError: It is not one of ``highest``, ``high``, ``medium``.
    """
    if name not in get_args(MatmulPrecision):
        raise ValueError(f"matmul_precision: expected one of {', '.join(get_args(MatmulPrecision))}, got {name!r}")


@contextmanager
def multiplying(name: MatmulPrecision) -> Iterator[None]:
    """Set torch's float32 matmul precision for a block and put it back, whichever way it had been set."""
    check(name)
    places = _places()
    before, each = current(), [place.fp32_precision for place in places]
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        if before != "mixed":
            torch.set_float32_matmul_precision(before)
        for place, value in zip(places, each, strict=True):  # torch's other way to say it, one backend at a time
            place.fp32_precision = value


def current() -> str:
    """Torch's float32 matmul precision; ``"mixed"`` where backends differ, which torch has no one name for."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:
        return "mixed"


def tolerance(dtype: torch.dtype, exact: float) -> float:
    """Relative difference in norm that two ways to compute one gradient may have.

    Args:
        dtype: Of the gradient; only float32 is ever multiplied in less.
        exact: What is allowed at full precision.
    """
    return max(exact, PRODUCTS * ROUNDOFF[current()]) if dtype == torch.float32 else exact


def _places() -> list[Any]:
    """Backends whose precision can be set one by one, in versions of torch that have this."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn)
    return [b for b in (backends[0], getattr(backends[1], "matmul", None)) if hasattr(b, "fp32_precision")]
