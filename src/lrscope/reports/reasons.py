"""Why this peak and this warmup: what the trials beside the chosen one gave."""

from __future__ import annotations

from dataclasses import dataclass

from lrscope.records import Plan
from lrscope.reports.numbers import listing, lr, plural
from lrscope.reports.outcome import apart, gap
from lrscope.reports.trials import (
    Cell,
    best,
    best_per_warmup,
    cells,
    horizons,
    largest_trained,
    seed_spread,
    warmup_name,
)

SAME = 0.01  # the planner's own measure: scores within one per cent are not told apart,
LARGE = 0.05  # and those five per cent apart are, whatever the seeds say


@dataclass(frozen=True)
class PeakEvidence:
    """What was tried around a plan's peak with the same warmup.

    Attributes:
        chosen: The plan's own cell at the longest horizon that tried it; ``None`` without such a trial.
        equals: Cells of the same horizon inside the plan's interval, the chosen one among them.
        neighbours: For the nearest peaks below and above that are no equals: the cell, and the chosen one's at the
            longest horizon that tried both.
    """

    chosen: Cell | None
    equals: tuple[Cell, ...] = ()
    neighbours: tuple[tuple[Cell, Cell], ...] = ()

    @property
    def tie(self) -> bool:
        return len(self.equals) > 1


def peak_evidence(plan: Plan) -> PeakEvidence:
    """What the trials say of the peaks around the plan's, over those with its warmup."""
    every = [cell for cell in cells(plan.trials) if _like(cell.warmup, plan)]
    mine = {cell.horizon: cell for cell in every if _same_lr(cell.lr, plan.peak_lr)}
    if not mine:
        return PeakEvidence(None)
    chosen = mine[max(mine)]
    equals = [
        cell
        for cell in every
        if cell.horizon == chosen.horizon
        and (cell is chosen or (plan.peak_low <= cell.lr <= plan.peak_high and _close(cell, chosen)))
    ]
    rates = [cell.lr for cell in equals]
    below = [c for c in every if c.lr < min(rates) and c.horizon in mine]
    above = [c for c in every if c.lr > max(rates) and c.horizon in mine]
    nearest = [max(below, key=lambda c: (c.lr, c.horizon))] if below else []
    nearest += [min(above, key=lambda c: (c.lr, -c.horizon))] if above else []
    return PeakEvidence(chosen, tuple(equals), tuple((cell, mine[cell.horizon]) for cell in nearest))


def peak_note(plan: Plan) -> str:
    """The peaks beside the chosen one, in a few words."""
    found = peak_evidence(plan)
    others = [lr(cell.lr) for cell in found.equals if cell is not found.chosen]
    if others:
        return f"not clearly better than {listing(others, 'or')}"
    if found.neighbours:
        return f"next tried: {listing([lr(cell.lr) for cell, _ in found.neighbours])}"
    return f"{lr(plan.peak_low)} – {lr(plan.peak_high)}" if plan.peak_low < plan.peak_high else "the only one tried"


def peak_reason(found: PeakEvidence, plan: Plan) -> str:
    """What follows the peak in a sentence: a tie of several that were tried, or one with worse neighbours."""
    chosen = found.chosen
    if chosen is None or chosen.score is None:
        if plan.peak_low < plan.peak_high:
            return f"; between {lr(plan.peak_low)} and {lr(plan.peak_high)} nothing better is known"
        return ""
    beside = _beside(found)
    if found.tie:
        scores = [c.score for c in found.equals if c.score is not None]
        names = listing([lr(cell.lr) for cell in found.equals])
        width = gap(max(scores), min(scores))
        each = "either" if len(scores) == 2 else "each"
        text = f": {names} ended within {width} of each other in runs of {_steps(chosen)}, so {each} is a fair choice"
        return f"{text}; {beside}" if beside else text
    text = f", {_rank(chosen, plan)}"
    return f"{text}; {beside} (nothing between was tried)" if beside else f"{text}; no other had this warmup"


