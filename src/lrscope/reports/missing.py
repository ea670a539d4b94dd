"""What it cost, and what a report would show but cannot."""

from __future__ import annotations

from lrscope.reports.numbers import count, listing, plural
from lrscope.reports.outcome import LONG, in_words, quantity, stopped_at, watched
from lrscope.reports.story import Story


def cost_sentence(story: Story) -> str | None:
    """What planning cost, in gradient evaluations and in full runs."""
    if story.plan is not None:
        work = count(story.plan.cost.in_gradients())
        share = story.plan.share
        runs = f"{share:.2g} full run" if share <= 1 else f"{share:.3g} full runs"
        seconds = story.plan.cost.seconds
        clock = f", {duration(seconds)} on this machine" if seconds >= 1 else ""
        return f"Planning cost {work} gradient evaluations = {runs}{clock}."
    spent = [row.get("gradients") or row.get("horizon") or 0 for row in story.trials.rows()]
    if not spent:
        return None
    runs = f" = {sum(spent) / story.steps:.2g} full runs" if story.steps else ""
    return f"The {plural(len(spent), 'trial')} done so far cost {count(sum(spent))} gradient evaluations{runs}."


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f}\u202fs"
    if seconds < 5400:
        return f"{seconds / 60:.0f}\u202fmin"
    return f"{seconds / 3600:.1f}\u202fh"


def missing(story: Story) -> list[str]:
    """One plain sentence for everything that the report would show but could not."""
    found = list(story.unreadable)
    if story.plan is None and len(story.trials):
        found.append(
            f"Planning did not finish: there is no plan yet, only the {plural(len(story.trials), 'trial')} done so "
            "far. Running the same command again continues where it stopped."
        )
    elif any(watched(run) for run in story.runs.values()):
        found.append("There is no plan here: a training loop was watched.")
    elif story.plan is None and not any(text.startswith("plan.json") for text in story.unreadable):
        found.append("There is no plan in this directory: only training was asked for.")
    elif story.plan is not None and not len(story.trials):
        found.append("The plan holds no trials, so there is no evidence for the peak and the warmup.")
    found += _missing_runs(story)
    return found


def _missing_runs(story: Story) -> list[str]:
    if not story.runs:
        return ["No full run was trained, so nothing is said about how the plan turned out."]
    found = []
    if "planned" not in story.runs:
        found.append("The planned schedule was not run in full.")
    absent = [LONG[name] for name in ("default", "cosine") if name not in story.runs]
    if absent and story.plan is not None:
        found.append(f"Not run for comparison: {listing(absent)}.")
    for name, run in story.shown.items():
        if run.status == "interrupted":
            total = run.config.get("steps")
            whole = f" of {count(total)}" if total else ""
            label = LONG.get(name, name)
            what = f"The run of {label}" if name in LONG and name != "run" else label.capitalize()
            at = f"after {plural(stopped_at(run), 'update')}" if watched(run) else f"at step {count(stopped_at(run))}"
            found.append(f"{what} has no end: it was interrupted, or is still going, {at}{whole}.")
    if quantity(story.runs) == "loss":
        found.append(
            f"There is no evaluation set: the {in_words('loss')} judges, and says nothing of generalisation."
        )
    main = story.main
    if main is not None and "stable_lr" not in main.columns:
        found.append("Curvature was not measured during the run, so its stability limit is unknown.")
    return found
