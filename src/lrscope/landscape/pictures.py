"""Figures of landscapes; matplotlib is imported when one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lrscope.errors import MissingExtraError

if TYPE_CHECKING:
    from lrscope.landscape.profile import Profile

NAMES = {
    "train_loss": "training loss",
    "test_loss": "test loss",
    "train_error": "training error",
    "test_error": "test error",
}


def axes(ax: Any = None) -> Any:
    """The axes given, or new ones."""
    if ax is not None:
        return ax
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise MissingExtraError("plot: matplotlib is not installed; pip install matplotlib") from error
    return pyplot.subplots(figsize=(5.2, 3.6), layout="constrained")[1]


def draw_profile(profile: Profile, ax: Any, *, of: str, label: str | None, **line: Any) -> Any:
    values = profile[of]
    ax = axes(ax)
    ax.plot(profile.t, values, label=label, **line)
    ax.set_xlabel("place on the path, t")
    ax.set_ylabel(NAMES.get(of, of.replace("_", " ")))
    if label is not None:
        ax.legend(frameon=False)
    return ax
