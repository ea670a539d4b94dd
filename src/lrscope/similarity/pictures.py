"""Figures: correlations of one pair, and the similarity of every layer with every other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lrscope.similarity.result import Similarity


def axes(ax: Any, size: tuple[float, float]) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def draw_correlations(result: Similarity, ax: Any) -> Any:
    ax = axes(ax, (5.0, 3.2))
    if not result.correlations.size:
        raise ValueError(
            f"{result.measure}: keeps no correlations to draw; draw those of cca, svcca, pwcca or procrustes"
        )
    number = np.arange(1, result.correlations.size + 1)
    ax.plot(number, result.correlations, color="tab:blue", label=result.measure)
    ax.axhline(
        result.similarity, color="tab:blue", linewidth=1, linestyle="--", label=f"similarity {result.similarity:.2f}"
    )
    if result.correlations[0] <= 1 and not result.measure.startswith("procrustes"):
        ax.axhline(
            result.chance, color="0.5", linewidth=1, linestyle=":", label=f"unrelated data {result.chance:.2f}"
        )
        ax.set_ylim(0, 1.02)
    ax.set_xlabel("direction")
    ax.set_ylabel("canonical correlation" if "cca" in result.measure else "share of the similarity")
    ax.legend(frameon=False)
    return ax
