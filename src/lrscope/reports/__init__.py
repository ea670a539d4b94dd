"""Reports from records: ``write_report`` turns a run directory into one HTML file; ``figures`` draws its parts.

Names are loaded on first use, so importing this package imports no matplotlib.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lrscope.reports.figures import (
        equivalence,
        headroom,
        loss_curves,
        lr_warmup_map,
        metric_curves,
        score_against_lr,
        stability_limit,
    )
    from lrscope.reports.story import Story, load
    from lrscope.reports.write import write_report

_HOME = {
    "Story": "story",
    "equivalence": "figures",
    "headroom": "figures",
    "load": "story",
    "loss_curves": "figures",
    "lr_warmup_map": "figures",
    "metric_curves": "figures",
    "score_against_lr": "figures",
    "stability_limit": "figures",
    "write_report": "write",
}

__all__ = [
    "Story",
    "equivalence",
    "headroom",
    "load",
    "loss_curves",
    "lr_warmup_map",
    "metric_curves",
    "score_against_lr",
    "stability_limit",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"lrscope.reports.{_HOME[name]}"), name)
    raise AttributeError(f"module 'lrscope.reports' has no attribute {name!r}")


def __dir__() -> list[str]:
    return list(__all__)
