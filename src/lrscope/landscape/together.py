"""Many points evaluated on one batch: as one batched program where torch.func can, one after the other elsewhere."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from lrscope.isolation import seed_everything
from lrscope.landscape.forward import OneForward
from lrscope.landscape.path import Points
from lrscope.landscape.statistics import Statistics
from lrscope.objective import Batch, FunctionalLoss
from lrscope.params import ParamLayout

Functions = Mapping[str, Callable[[nn.Module, Batch], Any]]

MOST = 64
"""Points in one program: more gain nothing."""
BYTES = {"cpu": 8 * 2**20, "cuda": 2**30}
"""What the tensors of one program may take. On a CPU its share of the cache: beyond, batching loses to a loop."""
FEWEST = 4
"""With room for fewer than that, points are evaluated one by one: the kernels are large enough on their own."""
KEPT_BYTES = 2**28
"""Vectors that are kept for the whole evaluation; more are made again for every batch."""


class Evaluator:
    """Values of several functions of a model at K points, batch after batch; use it in ``Surface.measuring``."""

    def __init__(
        self,
        functional: FunctionalLoss,
        layout: ParamLayout,
        rest: Mapping[str, Tensor],
        statistics: Statistics,
        once: OneForward | None,
    ) -> None:
        self.functional, self.layout, self.statistics, self.once = functional, layout, statistics, once
        self.rest = {name: t.clone() for name, t in rest.items()}  # a forward pass may move them
        self._made = 0
        self._chunks: dict[tuple[Any, ...], int] = {}

    def at(self, points: Points) -> None:
        """Evaluate at these from now on."""
        self.points = points
        size = len(points) * self.layout.size * points.controls[0].element_size()
        self._kept = points.stack(range(len(points))) if size <= KEPT_BYTES else None
        self._stats: dict[str, Tensor] = {}

    def values(self, functions: Functions, batch: Batch) -> np.ndarray:
        """``(len(functions), K)``, float64."""
        return self._all(functions, batch, gather=False)

    def gather(self, functions: Functions, batch: Batch) -> None:
        """Let every point gather its statistics from this batch; ``Statistics`` says with what weight."""
        if not self._stats:
            like = {name: self.rest[name] for name in self.statistics.names}
            self._stats = {k: t.expand(len(self.points), *t.shape).clone() for k, t in like.items()}
        self._all(functions, batch, gather=True)

    def gathered(self, index: int) -> dict[str, Tensor]:
        return {name: t[index].clone() for name, t in self._stats.items()}

    def calls(self, number: int) -> int:
        """Forward passes of the model that ``number`` functions took, at the last batch."""
        return self._made or number

    def _all(self, functions: Functions, batch: Batch, *, gather: bool) -> np.ndarray:
        K, names = len(self.points), tuple(functions)
        out = np.empty((len(names), K))
        chunk = self._chunk(functions, batch, gather, K)
        for start in range(0, K, chunk):
            where = range(start, min(start + chunk, K))
            rows = self._together(functions, batch, where, gather) if chunk > 1 else None
            if rows is None:  # one by one
                for i in where:
                    out[:, i] = self._one(functions, batch, i, gather)
            else:
                out[:, start : where.stop] = rows
        return out

    def _chunk(self, functions: Functions, batch: Batch, gather: bool, K: int) -> int:
        """How many points to compute at once on batches of this shape; found out at the first of them."""
        shapes = tuple(tuple(x.shape) if isinstance(x, Tensor) else type(x) for x in pytree.tree_leaves(batch))
        key = (tuple(functions), shapes, gather)
        if key not in self._chunks:
            self._chunks[key] = 1 if K < FEWEST else self._try(functions, batch, gather, K)
        return self._chunks[key]

    def _try(self, functions: Functions, batch: Batch, gather: bool, K: int) -> int:
        before = {k: t.clone() for k, t in self._stats.items()}
        with Allocated() as allocated:
            alone = self._one(functions, batch, 0, gather)
        made = self._made
        self._stats = {k: t.clone() for k, t in before.items()}
        vector = 2 * self.layout.size * self.points.controls[0].element_size()
        room = BYTES.get(self._device().type, BYTES["cpu"]) // (allocated.bytes + vector + 1)
        chunk = min(MOST, K, room)
        if chunk < FEWEST:
            return 1
        rows = self._together(functions, batch, range(min(K, FEWEST)), gather)
        self._stats = before
        # What torch.func computes is held against the plain computation once: a model may do in Python what a batched
        # program silently does otherwise.
        tolerance = 1e3 * torch.finfo(self.points.dtype).eps
        self._made = made
        if rows is None or not np.allclose(rows[:, 0], alone, rtol=tolerance, atol=tolerance, equal_nan=True):
            return 1
        return math.ceil(K / math.ceil(K / chunk))  # equal parts

    def _one(self, functions: Functions, batch: Batch, i: int, gather: bool) -> list[float]:
        theta = self._kept[i] if self._kept is not None else self.points[i]
        stats = {k: t[i].clone() for k, t in self._stats.items()}
        seed_everything(0)  # what a model draws is the same at every point
        values, after = self._run(functions, batch, theta, stats, gather)
        for name, tensor in after.items():
            self._stats[name][i] = tensor
        return [float(v) for v in values]

    def _together(self, functions: Functions, batch: Batch, where: range, gather: bool) -> np.ndarray | None:
        part = slice(where.start, where.stop)
        thetas = self._kept[part] if self._kept is not None else self.points.stack(where)
        stats = {k: t[part].clone() for k, t in self._stats.items()}

        def one(theta: Tensor, stats: dict[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
            return self._run(functions, batch, theta, stats, gather)

        seed_everything(0)
        try:
            # Attention's fused kernels have no batching rule and would fall back to a loop.
            with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*performance drop.*")
                values, after = vmap(one, randomness="same")(thetas, stats)
        except Exception:  # the plain way decides whether it is the user's error or torch.func's
            return None
        for name, tensor in after.items():
            self._stats[name][part] = tensor
        return torch.stack([v.double() for v in values]).cpu().numpy()

    def _run(
        self, functions: Functions, batch: Batch, theta: Tensor, stats: dict[str, Tensor], gather: bool
    ) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
        def do() -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
            if self.once is not None:
                self.once.forget()
            values = tuple(torch.as_tensor(fn(self.functional.model, batch)) for fn in functions.values())
            if self.once is not None:
                self._made = self.once.calls
                self.once.forget()  # nothing of this point outlives it
            return values, self.statistics.now() if gather else {}

        return self.functional.holding(self.layout.unflatten(theta), {**self.rest, **stats}, do)

    def _device(self) -> torch.device:
        return self.points.controls[0].device


class Allocated(TorchDispatchMode):
    """Adds up the bytes of every tensor that is made: a bound on what an evaluation takes at once.

    Attributes:
        bytes: The sum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(x.numel() * x.element_size() for x in pytree.tree_leaves(out) if isinstance(x, Tensor))
        return out
