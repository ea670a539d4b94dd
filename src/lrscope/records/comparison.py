"""How two trained networks of one architecture relate, as plain data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lrscope.records.cost import Cost
from lrscope.records.environment import environment


@dataclass(frozen=True)
class Rise:
    """How far one column rises between the ends of a path.

    Attributes:
        height: Largest value less that of the worse end, at least 0.
        above_chord: Largest excess over the straight line between the end values, at least 0.
        stderr: Standard error of ``height`` over the choice of data; ``None`` where it is not known.
        t: Where the column is largest.
        ends: Its values at both ends.
    """

    height: float
    above_chord: float
    stderr: float | None
    t: float
    ends: tuple[float, float]


@dataclass(frozen=True)
class Between:
    """Losses and errors along a path from A to B.

    Attributes:
        kind: ``"line"``, ``"bezier"`` or ``"chain"``.
        t: Places on the path, 0 is A and 1 is B.
        columns: By name (``"train_loss"``, ``"test_error"`` …), values at each place.
        rises: Of each loss and error.
        detour: Length in units of the straight distance.
        status: ``"done"``, or ``"diverged"`` where a curve's training did.
    """

    kind: str
    t: tuple[float, ...]
    columns: Mapping[str, tuple[float, ...]]
    rises: Mapping[str, Rise]
    detour: float = 1.0
    status: str = "done"


@dataclass(frozen=True)
class Comparison:
    """Two networks: the loss between them, and how alike their layers answer.

    Attributes:
        task: On whose data.
        names: What A and B are called.
        same: Both hold the same values, so everything else says nothing.
        distance: Euclidean distance of the trainable parameters.
        norms: Their norms.
        line, curve: The straight line, and the trained curve if one was asked for.
        layers: Compared layers, in the order they run.
        similarity: A's layers by B's; ``nan`` where the measure says nothing.
        chance: The same for unrelated data.
        measure: Of the similarity.
        examples: That layers were compared on.
        settings: What was asked for.
        cost: Work spent, in evaluations of one training batch.
        environment: Versions and machine class.
    """

    task: str
    names: tuple[str, str]
    same: bool
    distance: float
    norms: tuple[float, float]
    line: Between
    curve: Between | None
    layers: tuple[str, ...]
    similarity: tuple[tuple[float, ...], ...]
    chance: tuple[tuple[float, ...], ...]
    measure: str
    examples: int
    settings: Mapping[str, Any]
    cost: Cost
    environment: Mapping[str, Any] = field(default_factory=environment)

    @property
    def by_layer(self) -> dict[str, float]:
        """Similarity of each layer with itself in the other network."""
        return {name: self.similarity[i][i] for i, name in enumerate(self.layers)}

    @property
    def errors(self) -> list[str]:
        """Columns that are errors, by their usual names."""
        return [name for name in ("train_error", "test_error") if name in self.line.columns]

    def to_dict(self) -> dict[str, Any]:
        """Plain values; for numbers that are not finite :func:`~lrscope.records.strict_json` writes null."""
        return asdict(self) | {"cost": self.cost.to_dict()}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Comparison:
        tables = {name: tuple(map(_numbers, d[name])) for name in ("similarity", "chance")}
        parts = {
            "names": tuple(d["names"]),
            "norms": _numbers(d["norms"]),
            "layers": tuple(d["layers"]),
            "line": _between(d["line"]),
            "curve": None if d["curve"] is None else _between(d["curve"]),
            "cost": Cost(**d["cost"]),
        }
        return cls(**{**d, **tables, **parts})


def _between(d: Mapping[str, Any]) -> Between:
    columns = {name: _numbers(values) for name, values in d["columns"].items()}
    rises = {name: _rise(found) for name, found in d["rises"].items()}
    return Between(d["kind"], _numbers(d["t"]), columns, rises, _number(d["detour"]), d["status"])


def _rise(d: Mapping[str, Any]) -> Rise:
    ends = _numbers(d["ends"])
    # A barrier that is not finite is infinite; JSON has null for both.
    high = {key: math.inf if d[key] is None else d[key] for key in ("height", "above_chord")}
    return Rise(high["height"], high["above_chord"], d["stderr"], d["t"], (ends[0], ends[1]))


def _numbers(values: Any) -> tuple[float, ...]:
    return tuple(_number(value) for value in values)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
