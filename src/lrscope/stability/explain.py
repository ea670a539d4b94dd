"""What happened in a run, in sentences that name what was seen before what it is called."""

from __future__ import annotations

from lrscope.records import Run
from lrscope.stability.catapult import find_catapults
from lrscope.stability.edge import edge_of_stability
from lrscope.stability.regime import run_regime
from lrscope.stability.sharpening import natural_sharpening

_MOST = 3


def explain(run: Run, *, steps_per_epoch: int | None = None) -> list[str]:
    """Sentences about catapults, the edge of stability, the way of the sharpness and the regime of ``run``.

    What was not recorded is not spoken of: catapults need ``loss``, the next two ``sharpness`` and ``headroom``.

    Args:
        run: A record, also one that is still growing.
        steps_per_epoch: Updates per epoch; with it the regime is told as far as losses can tell it.

    Returns:
        Sentences without a full stop, the most telling first; empty where nothing can be said.
    """
    said: list[str] = []
    jumps = sorted((c for c in find_catapults(run)), key=lambda c: -c.ratio)
    if jumps:
        said += [str(c) for c in jumps[:_MOST]]
        if len(jumps) > _MOST:
            said.append(f"and {len(jumps) - _MOST} smaller jumps of the loss, by x{jumps[_MOST].ratio:.2g} at most")
    if "headroom" in run.columns:
        readings = [row for row in run.rows if row.get("headroom") is not None and row.get("lr_used") is None]
        if readings and (edge := edge_of_stability(run)).since is not None:
            said.append(str(edge))
        if "sharpness" in run.columns:
            said.append(str(natural_sharpening(run)))
    if steps_per_epoch is not None and "loss" in run.columns:
        said.append(str(run_regime(run, steps_per_epoch)))
    return said
