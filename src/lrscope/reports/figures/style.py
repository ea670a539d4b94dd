"""Colours and type of every figure, in one table for light and dark.

Figures are drawn in the light colours; each is used for one purpose only, so that in an SVG it can be replaced by the
CSS variable of that name (see ``reports.svg``) and the same drawing serves both modes. Lines differ in dash or marker
as well as in colour; blue, vermilion and green of the runs are told apart with every common colour blindness.
"""

from __future__ import annotations

from typing import Any

COLOURS: dict[str, tuple[str, str]] = {
    "ink": ("#1c1e22", "#e7e8eb"),
    "muted": ("#5d646e", "#a0a7b2"),
    "grid": ("#e3e5e9", "#2a2f37"),
    "rule": ("#b9bec6", "#4a515c"),
    "paper": ("#fffffe", "#15171b"),
    "planned": ("#0a64b4", "#6db3fb"),
    "default": ("#c4500b", "#ff9c5c"),
    "cosine": ("#08805f", "#3fcf9f"),
    "other": ("#7a4fa3", "#c7a2ee"),
    "beyond": ("#f6e4da", "#3b2820"),
    "beyond-ink": ("#9b3f0e", "#f0a37c"),
    "limit": ("#2b2e34", "#d6d8dc"),
    "interval": ("#dbe9f7", "#1c3147"),
    "failed": ("#f1f1f3", "#1d2025"),
    "failed-ink": ("#6b707a", "#9aa1ac"),
    "warmup-0": ("#b48a3c", "#8a7440"),
    "warmup-1": ("#8d5aa6", "#a87fc4"),
    "warmup-2": ("#5b2f8f", "#c9a9e6"),
    "warmup-3": ("#2a1450", "#efe2fb"),
    "level-0": ("#0b4f93", "#8cc6ff"),
    "level-1": ("#3b7cba", "#5f9fdd"),
    "level-2": ("#7fadd8", "#3f78b0"),
    "level-3": ("#b3cfea", "#2c5680"),
    "level-4": ("#d8e6f3", "#223b56"),
    "level-5": ("#eef2f7", "#1c2733"),
    "on-level-0": ("#fefefe", "#0c1218"),
    "on-level-1": ("#fefeff", "#0c1219"),
    "on-level-2": ("#0d1420", "#fdfdfe"),
    "on-level-3": ("#0d1421", "#eef3f8"),
    "on-level-4": ("#0d1422", "#e3e9f0"),
    "on-level-5": ("#0d1423", "#c8d0da"),
}
LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Shares above the best score at which the map's colour changes."""

DASHES: dict[str, Any] = {"planned": "-", "run": "-", "default": (0, (5, 2)), "cosine": (0, (1.2, 1.2))}
MARKERS = {"planned": "o", "run": "o", "default": "s", "cosine": "^"}
WARMUP_MARKERS = ("o", "s", "^", "D")


def colour(name: str) -> str:
    return COLOURS[name][0]


def of_run(name: str) -> str:
    return colour({"run": "planned"}.get(name, name) if name in DASHES else "other")


def of_warmup(position: int) -> str:
    return colour(f"warmup-{min(position, 3)}")


def settings(*, compact: bool = False) -> dict[str, Any]:
    """Settings for figures of the report; lengths are CSS pixels when drawn at 72 dots per inch."""
    size = 11 if compact else 12
    return {
        "font.size": size,
        "axes.labelsize": size,
        "axes.titlesize": size,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "xtick.labelsize": size - 0.5,
        "ytick.labelsize": size - 0.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": colour("rule"),
        "axes.linewidth": 0.9,
        "axes.labelcolor": colour("muted"),
        "axes.titlecolor": colour("ink"),
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": colour("grid"),
        "grid.linewidth": 0.8,
        "xtick.color": colour("rule"),
        "ytick.color": colour("rule"),
        "xtick.labelcolor": colour("muted"),
        "ytick.labelcolor": colour("muted"),
        "text.color": colour("ink"),
        "figure.facecolor": "none",
        "hatch.linewidth": 0.7,
        "lines.solid_capstyle": "round",
        "lines.solid_joinstyle": "round",
    }
