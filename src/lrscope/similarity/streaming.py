"""Similarity of more examples than fit in memory: sums over batches that give the exact values in the end."""

from __future__ import annotations

import copy
import time
import warnings
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from lrscope.errors import LrscopeWarning
from lrscope.records import Cost
from lrscope.similarity.measure import result_of
from lrscope.similarity.measures import Measure, MeasureName, Norms, measure_of
from lrscope.similarity.result import Similarity
from lrscope.similarity.shapes import Activations, Channels, Spatial, views
from lrscope.similarity.side import Side, add_gram, chunks, home, mirrored


class Streaming:
    """Adds up batches of two sets of activations; every measure of the whole is then at hand, exactly.

    Kept are sums of products of units in float64: ``8 (D1 + D2)^2`` bytes, whatever the number of examples. Two
    accumulators (of two processes, say) can be merged.

    Cost: per batch of n rows ``2.5 n D^2`` multiplications for D units a side; per result what the measure does with
    (D, D) matrices.

    Example:
        >>> import torch
        >>> from lrscope.similarity import cka
        >>> x, y = torch.randn(2, 900, 5, generator=torch.Generator().manual_seed(0))
        >>> total = Streaming()
        >>> for a, b in zip(x.split(200), y.split(200)):
        ...     total.update(a, b)
        >>> abs(float(total.cka(debiased=True)) - float(cka(x, y, debiased=True))) < 1e-12
        True
    """

    def __init__(self) -> None:
        self.num_rows = self.examples = 0
        self.dims: tuple[int, int] | None = None
        self._eps = (0.0, 0.0)
        self._seconds = 0.0

    def update(
        self, x: Activations, y: Activations, *, spatial: Spatial | None = None, channels: Channels | None = None
    ) -> None:
        """Add a batch: ``x`` (n, D1) and ``y`` (n, D2), or maps and sequences as for :func:`cca` (not ``"dft"``).

        Raises:
            ValueError: Shapes that do not fit each other or the batches before, NaN or infinity; nothing is added.
        """
        began = time.perf_counter()
        if spatial == "dft":
            raise ValueError("Streaming: 'dft' keeps one pair per frequency; stream each frequency by itself")
        view = views(x, y, spatial, channels, least=1)[0]
        dims = (view.x.shape[-1], view.y.shape[-1])
        if self.dims not in (None, dims):
            raise ValueError(f"Streaming: a batch of {dims[0]} and {dims[1]} units after batches of {self.dims}")
        for name, part in (("x", view.x), ("y", view.y)):
            if not bool(torch.isfinite(part).all()):
                raise ValueError(f"{name}: the batch holds NaN or infinity, and was not added")
        with torch.no_grad():
            if self.dims is None:
                self._begin(view.x, view.y, dims)
            for one, two in zip(chunks(view.x, sum(dims)), chunks(view.y, sum(dims)), strict=True):
                self._add(one.to(self._shift.device), two.to(self._shift.device))
        self._eps = (max(self._eps[0], view.eps[0]), max(self._eps[1], view.eps[1]))
        self.num_rows += view.x.shape[0] * view.x.shape[1]
        self.examples += len(view.x)
        self._seconds += time.perf_counter() - began

    def _begin(self, x: Tensor, y: Tensor, dims: tuple[int, int]) -> None:
        wide = {"dtype": torch.float64, "device": home(x)}
        total = sum(dims)
        # Sums are taken of z = (x, y) minus a fixed shift near the mean, or squares of a large mean would drown the
        # variance; the first chunk is near enough.
        first = torch.cat([next(chunks(x, total)).mean(0), next(chunks(y, total)).mean(0)])
        self.dims, self._shift = dims, first
        self._sum = torch.zeros(total, **wide)
        self._square = torch.zeros(total, total, **wide)  # upper triangle of the sum of z z^T
        self._by_length = torch.zeros(2, total, **wide)  # sums of |x|^2 z and |y|^2 z
        self._lengths = torch.zeros(2, 2, **wide)  # sums of products of |x|^2 and |y|^2

    def _add(self, x: Tensor, y: Tensor) -> None:
        z = torch.cat([x, y], dim=1).sub_(self._shift)
        squared = z * z
        assert self.dims is not None
        lengths = torch.stack([squared[:, : self.dims[0]].sum(1), squared[:, self.dims[0] :].sum(1)])
        self._sum += z.sum(0)
        add_gram(self._square, z, bands=4)
        self._by_length.addmm_(lengths, z)
        self._lengths.addmm_(lengths, lengths.T)

    def merge(self, other: Streaming) -> None:
        """Add what ``other`` has seen; ``other`` stays as it is."""
        if not isinstance(other, Streaming):
            raise TypeError(f"other: expected a Streaming, got {type(other).__name__}")
        if other.dims is None:
            return
        if self.dims is None:
            self.__dict__.update(copy.deepcopy(other.__dict__))
            return
        if self.dims != other.dims:
            raise ValueError(f"Streaming: units {other.dims} cannot be merged into {self.dims}")
        there = other._moved_to(self._shift.to(other._shift.device))
        for name, value in there.items():
            mine = getattr(self, name)
            mine += value.to(mine.device)
        self._eps = (max(self._eps[0], other._eps[0]), max(self._eps[1], other._eps[1]))
        self.num_rows += other.num_rows
        self.examples += other.examples
        self._seconds += other._seconds

    def _moved_to(self, shift: Tensor) -> dict[str, Tensor]:
        """The same sums of ``z - shift``: with z' = z - d every sum follows from those at hand, for |x'|^2 is
        |x|^2 - 2 d.x + |d|^2 and so on.
        """
        assert self.dims is not None
        n, d = self.num_rows, shift - self._shift
        # d of one side only, so that |x'|^2 = |x|^2 - 2 part[0].z + size[0], and |y'|^2 likewise.
        part = torch.zeros(2, len(d), dtype=d.dtype, device=d.device)
        part[0, : self.dims[0]], part[1, self.dims[0] :] = d[: self.dims[0]], d[self.dims[0] :]
        size = part.square().sum(1)
        square = mirrored(self._square)
        diagonal = torch.diagonal(square)
        length = torch.stack([diagonal[: self.dims[0]].sum(), diagonal[self.dims[0] :].sum()])
        along = part @ self._sum
        # Sum of |x'|^2 z, from which both sums with |x'|^2 follow.
        by_length = self._by_length - 2 * part @ square + size[:, None] * self._sum
        length_there = length - 2 * along + n * size
        lengths = (
            self._lengths
            - 2 * (self._by_length @ part.T + part @ self._by_length.T)
            + length[:, None] * size
            + size[:, None] * length
            + 4 * part @ square @ part.T
            - 2 * (along[:, None] * size + size[:, None] * along)
            + n * size[:, None] * size
        )
        square -= torch.outer(d, self._sum) + torch.outer(self._sum, d) - n * torch.outer(d, d)
        return {
            "_sum": self._sum - n * d,
            "_square": square,
            "_by_length": by_length - length_there[:, None] * d,
            "_lengths": lengths,
        }

    @torch.no_grad()
    def measure(self, name: MeasureName, **options: Any) -> Similarity:
        """Any of the measures by name, with its own options."""
        began = time.perf_counter()
        found = self._result(measure_of(name, options))
        for guard in found.guards:
            if guard.kind == "few_samples":
                warnings.warn(f"{found.measure}: {guard.message}", LrscopeWarning, stacklevel=3)
        return replace(found, cost=Cost(seconds=self._seconds + time.perf_counter() - began))

    def _result(self, measure: Measure) -> Similarity:
        if self.dims is None or self.num_rows < 2:
            raise ValueError(f"Streaming: {self.num_rows} rows so far; call update(x, y) with batches first")
        cut, n = self.dims[0], self.num_rows
        mean = self._shift + self._sum / n
        moved = self._moved_to(mean)
        square, lengths = moved["_square"], moved["_lengths"]
        x = Side.from_moment(square[:cut, :cut], mean[:cut], n, self._eps[0], "x")
        y = Side.from_moment(square[cut:, cut:], mean[cut:], n, self._eps[1], "y")
        cross = square[:cut, cut:]
        cross = cross if x.units is None else cross[x.units]
        cross = cross if y.units is None else cross[:, y.units]
        measure.refuse(x, y)
        norms = Norms(float(lengths[0, 0]), float(lengths[0, 1]), float(lengths[1, 1]))
        reading = measure.read(x, y, cross, norms if measure.needs_norms else None)
        return result_of(measure, reading, x, y, self.examples)

    def cca(self) -> Similarity:
        """As :func:`lrscope.similarity.cca`."""
        return self.measure("cca")

    def svcca(self, *, variance: float = 0.99) -> Similarity:
        """As :func:`lrscope.similarity.svcca`."""
        return self.measure("svcca", variance=variance)

    def pwcca(self, *, reference: Literal["x", "y"] = "x") -> Similarity:
        """As :func:`lrscope.similarity.pwcca`."""
        return self.measure("pwcca", reference=reference)

    def cka(self, *, debiased: bool = False) -> Similarity:
        """As :func:`lrscope.similarity.cka`."""
        return self.measure("cka", debiased=debiased)

    def procrustes(
        self, *, metric: Literal["angular", "euclidean"] = "angular", normalised: bool = True
    ) -> Similarity:
        """As :func:`lrscope.similarity.procrustes`."""
        return self.measure("procrustes", metric=metric, normalised=normalised)
