"""Figures: correlations of one pair, and the similarity of every layer with every other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from lrscope.similarity.matrix import Matrix
    from lrscope.similarity.result import Similarity


def axes(ax: Any, size: tuple[float, float]) -> Any:
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    return plt.subplots(figsize=size, layout="constrained")[1]


def draw_correlations(result: Similarity, ax: Any) -> Any:
    ax = axes(ax, (5.0, 3.2))
    if not result.correlations.size:
        raise ValueError(f"{result.measure}: has no correlations to draw; cca, svcca, pwcca and procrustes have")
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


def draw_matrix(matrix: Matrix, ax: Any) -> Any:
    num_rows, num_columns = matrix.values.shape
    widest = max(len(name) for name in matrix.rows)
    ax = axes(ax, (2.2 + 0.09 * widest + 0.52 * num_columns, 1.6 + 0.42 * num_rows))
    image = ax.imshow(
        np.ma.masked_invalid(matrix.values), vmin=min(0.0, np.nanmin(matrix.values)), vmax=1, cmap="viridis"
    )
    ax.set_facecolor("0.85")  # what cannot be measured
    ax.set_xticks(range(num_columns), matrix.columns, rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(num_rows), matrix.rows)
    if num_rows <= 16 and num_columns <= 16:
        for (row, column), value in np.ndenumerate(matrix.values):
            text = "–" if np.isnan(value) else f"{value:.2f}"
            dark = not np.isnan(value) and image.norm(value) < 0.6
            ax.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    if matrix.title != ("", ""):
        ax.set_ylabel(matrix.title[0])
        ax.set_xlabel(matrix.title[1])
    ax.figure.colorbar(image, ax=ax, label=matrix.measure, fraction=0.046, pad=0.04)
    return ax
