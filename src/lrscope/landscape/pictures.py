"""Figures of landscapes; matplotlib is imported when one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from lrscope.curvature.measurement import axes

if TYPE_CHECKING:
    from lrscope.landscape.profile import Profile
    from lrscope.landscape.projection import Plane, Projection

NAMES = {
    "train_loss": "training loss",
    "test_loss": "test loss",
    "train_error": "training error",
    "test_error": "test error",
}
INK = "#1c1e22"
LEVELS = 17
TAG: dict[str, Any] = {
    "color": INK,
    "bbox": {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.8},
}


def draw_profile(profile: Profile, ax: Any, *, of: str, label: str | None, **line: Any) -> Any:
    values = profile[of]
    ax = axes(ax)
    ax.plot(profile.t, values, label=label, **line)
    ax.set_xlabel("place on the path, t")
    ax.set_ylabel(NAMES.get(of, of.replace("_", " ")))
    if label is not None:
        ax.legend(frameon=False)
    return ax


def draw_plane(plane: Plane, ax: Any, *, of: str, trajectory: Projection | None) -> Any:
    """Contours, in equal ratios where all values are positive (losses), and what lies on the plane."""
    if of not in plane.values:
        raise ValueError(f"of: {of!r} was not measured; choose one of {', '.join(plane.values)}")
    ax = axes(ax)
    values = plane.values[of]
    finite = values[np.isfinite(values)]
    if not len(finite):
        raise ValueError(f"of: no value of {of!r} on this plane is finite, so there is nothing to draw")
    low, high = float(finite.min()), float(finite.max())
    ratios = low > 0 and high > 1.5 * low and not of.endswith("_error")
    ends = (low, high) if high > low else (low - 1, low + 1)
    levels = np.geomspace(*ends, LEVELS) if ratios else np.linspace(*ends, LEVELS)
    shown = np.where(np.isfinite(values), values, high)
    # cividis is told apart by lightness alone, with any colour vision and in grey.
    filled = ax.contourf(plane.x, plane.y, shown, levels=levels, cmap="cividis", norm=_norm(ratios, ends))
    ax.contour(plane.x, plane.y, shown, levels=levels[::2], colors="white", linewidths=0.4, alpha=0.5)
    equal = "distance" in plane.labels[0]
    height = np.ptp(plane.y) / np.ptp(plane.x) if equal else 1.0
    bar = ax.figure.colorbar(filled, ax=ax, ticks=levels[::4], format="%.2g", shrink=min(1.0, 1.3 * height))
    bar.set_label(NAMES.get(of, of.replace("_", " ")))
    bar.outline.set_visible(False)
    if trajectory is not None:
        seen = 1 - np.nan_to_num(trajectory.lost)
        ax.plot(*trajectory.xy.T, color=INK, linewidth=0.9)
        ax.scatter(*trajectory.xy.T, c=[(1, 1, 1, max(0.15, s)) for s in seen], edgecolors=INK, s=16, zorder=3)
    for name, (x, y) in plane.marks.items():
        ax.plot(x, y, marker="X", markersize=8, color="white", markeredgecolor=INK, zorder=4)
        ax.annotate(name, (x, y), xytext=(7, 5), textcoords="offset points", zorder=5, **TAG)
    ax.set_xlabel(plane.labels[0])
    ax.set_ylabel(plane.labels[1])
    if equal:
        ax.set_aspect("equal")
    return ax


def _norm(ratios: bool, ends: tuple[float, float]) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    return LogNorm(*ends) if ratios else Normalize(*ends)
