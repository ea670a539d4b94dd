"""Figures: every function takes records and an axes, draws, and returns the axes."""

from lrscope.reports.figures.equivalence import equivalence
from lrscope.reports.figures.stability import headroom, stability_limit
from lrscope.reports.figures.training import loss_curves, metric_curves
from lrscope.reports.figures.trials import lr_warmup_map, score_against_lr

__all__ = [
    "equivalence",
    "headroom",
    "loss_curves",
    "lr_warmup_map",
    "metric_curves",
    "score_against_lr",
    "stability_limit",
]
