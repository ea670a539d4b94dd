"""Kalra & Barkeshli, Why Warmup the Learning Rate? Underlying Mechanisms and Improvements, 2024, arXiv 2406.09405."""

from lrscope.papers.kalra2024 import solvable
from lrscope.papers.kalra2024.adam import (
    Grid,
    PlainMLP,
    ResidualMLP,
    _standard,
    failure_boundary,
    grid,
    random_second_moment,
    schedule,
    sharpness_at_the_start,
    task,
    warmup_without_normalisation,
)

__all__ = [
    "Grid",
    "PlainMLP",
    "ResidualMLP",
    "_standard",
    "failure_boundary",
    "grid",
    "random_second_moment",
    "schedule",
    "sharpness_at_the_start",
    "solvable",
    "task",
    "warmup_without_normalisation",
]
