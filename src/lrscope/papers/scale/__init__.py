"""Claims in the papers' own settings, for a GPU and the user's copy of the data (``reproduce --scale paper``)."""

from __future__ import annotations

from lrscope.papers.scale import gotmare2018, kalra2024, leclerc2020, lewkowycz2020, li2019
from lrscope.papers.scale.experiment import EXPERIMENTS, Experiment, Price, Training

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Price",
    "Training",
    "gotmare2018",
    "kalra2024",
    "leclerc2020",
    "lewkowycz2020",
    "li2019",
]