def _rank(chosen: Cell, plan: Plan) -> str:
    top = best(cells(plan.trials, chosen.horizon))
    if top is not None and top.score is not None and chosen.score is not None and not _same_lr(top.lr, chosen.lr):
        apart_by = gap(chosen.score, top.score)
        other = f"{lr(top.lr)} with {warmup_name(top.warmup)} ended {apart_by} lower in runs of {_steps(chosen)}"
        equal = abs(apart(chosen.score, top.score)) <= SAME
        return f"the lower of equals ({other})" if equal else f"although {other}"
    return f"the best of the peaks tried in runs of {_steps(chosen)}"


def _beside(found: PeakEvidence) -> str:
    """The neighbours: "next to it 0.009 ended 6 % worse and 0.037 13 % worse in runs of 186 steps"."""
    if not found.neighbours:
        return ""
    parts, before = [], ""
    for i, (cell, ours) in enumerate(found.neighbours):
        steps = _steps(cell)
        again = i + 1 < len(found.neighbours) and _steps(found.neighbours[i + 1][0]) == steps
        fate = _fate(cell, ours)
        verb = "" if before.startswith("ended") and fate.startswith("ended") else "ended "
        parts.append(f"{lr(cell.lr)} {fate.replace('ended ', verb)}" + ("" if again else f" in runs of {steps}"))
        before = fate
    return f"next to {'them' if found.tie else 'it'}, {listing(parts)}"


def _fate(cell: Cell, ours: Cell) -> str:
    if cell.diverged or cell.score is None or ours.score is None:
        return "diverged"
    side = "worse" if cell.score > ours.score else "better"
    return f"ended {gap(cell.score, ours.score)} {side}" if cell.score != ours.score else "ended the same"


def warmup_reason(plan: Plan) -> str:
    """Why this warmup: what the same trials gave with the others, and whether that is a difference."""
    for horizon in reversed(horizons(plan.trials)):
        winners = best_per_warmup(cells(plan.trials, horizon))
        ours = next((cell for w, cell in winners.items() if _like(w, plan)), None)
        if ours is not None and len(winners) > 1:
            others = [cell for cell in winners.values() if cell is not ours]
            return _against(plan, ours, others) + _reach(plan)
    return "the only length tried, so the trials do not say whether another is better"


def _against(plan: Plan, ours: Cell, others: list[Cell]) -> str:
    noise = max(seed_spread(plan.trials) or 0.0, SAME)
    score = ours.score or 0.0
    where = f"in trials of {_steps(ours)}"
    ordered = sorted(others, key=lambda cell: cell.score or 0.0)
    first = ordered[0]
    if apart(score, first.score or 0.0) > noise:
        return f"although {where} {warmup_name(first.warmup)} ended {gap(score, first.score or 0.0)} lower"
    same = [cell for cell in ordered if abs(apart(cell.score or 0.0, score)) <= noise]
    if not same:
        return f"because {where} it ended {gap(score, first.score or 0.0)} below {warmup_name(first.warmup)}"
    names = [warmup_name(cell.warmup) for cell in same]
    widths = listing([gap(cell.score or 0.0, score) for cell in same])
    text = f"though {where} {listing(names)} scored the same ({widths} apart, within the noise)"
    lower = all(ours.lr < cell.lr and not _same_lr(ours.lr, cell.lr) for cell in same)
    return f"{text}; of equals the one with the lowest peak is taken" if lower else text


def _reach(plan: Plan) -> str:
    reached = largest_trained(cells(plan.trials, horizons(plan.trials)[0]))
    ours = next((w for w in reached if w > 0 and _like(w, plan)), None)
    if ours is None or 0.0 not in reached or reached[ours] <= 1.2 * reached[0.0]:
        return ""
    return f"; warmup raised the largest peak that trained from {lr(reached[0.0])} to {lr(reached[ours])}"


def _like(warmup: float, plan: Plan) -> bool:
    """Whether a trial had the plan's warmup: rounded to whole steps, one step of warmup being none."""
    share = plan.warmup_frac if plan.warmup_steps > 1 else 0.0
    return warmup == share or (warmup > 0 and abs(warmup - share) <= 0.1 * share + 0.005)


def _same_lr(one: float, other: float) -> bool:
    return abs(one / other - 1) < 1e-3 if other else one == other


def _close(cell: Cell, chosen: Cell) -> bool:
    if cell.score is None or chosen.score is None:
        return False
    return apart(cell.score, chosen.score) <= LARGE


def _steps(cell: Cell) -> str:
    return plural(cell.horizon, "step")
