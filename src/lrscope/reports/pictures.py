"""Which figures a report shows, what each one says, and how it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lrscope.records import Plan, Run, Table
from lrscope.reports import figures, sentences, verdicts
from lrscope.reports.numbers import capital, count, listing, loss, lr, percent, plural
from lrscope.reports.outcome import Outcome, adaptive, in_words, metrics, readings, short, stopped_at
from lrscope.reports.story import Story
from lrscope.reports.svg import render
from lrscope.reports.trials import best, cells, horizons, warmup_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE, NARROW = 760, 340  # CSS pixels of the two drawings of every figure


@dataclass(frozen=True)
class Picture:
    """A figure drawn for a wide and for a narrow screen.

    Attributes:
        key: Unique on the page.
        section: Where it belongs: "outcome", "stability" or "trials".
        takeaway: What it shows, as a sentence.
        how: How to read it.
    """

    key: str
    section: str
    takeaway: str
    how: str
    wide: str
    narrow: str


def pictures(story: Story) -> list[Picture]:
    return [*_outcome(story), *_stability(story), *_trials(story)]


def _outcome(story: Story) -> Iterator[Picture]:
    runs = {name: run for name, run in story.shown.items() if "loss" in run.columns}
    if not runs:
        return
    one = partial(_single, draw=partial(figures.loss_curves, runs))
    yield _picture(
        "loss",
        "outcome",
        _loss_takeaway(story),
        _how_loss(runs),
        one,
        (370, 300),
    )
    names = list(dict.fromkeys(m for run in runs.values() for m in metrics(run)))
    for number, metric in enumerate(names[:4]):
        ends = [f"{short(n)} {loss(r.final(metric))}{_stopped(r)}" for n, r in runs.items() if metric in r.columns]
        yield _picture(
            f"metric{number}",
            "outcome",
            f"{in_words(metric).capitalize()} at the end: {listing(ends)}",
            f"{in_words(metric).capitalize()} on the evaluation set, where it was evaluated.",
            partial(_single, draw=partial(figures.metric_curves, runs, metric)),
            (250, 230),
        )


def _how_loss(runs: Mapping[str, Run]) -> str:
    text = "Line: training loss, averaged over a fiftieth of the run; faint: its raw values."
    if verdicts.quantity(runs) == "eval_loss":
        text += " Hollow points: evaluation loss; the number beside each name is the last one."
    if any(event.kind == "catapult" for run in runs.values() for event in run.events):
        text += " Triangles and grey bands: catapults, where the loss jumped and came back."
    if (others := [name for name in ("default", "cosine") if name in runs]) and len(runs) > 1:
        text += f" {capital(listing(others))}: untuned, at the optimizer's default learning rate."
    return text


def _stability(story: Story) -> Iterator[Picture]:
    run = story.main
    if run is None or "lr" not in run.columns or not (run["lr"].value > 0).any():
        return
    warmup = story.plan.warmup_steps if story.plan else None
    both = len(readings(run, "headroom")[0]) > 0
    yield _picture(
        "stability",
        "stability",
        _stability_takeaway(run),
        _how_stability(run, both),
        partial(_stacked, run=run, warmup=warmup, both=both),
        (450, 380) if both else (320, 260),
    )


def _how_stability(run: Run, both: bool) -> str:
    text = "Blue: the learning rate of the run."
    if "stable_lr" in run.columns:
        text += (
            " Line with points: the curvature limit, the largest learning rate that the curvature measured at that "
            "step allows; its band is the error of the measurement. In the tinted region steps overshoot the "
            "sharpest direction."
        )
    if adaptive(run) and "stable_lr" in run.columns and 0 in run["stable_lr"].step:
        text += (
            " Hollow: the reading at step 0, which is not counted; before Adam's first update the few coordinates "
            "with the smallest gradients decide it."
        )
    return text + (" Below: headroom, the learning rate divided by the limit." if both else "")


def _trials(story: Story) -> Iterator[Picture]:
    scored = cells(story.trials)
    if not scored:
        return
    lengths = horizons(story.trials)
    shapes = [
        (len({c.lr for c in scored if c.horizon == h}), len({c.warmup for c in scored if c.horizon == h}))
        for h in lengths
    ]
    across, up = sum(w for _, w in shapes), sum(r for r, _ in shapes)
    kind = next((k for k in story.trials.columns.get("score_kind", []) if k), "eval_loss")
    words = {"eval_loss": "evaluation loss", "train_loss": "training loss"}.get(kind, "score")
    yield _picture(
        "map",
        "trials",
        (sentences.reach_sentence(story.trials) or "").rstrip(".") or "Learning rate and warmup tried",
        f"One cell per peak learning rate and warmup, one panel per length of the short runs; the number is the "
        f"final {words} (mean over seeds), lower is better. Strong colour: within 1\u202f% of that panel's best; "
        "each paler tone: within 3, 10, 30, 100\u202f% and beyond. Hatched with ×: diverged, at that step. Bold: "
        "the best; ringed in blue: nearest to the plan. A dot: not tried at that length.",
        partial(_maps, trials=story.trials, plan=story.plan),
        (34 * across + 38 * len(lengths) + 34, 25 * up + 42 * len(lengths) + 24),
    )
    yield _picture(
        "peaks",
        "trials",
        _peak_takeaway(story.trials, lengths),
        f"Final {words} of the short runs against their peak learning rate, one line per warmup; vertical bars span "
        "the seeds, crosses on the upper edge diverged, the ring is the best of its panel."
        + (
            " Blue line: the plan's peak; shaded: out to half way to the nearest peak that was clearly worse."
            if story.plan
            else ""
        ),
        partial(_peaks, trials=story.trials, plan=story.plan),
        (320, 40 + 215 * min(len(lengths), 3)),
    )


Draw = Callable[..., object]


def _picture(key: str, section: str, takeaway: str, how: str, draw: Draw, heights: tuple[int, int]) -> Picture:
    def svg(width: int, height: int, compact: bool) -> str:
        name = f"{key}-{'narrow' if compact else 'wide'}"
        return render(partial(draw, compact=compact), name, width, height, compact=compact, alt=takeaway)

    return Picture(key, section, takeaway, how, svg(WIDE, heights[0], False), svg(NARROW, heights[1], True))


def _single(figure: Figure, *, draw: Draw, compact: bool) -> None:
    draw(figure.add_subplot(), compact=compact)


def _stacked(figure: Figure, *, run: Run, warmup: int | None, both: bool, compact: bool) -> None:
    if not both:
        figures.stability_limit(run, figure.add_subplot(), warmup_steps=warmup, compact=compact)
        return
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.4, 1))
    figures.stability_limit(run, upper, warmup_steps=warmup, compact=compact)
    figures.headroom(run, lower, warmup_steps=warmup, compact=compact)
    upper.set_xlabel("")
    upper.tick_params(labelbottom=False)


def _maps(figure: Figure, *, trials: Table, plan: Plan | None, compact: bool) -> None:
    lengths = horizons(trials)
    heights = [len({c.lr if compact else c.warmup for c in cells(trials, horizon)}) for horizon in lengths]
    every = figure.subplots(len(lengths), 1, squeeze=False, sharex=True, height_ratios=heights).ravel()
    for ax, horizon in zip(every, lengths, strict=True):
        figures.lr_warmup_map(trials, ax, horizon=horizon, plan=plan, transpose=compact)
        ax.set_title(plural(horizon, "step"))
        if compact:
            ax.set_ylabel("peak LR")
    every[-1].set_xlabel("warmup, share of the steps" if compact else "peak learning rate")


def _peaks(figure: Figure, *, trials: Table, plan: Plan | None, compact: bool) -> None:
    lengths = horizons(trials)[-3:]
    every = figure.subplots(*((len(lengths), 1) if compact else (1, len(lengths))), squeeze=False).ravel()
    for ax, horizon in zip(every, lengths, strict=True):
        figures.score_against_lr(trials, ax, horizon=horizon, plan=plan, compact=compact)
        if compact and ax is not every[-1]:
            ax.set_xlabel("")
    for ax in every if compact else every[:1]:
        ax.set_ylabel("final loss")
    _warmup_key(figure, trials)


def _warmup_key(figure: Figure, trials: Table) -> None:
    from matplotlib.lines import Line2D

    from lrscope.reports.figures.style import WARMUP_MARKERS, colour, of_warmup

    warmups = sorted({c.warmup for c in cells(trials)})
    lines = [
        Line2D([], [], color=of_warmup(i), marker=WARMUP_MARKERS[i % 4], ms=5, lw=1.6, label=warmup_name(w))
        for i, w in enumerate(warmups)
    ]
    figure.legend(
        handles=lines, loc="outside upper center", ncols=len(lines), frameon=False, labelcolor=colour("ink"),
        handlelength=1.6, columnspacing=1.2, borderpad=0,
    )  # fmt: skip


def _loss_takeaway(story: Story) -> str:
    rows = verdicts.outcomes(story.shown)
    done = sorted((row for row in rows if row.comparable), key=lambda row: row.final)
    failed = [row for row in rows if row.status == "diverged"]
    if failed:
        return capital(listing([_failure(row) for row in failed]))
    if len(done) < 2:
        column = in_words(verdicts.quantity(story.shown))
        return f"{capital(column)}: {listing([f'{loss(row.final)} ({short(row.name)})' for row in rows])}"
    rest = listing([f"{loss(row.final)} ({short(row.name)})" for row in done[1:]])
    if loss(done[0].final) == loss(done[-1].final):
        return f"All runs ended at {loss(done[0].final)}"
    words = {"planned": "The plan"}.get(done[0].name, short(done[0].name).capitalize())
    return f"{words} ended lowest: {loss(done[0].final)}, against {rest}"


def _failure(row: Outcome) -> str:
    at = f"step {count(row.stopped or 0)}"
    if row.unjudged:
        return f"the evaluation loss of {short(row.name)} was {row.unjudged} after {at}"
    return f"{short(row.name)} diverged at {at}"


def _stability_takeaway(run: Run) -> str:
    value = readings(run, "headroom")[1]
    if not len(value):
        return "The learning rate of the run; its curvature limit was not measured"
    within = float((value <= 1).mean())
    if within == 1:
        return "The learning rate stayed within the curvature limit throughout"
    return f"The learning rate was within the curvature limit in {percent(within)} of the measurements"


def _stopped(run: Run) -> str:
    return f" (stopped at step {count(stopped_at(run))})" if run.status == "interrupted" else ""


def _peak_takeaway(trials: Table, lengths: list[int]) -> str:
    found = [(h, best(cells(trials, h))) for h in (lengths[0], lengths[-1])]
    (short_h, first), (long_h, last) = found
    if first is None or last is None:
        return "Score against peak learning rate"
    if short_h == long_h:
        return f"The best peak at {plural(long_h, 'step')} was {lr(last.lr)}"
    if abs(first.lr / last.lr - 1) < 0.05:
        return f"The best peak stayed at {lr(last.lr)} from {count(short_h)} to {plural(long_h, 'step')}"
    return f"The best peak moved from {lr(first.lr)} at {plural(short_h, 'step')} to {lr(last.lr)} at {count(long_h)}"
