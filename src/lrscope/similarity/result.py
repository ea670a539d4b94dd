"""What a similarity measurement returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lrscope.records import Cost

GuardKind = Literal["few_samples", "dependent_samples", "rank_deficient", "constant_units", "tied_correlations"]


@dataclass(frozen=True)
class Guard:
    """One reason for care, as data.

    Attributes:
        kind: ``few_samples`` (the value should not be trusted; also a warning), ``dependent_samples`` (positions of
            one example were counted as samples), ``rank_deficient``, ``constant_units``, or ``tied_correlations``
            (PWCCA's weights are arbitrary where correlations coincide).
        side: ``x``, ``y`` or ``both``.
        message: One sentence with the numbers.
        needed: Samples that would be enough, for ``few_samples``.
    """

    kind: GuardKind
    side: str
    message: str
    needed: int | None = None


@dataclass(frozen=True)
class Null:
    """The same measure after the examples of ``y`` were permuted, so that nothing but chance is left.

    Attributes:
        mean, std: Of the permuted values.
        quantile: 95 % of the permuted values lie at or below it.
        p: Share of values, the measured one included, at or above the measured one: at least ``1 / (samples + 1)``.
        samples: Permutations.
    """

    mean: float
    std: float
    quantile: float
    p: float
    samples: int


@dataclass(frozen=True)
class Interval:
    """A 95 % interval over examples, from random halves of them; it may lie off the estimate, by its bias.

    Attributes:
        low, high: Ends.
        samples: Halves that were measured.
    """

    low: float
    high: float
    samples: int


@dataclass(frozen=True, eq=False)
class Similarity:
    """How alike two representations are; ``float(result)`` is the similarity.

    Attributes:
        measure: Name and setting, for example ``svcca(variance=0.99)``.
        similarity: 1 for representations that the measure cannot tell apart.
        distance: 0 for those; ``formula`` says how it follows.
        formula: Of the distance.
        correlations: Canonical correlations, descending (CCA, SVCCA, PWCCA); singular values of the normalised cross
            product (Procrustes); empty for CKA and for several frequencies.
        weights: What PWCCA multiplies the correlations by; they sum to 1. Empty otherwise.
        examples: Examples N.
        rows: Rows that were compared: N, or N times the number of positions.
        dims: Units of x and y, as given.
        ranks: Directions of x and y that were used.
        chance: What unrelated data of this size give. The exact mean over permutations for CKA; for the others
            the root mean square, a little above the mean. It counts every row as an independent sample.
        guards: Reasons for care.
        null: On request.
        interval: On request.
        cost: Time.
        parts: One result per spatial frequency (``spatial="dft"``), whose weighted mean this one is.
        part_weights: Their weights.
    """

    measure: str
    similarity: float
    distance: float
    formula: str
    correlations: np.ndarray[Any, Any]
    weights: np.ndarray[Any, Any]
    examples: int
    rows: int
    dims: tuple[int, int]
    ranks: tuple[int, int]
    chance: float
    guards: tuple[Guard, ...] = ()
    null: Null | None = None
    interval: Interval | None = None
    cost: Cost = field(default_factory=Cost)
    parts: tuple[Similarity, ...] = field(default=(), repr=False)
    part_weights: tuple[float, ...] = field(default=(), repr=False)

    def __float__(self) -> float:
        return self.similarity

    def __str__(self) -> str:
        text = f"{self.measure} {self.similarity:.4f}"
        if self.interval is not None:
            text += f" [{self.interval.low:.4f}, {self.interval.high:.4f}]"
        text += f", distance {self.distance:.4f} = {self.formula}; "
        text += f"{self.rows:,} rows, dimensions {self.dims[0]} and {self.dims[1]}, "
        text += f"{self.ranks[0]} and {self.ranks[1]} used; unrelated data: {self.chance:.4f}"
        if self.null is not None:
            text += f", permuted: {self.null.mean:.4f} (p = {self.null.p:.2g})"
        return text + "".join(f"\n  {guard.kind}: {guard.message}" for guard in self.guards)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""

        def plain(value: Any) -> Any:
            return None if value is None else vars(value).copy()

        return {
            "measure": self.measure,
            "similarity": self.similarity,
            "distance": self.distance,
            "formula": self.formula,
            "correlations": self.correlations.tolist(),
            "weights": self.weights.tolist(),
            "examples": self.examples,
            "rows": self.rows,
            "dims": list(self.dims),
            "ranks": list(self.ranks),
            "chance": self.chance,
            "guards": [plain(guard) for guard in self.guards],
            "null": plain(self.null),
            "interval": plain(self.interval),
            "cost": self.cost.to_dict(),
            "parts": [part.to_dict() for part in self.parts],
            "part_weights": list(self.part_weights),
        }

    def plot(self, ax: Any = None) -> Any:
        """The correlations against their number, with what chance gives; returns the Axes."""
        from lrscope.similarity.pictures import draw_correlations

        return draw_correlations(self, ax)
