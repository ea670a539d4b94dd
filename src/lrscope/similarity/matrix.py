"""Every layer of one network against every layer of another, or of itself at other times."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lrscope.errors import LrscopeWarning
from lrscope.records import Cost
from lrscope.similarity.measure import Pair, measured, result_of
from lrscope.similarity.measures import Measure, MeasureName, measure_of
from lrscope.similarity.recording import Recording, no_layer
from lrscope.similarity.result import Similarity
from lrscope.similarity.shapes import Channels, Spatial, positions_first, reduced, tensor
from lrscope.similarity.side import Side

SHOWN = 12


@dataclass(frozen=True, eq=False, repr=False)
class Matrix:
    """Similarities of pairs of layers.

    Attributes:
        rows, columns: Names.
        values: Similarities, (rows, columns); NaN where a pair cannot be measured.
        results: ``(row, column) -> Similarity``.
        reasons: ``(row, column) -> why not``, for the NaN.
        measure: Its name and setting.
        title: What rows and columns are.
        cost: Time.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: np.ndarray[Any, Any]
    results: Mapping[tuple[str, str], Similarity]
    reasons: Mapping[tuple[str, str], str]
    measure: str
    title: tuple[str, str] = ("", "")
    cost: Cost = field(default_factory=Cost)

    def __getitem__(self, pair: tuple[str, str]) -> Similarity:
        if not isinstance(pair, tuple) or len(pair) != 2:
            raise KeyError(f"expected a row and a column such as matrix[{self.rows[0]!r}, {self.columns[0]!r}]")
        if pair in self.reasons:
            raise KeyError(f"{pair[0]} against {pair[1]} could not be measured: {self.reasons[pair]}")
        if pair not in self.results:
            row, column = pair
            raise KeyError(no_layer(row, self.rows) if row not in self.rows else no_layer(column, self.columns))
        return self.results[pair]

    @property
    def same(self) -> dict[str, float]:
        """Similarity of each layer with its namesake."""
        return {name: float(self.results[name, name]) for name in self.rows if (name, name) in self.results}

    def __repr__(self) -> str:
        return f"<Matrix: {len(self.rows)} x {len(self.columns)}, {self.measure}>"

    def __str__(self) -> str:
        """The values as a table, 12 rows and columns at most."""
        rows, columns = self.rows[:SHOWN], self.columns[:SHOWN]
        widths = [max(len(name), 6) for name in columns]
        first = max(map(len, rows))
        lines = [" " * first + "".join(f"  {name:>{w}}" for name, w in zip(columns, widths, strict=True))]
        for name, values in zip(rows, self.values, strict=False):
            cells = ("-" if np.isnan(v) else f"{v:.3f}" for v in values[:SHOWN])
            lines.append(f"{name:<{first}}" + "".join(f"  {c:>{w}}" for c, w in zip(cells, widths, strict=True)))
        left = f" ({len(self.rows)} x {len(self.columns)} in all)" if max(self.values.shape) > SHOWN else ""
        return "\n".join([f"{self.measure}{left}", *lines])

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; what could not be measured is ``None``."""
        return {
            "measure": self.measure,
            "rows": list(self.rows),
            "columns": list(self.columns),
            "values": [[None if np.isnan(v) else float(v) for v in row] for row in self.values],
            "results": [{"row": r, "column": c, **result.to_dict()} for (r, c), result in self.results.items()],
            "reasons": [{"row": r, "column": c, "reason": why} for (r, c), why in self.reasons.items()],
            "cost": self.cost.to_dict(),
        }

    def plot(self, ax: Any = None) -> Any:
        """A heat map with the names, and the numbers where they fit; returns the Axes."""
        from lrscope.similarity.pictures import draw_matrix

        return draw_matrix(self, ax)


def compare(
    a: Mapping[str, Tensor],
    b: Mapping[str, Tensor],
    measure: MeasureName = "svcca",
    *,
    spatial: Spatial | None = None,
    channels: Channels | None = None,
    names: tuple[str, str] = ("a", "b"),
    **options: Any,
) -> Matrix:
    """Every layer of one recording against every layer of another.

    What belongs to one layer alone (moments, whitening) is computed once, not once per pair.

    Args:
        a, b: Recordings of the same examples, or mappings from names to activations. Rows are a's layers.
        measure: ``"cca"``, ``"svcca"``, ``"pwcca"``, ``"cka"`` or ``"procrustes"``.
        spatial, channels: As for :func:`cca`; layers with positions need ``spatial``. ``"average"`` and ``"flatten"``
            pair maps of any size with each other and with vectors; ``"samples"`` and ``"dft"`` only equal sizes.
        names: What rows and columns belong to, for the figure.
        options: The measure's own, for example ``variance=0.99``.

    Returns:
        A :class:`Matrix`. A pair that cannot be measured is NaN, with its reason.

    Raises:
        ValueError: Recordings of different inputs, or no pair that can be measured.

    Warns:
        LrscopeWarning: Once, with how many values rest on too few samples or could not be measured.

    Cost: products of N D^2 for each layer and each pair.

    Example:
        >>> import torch
        >>> x = {"one": torch.randn(400, 4, generator=torch.Generator().manual_seed(0))}
        >>> x["two"] = x["one"] @ torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
        >>> compare(x, x, "cca").values.round(3)
        array([[1., 1.],
               [1., 1.]])
    """
    _same_inputs({"a": a, "b": b})
    pairs = [(row, column) for row in a for column in b]
    cells = [((row, column), a[row], b[column]) for row, column in pairs]
    return _filled(tuple(a), tuple(b), cells, measure_of(measure, options), spatial, channels, names)


def over_time(
    recordings: Mapping[str, Mapping[str, Tensor]],
    measure: MeasureName = "svcca",
    *,
    layer: str | None = None,
    reference: str | None = None,
    spatial: Spatial | None = None,
    channels: Channels | None = None,
    **options: Any,
) -> Matrix:
    """One network at several times: each layer against itself at a reference time, or one layer at all times.

    Args:
        recordings: ``time -> recording`` of the same examples and layers, in order; the times are labels.
        measure, spatial, channels, options: As for :func:`compare`.
        layer: A layer: the matrix of times against times. ``None``: the matrix of layers against times.
        reference: For layers against times, the time to compare with; the last one if ``None``.

    Returns:
        A :class:`Matrix`.

    Raises:
        ValueError: As for :func:`compare`; fewer than two times; a layer or time that is not there.
    """
    times = tuple(str(time) for time in recordings)
    found = dict(zip(times, recordings.values(), strict=True))
    if len(found) < 2:
        raise ValueError(f"recordings: expected at least two times, got {len(found)}")
    _same_inputs(found)
    reference = times[-1] if reference is None else str(reference)
    if reference not in found:
        raise ValueError(f"reference: no time {reference!r} among {', '.join(times)}")
    names = tuple(found[reference]) if layer is None else (layer,)
    for when, recording in found.items():
        for name in names:
            if name not in recording:
                raise ValueError(f"recordings[{when!r}]: {no_layer(name, recording)}")
    if layer is not None:
        cells = [((row, column), found[row][layer], found[column][layer]) for row in times for column in times]
        return _filled(times, times, cells, measure_of(measure, options), spatial, channels, (layer, layer))
    cells = [((name, when), found[when][name], found[reference][name]) for name in names for when in times]
    title = ("layer", f"against {reference}")
    return _filled(names, times, cells, measure_of(measure, options), spatial, channels, title)


def _filled(
    rows: tuple[str, ...],
    columns: tuple[str, ...],
    cells: list[tuple[tuple[str, str], Tensor, Tensor]],
    measure: Measure,
    spatial: Spatial | None,
    channels: Channels | None,
    title: tuple[str, str],
) -> Matrix:
    began = time.perf_counter()
    sides = _Sides(spatial, channels)
    values = np.full((len(rows), len(columns)), np.nan)
    results: dict[tuple[str, str], Similarity] = {}
    reasons: dict[tuple[str, str], str] = {}
    for (row, column), x, y in cells:
        try:
            if spatial == "dft" and max(x.ndim, y.ndim) > 2:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", LrscopeWarning)
                    result = measured(measure, x, y, spatial=spatial, channels=channels)
            else:
                result = _cell(measure, sides, x, y)
        except ValueError as error:
            reasons[row, column] = str(error)
        else:
            results[row, column] = result
            values[rows.index(row), columns.index(column)] = result.similarity
    if not results:
        pair, reason = next(iter(reasons.items()))
        raise ValueError(f"no pair of layers can be measured; {pair[0]} against {pair[1]}: {reason}")
    _warn(measure, results, reasons)
    cost = Cost(seconds=time.perf_counter() - began)
    return Matrix(rows, columns, values, results, reasons, measure.name, title, cost)


class _Sides:
    """The side of each tensor, or the reason why it has none, made once."""

    def __init__(self, spatial: Spatial | None, channels: Channels | None) -> None:
        self.spatial: Spatial | None = spatial
        self.channels: Channels | None = channels
        self._made: dict[int, tuple[Tensor, Side | ValueError]] = {}

    def of(self, value: Tensor) -> Side:
        if id(value) not in self._made:
            try:
                flat = tensor(value, "layer")
                spatial = self.spatial if flat.ndim > 2 else None
                rows = reduced(positions_first(flat, "layer", spatial, self.channels), spatial)
                made = Side.of(rows, torch.finfo(flat.dtype).eps, "layer")
            except ValueError as error:
                made = error
            self._made[id(value)] = (value, made)  # with the tensor, so that its id stays its own
        made = self._made[id(value)][1]
        if isinstance(made, ValueError):
            raise ValueError(str(made))
        return made


@torch.no_grad()
def _cell(measure: Measure, sides: _Sides, first: Tensor, second: Tensor) -> Similarity:
    began = time.perf_counter()
    x, y = sides.of(first), sides.of(second)
    assert x.rows is not None
    assert y.rows is not None
    if x.rows.shape[:2] != y.rows.shape[:2]:
        raise ValueError(
            f"{x.rows.shape[0]} examples with {x.rows.shape[1]} positions against {y.rows.shape[0]} with "
            f"{y.rows.shape[1]}; spatial='average' and 'flatten' pair maps of any size"
        )
    pair = Pair.of_sides(measure, x, y)
    result = result_of(measure, pair.read(measure), x, y, len(x.rows))
    return replace(result, cost=Cost(seconds=time.perf_counter() - began))


def _same_inputs(recordings: Mapping[str, Mapping[str, Tensor]]) -> None:
    known = {name: r.inputs for name, r in recordings.items() if isinstance(r, Recording) and r.inputs}
    if len(set(known.values())) > 1:
        first, *others = known
        other = next(name for name in others if known[name] != known[first])
        raise ValueError(
            f"recordings {first!r} and {other!r} are of different inputs, so their rows do not pair; record both on "
            "the same batches in the same order (a shuffled loader gives another order each time)"
        )


def _warn(
    measure: Measure, results: Mapping[tuple[str, str], Similarity], reasons: Mapping[tuple[str, str], str]
) -> None:
    total = len(results) + len(reasons)
    few = {pair: g for pair, r in results.items() for g in r.guards if g.kind == "few_samples"}
    if few:
        pair, worst = max(few.items(), key=lambda item: item[1].needed or 0)
        warnings.warn(
            f"{measure.name}: {len(few)} of {total} values rest on too few samples; {pair[0]} against {pair[1]} has "
            f"{results[pair].rows} rows and needs {worst.needed}",
            LrscopeWarning,
            stacklevel=4,
        )
    if reasons:
        pair, reason = next(iter(reasons.items()))
        warnings.warn(
            f"{measure.name}: {len(reasons)} of {total} pairs could not be measured and are NaN; {pair[0]} against "
            f"{pair[1]}: {reason}",
            LrscopeWarning,
            stacklevel=4,
        )
