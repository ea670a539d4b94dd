"""Reasons not to believe a value, as data."""

from __future__ import annotations

from lrscope.similarity.measures import SAMPLES_PER_DIRECTION, Reading
from lrscope.similarity.result import Guard
from lrscope.similarity.side import Side

TIE = 1e-8
"""Correlations as close as this have no directions of their own, only a common space."""


def guards_of(x: Side, y: Side, reading: Reading, examples: int | None) -> tuple[Guard, ...]:
    """Few samples, samples that hang together, missing rank, constant units; rows are parts of ``examples``."""
    found = []
    rows = x.num_rows
    if rows < reading.need:
        found.append(
            Guard(
                "few_samples",
                "both",
                f"{rows} rows are too few: unrelated data of this size score about {reading.chance:.2f}; bring at "
                f"least {reading.need} ({SAMPLES_PER_DIRECTION} per direction compared), or take cka(debiased=True)",
                reading.need,
            )
        )
    elif examples is not None and examples < reading.need:
        found.append(
            Guard(
                "dependent_samples",
                "both",
                f"{rows} rows come from {examples} examples, and positions of one example are alike; null= permutes "
                f"whole examples and shows what chance gives, {reading.need} examples would be beyond doubt",
                reading.need,
            )
        )
    for side, name in ((x, "x"), (y, "y")):
        if side.constant:
            found.append(
                Guard(
                    "constant_units",
                    name,
                    f"{side.constant} of {side.dim} units of {name} never vary and were left out",
                )
            )
        varying, rank = side.dim - side.constant, side.whitening().shape[1]
        if rank < varying:
            found.append(
                Guard(
                    "rank_deficient",
                    name,
                    f"the {varying} varying units of {name} span {rank} directions; the others follow up to rounding",
                )
            )
    if len(reading.weights) > 1:
        gaps = reading.correlations[:-1] - reading.correlations[1:]
        if 0 < (tied := int((gaps < TIE).sum())) < len(gaps):
            found.append(
                Guard(
                    "tied_correlations",
                    "both",
                    f"{tied} neighbours among {len(reading.correlations)} correlations coincide; directions and "
                    "weights are arbitrary; cca, svcca and cka do not depend on them",
                )
            )
    return tuple(found)
