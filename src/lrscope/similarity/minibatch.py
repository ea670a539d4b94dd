"""CKA from the unbiased HSIC of small batches, as large models are compared without keeping anything."""

from __future__ import annotations

import math
import time

import numpy as np
import torch
from torch import Tensor

from lrscope.records import Cost
from lrscope.similarity.measures import CKA, Norms, unbiased_hsic
from lrscope.similarity.resample import permutation_null
from lrscope.similarity.result import Similarity
from lrscope.similarity.shapes import Activations, Channels, Spatial, views
from lrscope.similarity.side import home, working


class MinibatchCKA:
    """Averages the unbiased HSIC over batches; memory is that of one batch.

    The value is the average of HSIC(x, y) over the root of the averages of HSIC(x, x) and HSIC(y, y). It depends a
    little on how examples fall into batches; :class:`Streaming` gives the value of all examples at once, for the
    price of three (D, D) matrices.

    Source: Nguyen, Raghu, Kornblith, arXiv:2010.15327, section 3, equations 2 to 4.

    Example:
        >>> import torch
        >>> total = MinibatchCKA()
        >>> for batch in torch.randn(400, 6, generator=torch.Generator().manual_seed(0)).split(50):
        ...     total.update(batch, 2 * batch)
        >>> round(float(total.result()), 6)
        1.0
    """

    def __init__(self) -> None:
        self._sums = [0.0, 0.0, 0.0]
        self.num_batches = self.num_rows = 0
        self._dims: tuple[int, int] | None = None
        self._seconds = 0.0

    def update(
        self, x: Activations, y: Activations, *, spatial: Spatial | None = None, channels: Channels | None = None
    ) -> None:
        """Add one batch of at least 4 rows, ``x`` (n, D1) and ``y`` (n, D2)."""
        began = time.perf_counter()
        if spatial == "dft":
            raise ValueError("spatial: 'dft' has no minibatch form; measure the whole with cka(spatial='dft')")
        view = views(x, y, spatial, channels)[0]
        self._add(view.x.flatten(0, 1), view.y.flatten(0, 1))
        self._seconds += time.perf_counter() - began

    @torch.no_grad()
    def _add(self, x: Tensor, y: Tensor) -> None:
        n, dims = len(x), (x.shape[1], y.shape[1])
        if n < 4:
            raise ValueError(f"batch: the unbiased HSIC needs at least 4 rows, got {n}; use larger batches")
        if self._dims not in (None, dims):
            raise ValueError(
                f"batch: {dims[0]} and {dims[1]} units after batches of {self._dims[0]} and {self._dims[1]}"
            )
        x, y = (t.to(home(t)).to(working(t)) for t in (x, y))
        x, y = x - x.mean(0), y - y.mean(0)
        a, b = x.square().sum(1), y.square().sum(1)
        norms = Norms.of(a, b)
        tx, ty = float(a.sum()), float(b.sum())
        # ||X^T Y||^2 = <X X^T, Y Y^T>: whichever side of the batch is shorter.
        if max(dims) > n:
            kx, ky = x @ x.T, y @ y.T
            squares = [float((kx * kx).sum()), float((kx * ky).sum()), float((ky * ky).sum())]
        else:
            squares = [float((p.T @ q).square().sum()) for p, q in ((x, x), (x, y), (y, y))]
        traces = ((tx, tx), (tx, ty), (ty, ty))
        found = [
            unbiased_hsic(n, square, *trace, norm) / (n * (n - 3))
            for square, trace, norm in zip(squares, traces, (norms.xx, norms.xy, norms.yy), strict=True)
        ]
        if not all(map(math.isfinite, found)):
            raise ValueError("batch: some activations are NaN or infinite, or their squares overflow float64")
        self._sums = [total + value for total, value in zip(self._sums, found, strict=True)]
        self.num_batches, self.num_rows, self._dims = self.num_batches + 1, self.num_rows + n, dims

    def result(self) -> Similarity:
        """The similarity of all batches so far."""
        if self._dims is None:
            raise ValueError("MinibatchCKA: no batch yet; call update(x, y) first")
        xx, xy, yy = self._sums
        if min(xx, yy) <= 0:
            flat = "x" if xx <= 0 else "y"
            raise ValueError(
                f"cka(debiased=True): the mean unbiased HSIC of {flat} with itself is not positive; its rows are "
                "alike up to noise; bring more or larger batches"
            )
        similarity = max(-1.0, min(1.0, xy / math.sqrt(xx * yy)))
        return Similarity(
            f"cka(debiased=True), mean over {self.num_batches} batches",
            similarity,
            1 - similarity,
            CKA.formula,
            np.empty(0),
            np.empty(0),
            self.num_rows,
            self.num_rows,
            self._dims,
            self._dims,
            0.0,
            cost=Cost(seconds=self._seconds),
        )


def minibatch_cka(
    x: Activations,
    y: Activations,
    batch_size: int,
    *,
    spatial: Spatial | None,
    channels: Channels | None,
    null: int,
    seed: int,
) -> Similarity:
    """:class:`MinibatchCKA` over rows that are all at hand."""
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 4:
        raise ValueError(f"batch_size: the unbiased HSIC needs at least 4 rows in a batch, got {batch_size!r}")
    if spatial == "dft":
        raise ValueError("batch_size: not with spatial='dft'; leave it out")
    view = views(x, y, spatial, channels)[0]
    per = max(1, batch_size // view.x.shape[1])

    def over(order: Tensor | None = None) -> MinibatchCKA:
        total = MinibatchCKA()
        for start in range(0, len(view.x), per):
            where = slice(start, start + per)
            one, two = view.x[where], view.y[where] if order is None else view.y[order[where]]
            if one.shape[0] * one.shape[1] >= 4 or start == 0:
                total._add(one.flatten(0, 1), two.flatten(0, 1))
        return total

    result = over().result()
    if null:
        from dataclasses import replace

        found = permutation_null(lambda o: float(over(o).result()), result.similarity, len(view.x), null, seed)
        result = replace(result, null=found)
    return result
