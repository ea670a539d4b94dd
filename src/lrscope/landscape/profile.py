"""Results: the loss along a path, and how far it rises above the path's ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrscope.landscape.surface import Values
from lrscope.records import Cost


@dataclass(frozen=True, eq=False, repr=False)
class Profile:
    """Loss and metrics along a path.

    Attributes:
        t: Places on the path, ``(K,)``, 0 at its start and 1 at its end.
        travelled: Euclidean distance from the first place along the path, ``(K,)``.
        values: By column, ``(K,)``: ``"train_loss"``, ``"test_error"`` and so on. An accuracy is given as error.
        batches: The same batch by batch, ``(K, B)``; ``examples`` in those batches, by set.
        cost: Forward passes, in units of a training batch.
    """

    t: np.ndarray
    travelled: np.ndarray
    values: dict[str, np.ndarray]
    batches: dict[str, np.ndarray]
    examples: dict[str, np.ndarray]
    cost: Cost

    @classmethod
    def of(cls, t: np.ndarray, travelled: np.ndarray, values: Values) -> Profile:
        return cls(t, travelled, values.means, values.batches, values.examples, values.cost)

    def __getitem__(self, column: str) -> np.ndarray:
        if column not in self.values:
            raise ValueError(f"of: {column!r} was not measured; choose one of {', '.join(self.values)}")
        return self.values[column]

    def __repr__(self) -> str:
        return f"<Profile: {self}>"

    def __str__(self) -> str:
        columns = ", ".join(f"{k} {v.min():.4g} ... {v.max():.4g}" for k, v in self.values.items())
        return f"{len(self.t)} points over a distance of {self.travelled[-1]:.4g}: {columns}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "t": self.t.tolist(),
            "travelled": self.travelled.tolist(),
            "values": {name: [_number(v) for v in column] for name, column in self.values.items()},
            "cost": self.cost.to_dict(),
        }

    def plot(self, ax: Any = None, *, of: str = "train_loss", label: str | None = None, **line: Any) -> Any:
        """Draw one column against ``t``; returns the axes."""
        from lrscope.landscape.pictures import draw_profile

        return draw_profile(self, ax, of=of, label=label, **line)


@dataclass(frozen=True, eq=False, repr=False)
class Barrier:
    r"""How far a loss rises between the ends of a path, by both definitions in use.

    .. math:: \text{height} = \max_t L(t) - \max(L(0), L(1)), \qquad
              \text{above\_chord} = \max_t \; L(t) - (1 - t) L(0) - t L(1)

    The first is 0 where the loss nowhere exceeds its worse end; the second also counts a rise above the straight line
    between the two end losses, so it is the larger one where ends differ. Both are at least 0. A loss that is not
    finite on the way makes both infinite.

    Attributes:
        of: The column, ``"train_loss"`` by default; :meth:`on` gives the same for another.
        height, above_chord: As above, in units of the column (nats, or shares of examples for errors).
        t: Where the loss is largest.
        ends: Its values at t = 0 and 1.
        stderr: Standard error of ``height`` at that ``t`` over the choice of data, from the differences between
            batches; ``None`` where all data came in one batch, or the loss is largest at an end. What training would
            give from another seed it does not know.
        profile: All that was measured.
        resolution: How much ``height`` grew when the grid was refined around its maximum; ``None`` where it was not.
            A refinement that finds much means a grid too coarse.

    References:
        ``height``: its sign is what Gotmare, Keskar, Xiong, Socher, A Closer Look at Deep Learning Heuristics, 2018,
        arXiv 1810.13243, ask of a segment.
        ``above_chord``: Entezari, Sedghi, Saukh, Neyshabur, The Role of Permutation Invariance in Linear Mode
        Connectivity of Neural Networks, 2021, arXiv 2110.06296.
    """

    of: str
    height: float
    above_chord: float
    t: float
    ends: tuple[float, float]
    stderr: float | None
    profile: Profile
    resolution: float | None = None

    @classmethod
    def read(cls, profile: Profile, of: str = "train_loss", *, resolution: float | None = None) -> Barrier:
        """The barrier that a profile from end to end shows."""
        values = profile[of]
        if not of.endswith(("_loss", "_error")):
            raise ValueError(f"of: {of!r} may be good when high; barriers are of losses and errors")
        safe = np.where(np.isfinite(values), values, math.inf)
        k, worse = int(safe.argmax()), 0 if safe[0] >= safe[-1] else -1
        ends = float(safe[0]), float(safe[-1])
        if not math.isfinite(safe[k]):
            return cls(of, math.inf, math.inf, float(profile.t[k]), ends, None, profile, resolution)
        chord = (1 - profile.t) * ends[0] + profile.t * ends[1]
        stderr = None
        if safe[k] > max(ends):
            difference = profile.batches[of][k] - profile.batches[of][worse]
            stderr = _standard_error(difference, profile.examples[of.split("_")[0]])
        height, above = float(safe[k] - max(ends)), float(max(0.0, (safe - chord).max()))
        return cls(of, height, above, float(profile.t[k]), ends, stderr, profile, resolution)

    def on(self, of: str) -> Barrier:
        """The same path's barrier in another column, such as ``"test_error"``; nothing is measured anew."""
        return Barrier.read(self.profile, of)

    @property
    def cost(self) -> Cost:
        return self.profile.cost

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"

    def __str__(self) -> str:
        error = "" if self.stderr is None else f" ± {self.stderr:.2g}"
        return (
            f"{self.of}: barrier {self.height:.4g}{error} at t = {self.t:.3f} (ends {self.ends[0]:.4g} and "
            f"{self.ends[1]:.4g}; above their chord {self.above_chord:.4g})"
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "of": self.of,
            "height": _number(self.height),
            "above_chord": _number(self.above_chord),
            "t": self.t,
            "ends": [_number(end) for end in self.ends],
            "stderr": self.stderr,
            "resolution": self.resolution,
            "profile": self.profile.to_dict(),
        }

    def plot(self, ax: Any = None, **options: Any) -> Any:
        """Draw the profile in the barrier's column; returns the axes."""
        return self.profile.plot(ax, **{"of": self.of, **options})


def _standard_error(difference: np.ndarray, examples: np.ndarray) -> float | None:
    """Of a mean over batches weighted by their examples."""
    B = len(difference)
    if B < 2:
        return None
    w = examples / examples.sum()
    spread = difference - (w * difference).sum()
    return float(math.sqrt((w**2 * spread**2).sum() * B / (B - 1)))


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
